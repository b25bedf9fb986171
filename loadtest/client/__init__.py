"""`s1 loadtest`: an open- or closed-loop load of any OpenAI-compatible server, with thinking told apart."""
