"""What runs inside vLLM (sampler, reasoning parser, receipts), and how it is launched."""
