"""Requests under way that are told something, and completions that think on."""
