"""The demo checkpoint: questions, traces, tokenizer, data selection and the two training stages."""
