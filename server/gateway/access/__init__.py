"""Who may ask for how much: keys, callers, quotas and what is counted against them."""
