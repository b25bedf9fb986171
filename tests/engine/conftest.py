"""Runs the Triton kernels in Triton's interpreter: it needs no GPU. `S1_TEST_DEVICE=cuda` runs them on one.

`TRITON_INTERPRET` is read when a kernel is defined, so it is set around this one import, with all of Triton
already loaded, and not left behind for the engines that other tests start. The kernels use none of
`triton.language`'s own kernels (`tl.sum`, `tl.zeros`, …), which are compiled ones by then.
"""

from __future__ import annotations

import contextlib
import os

import pytest

from tests.support.kernel_device import ON_GPU

with contextlib.suppress(ImportError):
    import triton.experimental.gluon  # noqa: F401

    with pytest.MonkeyPatch.context() as patch:
        if not ON_GPU:
            patch.setitem(os.environ, "TRITON_INTERPRET", "1")
        import server.engine.kernels  # noqa: F401
