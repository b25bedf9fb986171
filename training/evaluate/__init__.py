"""Accuracy against thinking tokens, measured on held-out questions over an OpenAI-compatible API."""
