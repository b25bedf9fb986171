"""Is an answer right? One grader for curation, traces and evaluation (docs/evaluation.md)."""
