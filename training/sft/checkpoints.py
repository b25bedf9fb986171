"""Checkpoints that are whole: each gets a mark when all of its files are written, and only those are resumed.

A run may be killed at any moment, also while it writes. What has no mark, or lacks a file that the mark
lists, is thrown away at the next start.
"""

import json
import os
import shutil
from pathlib import Path

_MARK = "complete.json"
_PREFIX = "checkpoint-"


def mark_complete(checkpoint: Path) -> None:
    """Lists every file with its size; the mark itself appears at once or not at all."""
    sizes = _sizes(checkpoint)
    partial = checkpoint / f"{_MARK}.partial"
    with partial.open("w") as file:
        json.dump(sizes, file)
        file.flush()
        os.fsync(file.fileno())
    partial.replace(checkpoint / _MARK)


def is_complete(checkpoint: Path) -> bool:
    mark = checkpoint / _MARK
    if not mark.is_file():
        return False
    sizes = _sizes(checkpoint)
    return all(sizes.get(name) == size for name, size in json.loads(mark.read_text()).items())


def latest_complete(folder: Path) -> Path | None:
    whole = [checkpoint for checkpoint in _all(folder) if is_complete(checkpoint)]
    return whole[-1] if whole else None


def discard_incomplete(folder: Path) -> list[str]:
    """Deletes what a killed run left half-written; returns the names."""
    broken = [checkpoint for checkpoint in _all(folder) if not is_complete(checkpoint)]
    for checkpoint in broken:
        shutil.rmtree(checkpoint)
    return [checkpoint.name for checkpoint in broken]


def keep_latest(folder: Path, count: int) -> None:
    """Deletes all but the newest ``count`` whole checkpoints."""
    whole = [checkpoint for checkpoint in _all(folder) if is_complete(checkpoint)]
    for checkpoint in whole[:-count]:
        (checkpoint / _MARK).unlink()  # first: half a checkpoint must not look whole
        shutil.rmtree(checkpoint)


def step_of(checkpoint: Path) -> int:
    return int(checkpoint.name.removeprefix(_PREFIX))


def _all(folder: Path) -> list[Path]:
    found = [
        path
        for path in folder.glob(f"{_PREFIX}*")
        if path.is_dir() and path.name.removeprefix(_PREFIX).isdigit()
    ]
    return sorted(found, key=step_of)


def _sizes(checkpoint: Path) -> dict[str, int]:
    return {
        str(path.relative_to(checkpoint)): path.stat().st_size
        for path in sorted(checkpoint.rglob("*"))
        if path.is_file() and not path.name.startswith(_MARK)
    }
