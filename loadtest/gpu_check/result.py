"""What a part leaves behind: checks that hold or do not, and measurements. Written anew after every step."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any


@dataclass(frozen=True, slots=True)
class Check:
    """One thing that had to hold."""

    name: str
    passed: bool
    detail: str


@dataclass(frozen=True, slots=True)
class Speed:
    """Output tokens per second of one arm at one batch size, a value per round."""

    shape: str
    arm: str
    batch: int
    tokens_per_s: tuple[float, ...]
    interleaved: bool


@dataclass(slots=True)
class PartResult:
    """Grows while the part runs, so that a part that is cut off keeps what it has."""

    path: Path
    checks: list[Check] = field(default_factory=list)
    speeds: list[Speed] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    commands: list[str] = field(default_factory=list)
    seconds: float = 0.0

    def check(self, name: str, passed: bool, detail: str) -> None:
        self.checks.append(Check(name, passed, detail))
        self.save()

    def save(self) -> None:
        partial = self.path.with_suffix(".partial")
        partial.write_text(json.dumps(self.as_json(), indent=1))
        partial.replace(self.path)

    def as_json(self) -> dict[str, Any]:
        return {
            "checks": [asdict(check) for check in self.checks],
            "speeds": [asdict(speed) for speed in self.speeds],
            "notes": self.notes,
            "commands": self.commands,
            "seconds": round(self.seconds, 1),
        }

    @classmethod
    def read(cls, path: Path) -> PartResult:
        """What a part has left at `path`; nothing, if it left nothing."""
        if not path.is_file():
            return cls(path)
        found = json.loads(path.read_text())
        return cls(
            path,
            checks=[Check(**check) for check in found["checks"]],
            speeds=[Speed(**{**s, "tokens_per_s": tuple(s["tokens_per_s"])}) for s in found["speeds"]],
            notes=found["notes"],
            commands=found["commands"],
            seconds=found["seconds"],
        )
