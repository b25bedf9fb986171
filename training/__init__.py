"""The pipeline that builds and measures the checkpoints this server serves."""
