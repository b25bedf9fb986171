"""Tasks for lm-evaluation-harness: our benchmarks, extraction and grading, for `lm_eval --include_path`."""
