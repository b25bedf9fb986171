"""What runs inside vLLM: the budget in the sampler, the reasoning parser, receipts; and how it is launched."""
