"""What s1-server costs and whether it keeps its promises, measured on engines that run."""
