"""A client's connection, and the process's end: what stands around every route."""
