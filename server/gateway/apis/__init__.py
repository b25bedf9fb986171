"""The APIs other than chat completions, and what all of them share: bodies, forms, errors."""
