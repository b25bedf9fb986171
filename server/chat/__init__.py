"""`s1 chat`: a conversation in the terminal, over HTTP."""
