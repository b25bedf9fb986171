"""Parallel scaling: several branches of one request share a thinking budget and give one answer."""
