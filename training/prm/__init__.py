"""A process-reward model for the demo checkpoint: is each step of a line of thought still right?"""
