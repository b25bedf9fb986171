"""Launches of Triton kernels that take no longer than the kernels.

Triton's own front looks at every argument and compares every constant that a kernel uses at each launch: 40
microseconds of the host's time for a kernel of ours, which runs for two. So a kernel goes through it once for
each kind of arguments, and what was compiled then is launched directly.
"""

from __future__ import annotations

from collections.abc import Hashable
from typing import Any

import torch

Grid = tuple[int, int, int]


class Launches:
    """One kernel's. Its constants are its last parameters."""

    def __init__(self, kernel: Any, *constants: Any, num_warps: int = 4) -> None:
        self._kernel = kernel
        self._constants = constants
        self._num_warps = num_warps
        self._compiled: dict[Hashable, Any] = {}

    def __call__(self, grid: Grid, *arguments: Any, kind: Hashable) -> None:
        """Launch on the current stream.

        Args:
            kind: tells apart all that Triton compiles apart: types, alignment where the kernel does not
                disclaim it. Arguments that are the same at every launch need not be in it.
        """
        compiled = self._compiled.get(kind)
        if compiled is not None:
            compiled[grid](*arguments, *self._constants)
            return
        # None in Triton's interpreter.
        self._compiled[kind] = self._kernel[grid](*arguments, *self._constants, num_warps=self._num_warps)


def aligned(tensor: torch.Tensor) -> bool:
    """Whether Triton may load 16 bytes at once from its beginning."""
    return tensor.data_ptr() % 16 == 0
