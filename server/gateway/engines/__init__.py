"""Which engines there are, what they are asked over HTTP, and which one a request goes to."""
