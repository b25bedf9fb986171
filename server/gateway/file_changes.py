"""Noticing that a file has changed."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import structlog

log = structlog.get_logger(__name__)

LOOK_INTERVAL_S = 2.0
RETRY_S = 10.0
"""A file that couldn't be read, or not be taken, is tried again after so long, though it hasn't changed."""

Signature = tuple[int, int, int, int]


def file_signature(path: Path) -> Signature | None:
    """Another one whenever the file was changed or replaced; None if it isn't there."""
    try:
        status = path.stat()
    except OSError:
        return None
    # The time of the change itself as well: what copies a file may give it an old time of modification.
    return status.st_mtime_ns, status.st_ctime_ns, status.st_size, status.st_ino


@contextlib.asynccontextmanager
async def following(path: Path, changed: Callable[[], bool]) -> AsyncIterator[None]:
    """Meanwhile have `changed` called after every change of the file, once it is as it was at the last look:
    it may have been caught half-written. It says whether the file was taken; if not, it is asked again.
    """
    task = asyncio.create_task(_follow(path, changed))
    try:
        yield
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


async def _follow(path: Path, changed: Callable[[], bool]) -> None:
    taken = seen = file_signature(path)
    not_before = 0.0
    while True:
        await asyncio.sleep(LOOK_INTERVAL_S)
        before, seen = seen, file_signature(path)
        if seen != before:
            not_before = 0.0
        elif seen is not None and seen != taken and time.monotonic() >= not_before:
            if _is_taken(path, changed):
                taken = seen
            else:
                not_before = time.monotonic() + RETRY_S


def _is_taken(path: Path, changed: Callable[[], bool]) -> bool:
    try:
        return changed()
    except Exception:  # one file that can't be taken must not end the following
        log.exception("a changed file was not taken", path=str(path))
        return False
