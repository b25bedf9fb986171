"""Fine-tuning on reasoning traces: ``s1 sft``."""
