"""How often Python looks for garbage in cycles, for a process that serves."""

from __future__ import annotations

import gc

_THRESHOLDS = (20_000, 20, 50)
"""Python's own are (700 or 2,000, 10, 10). A request leaves few cycles and makes thousands of objects: each
full look walks the whole heap, in the middle of somebody's token."""


def rarely_collect_garbage() -> None:
    """Leave what the start has made alone for good, and look for cycles in the rest a tenth as often."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(*_THRESHOLDS)
