"""The HTTP front: policy, validation, routing and wire formats. Knows engines by their HTTP API only."""
