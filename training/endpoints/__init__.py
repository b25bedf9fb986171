"""Models behind HTTP, as curation and traces ask them: cached on disk, bounded, retried."""
