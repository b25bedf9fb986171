"""How long a run took, part by part: one that was stopped and went on is as long as its parts together."""

from __future__ import annotations

import contextlib
import json
import os
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

PARTS_FILE = "parts.jsonl"


@dataclass(frozen=True, slots=True)
class Part:
    """One start of the command. `load_before` is the machine's load average of the minute before it."""

    started_at: datetime
    began_s: float
    load_before: float

    def told(self) -> dict[str, Any]:
        """As it stands now; `load_averages` are those of one minute before and at the end."""
        return {
            "started_at": self.started_at.isoformat(timespec="seconds"),
            "seconds": round(time.monotonic() - self.began_s, 1),
            "load_averages": [round(self.load_before, 2), round(os.getloadavg()[0], 2)],
            "cores": os.cpu_count(),
        }


@contextlib.contextmanager
def recorded_part(folder: Path) -> Iterator[Part]:
    """Adds a line to the folder's parts.jsonl at the end, however it ends."""
    folder.mkdir(parents=True, exist_ok=True)
    part = Part(datetime.now(UTC), time.monotonic(), os.getloadavg()[0])
    try:
        yield part
    finally:
        with (folder / PARTS_FILE).open("a", encoding="utf-8") as lines:
            lines.write(json.dumps(part.told()) + "\n")


def recorded_parts(folder: Path) -> list[Mapping[str, Any]]:
    """Those that have ended, the oldest first."""
    file = folder / PARTS_FILE
    return [json.loads(line) for line in file.read_text("utf-8").splitlines()] if file.is_file() else []


def seconds_of(parts: Sequence[Mapping[str, Any]]) -> float:
    return float(round(sum(part["seconds"] for part in parts), 1))
