"""Proof and price of budget forcing on the machine it will run on: smoke, exactness, overhead, report.

`loadtest/gpu_check.sh MODEL_DIR [OUT_DIR]` runs it (docs/gpu.md). Parts run as processes of their own under
their own time limits; engines run as processes of the parts.
"""
