"""The commands of `s1` beside `serve` and `engine`, a module each, and what commands share."""
