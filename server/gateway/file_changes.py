"""Noticing that a file has changed."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import structlog

log = structlog.get_logger(__name__)

LOOK_INTERVAL_S = 2.0

Signature = tuple[int, int, int]


def file_signature(path: Path) -> Signature | None:
    """Another one whenever the file was changed or replaced; None if it isn't there."""
    try:
        status = path.stat()
    except OSError:
        return None
    return status.st_mtime_ns, status.st_size, status.st_ino


@contextlib.asynccontextmanager
async def following(path: Path, changed: Callable[[], object]) -> AsyncIterator[None]:
    """Meanwhile have `changed` called after every change of the file, once it is as it was at the last look:
    it may have been caught half-written.
    """
    task = asyncio.create_task(_follow(path, changed))
    try:
        yield
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


async def _follow(path: Path, changed: Callable[[], object]) -> None:
    told = seen = file_signature(path)
    while True:
        await asyncio.sleep(LOOK_INTERVAL_S)
        before, seen = seen, file_signature(path)
        if seen == before and seen != told and seen is not None:
            told = seen
            try:
                changed()
            except Exception:  # one file that can't be taken must not end the following
                log.exception("a changed file was not taken", path=str(path))
