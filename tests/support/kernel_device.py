"""Where the kernels' tests run: a CPU, in Triton's interpreter, unless `S1_TEST_DEVICE=cuda`."""

from __future__ import annotations

import os

NAME = os.environ.get("S1_TEST_DEVICE", "cpu")
ON_GPU = NAME.startswith("cuda")
