"""A recipe's stages one after another, each in a folder of its own that is finished once and never half."""
