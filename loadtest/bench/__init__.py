"""Benchmarks, each one command that writes its page to docs/results: `python -m loadtest.bench.NAME`."""
