"""Several worker processes behind one port (docs/workers.md)."""
