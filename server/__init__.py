"""s1-server: an OpenAI-compatible server for reasoning models with exact thinking budgets."""

__version__ = "0.1.0"
