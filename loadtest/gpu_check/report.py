"""The check's results for people (a table, Markdown) and for machines (JSON)."""

from __future__ import annotations

import json
import shlex
import sys
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from statistics import median
from typing import Any

from loadtest.gpu_check.machine import Gpu
from loadtest.gpu_check.options import Options
from loadtest.gpu_check.overhead import ARMS, CONTROLS, ratio
from loadtest.gpu_check.result import Check, PartResult, Speed

_ROOT = Path(__file__).parents[2]


@dataclass(frozen=True, slots=True)
class Report:
    """Everything that one run of the check found."""

    options: Options
    gpu: Gpu | None
    versions: dict[str, str]
    started_at: datetime
    seconds: float
    parts: dict[str, PartResult]

    @property
    def checks(self) -> list[Check]:
        return [check for part in self.parts.values() for check in part.checks]

    @property
    def speeds(self) -> list[Speed]:
        return [speed for part in self.parts.values() for speed in part.speeds]

    @property
    def passed(self) -> bool:
        """All checks held, and there were some. Ratios are results, not checks."""
        return bool(self.checks) and all(check.passed for check in self.checks)

    def as_json(self) -> dict[str, Any]:
        return {
            "started_at": self.started_at.astimezone(UTC).isoformat(timespec="seconds"),
            "seconds": round(self.seconds, 1),
            "passed": self.passed,
            "device": "cpu" if self.gpu is None else self.gpu.name,
            "driver": None if self.gpu is None else self.gpu.driver,
            "versions": self.versions,
            "command": self._command(),
            "options": json.loads(self.options.to_json()),
            "parts": {
                name: part.as_json() | {"commands": [_portable(command) for command in part.commands]}
                for name, part in self.parts.items()
            },
        }

    def table(self) -> str:
        """For the terminal: checks first, then throughput."""
        lines = [f"{'pass' if c.passed else 'FAIL'}  {c.name}: {c.detail}" for c in self.checks]
        for shape in _ordered(s.shape for s in self.speeds):
            lines += ["", f"{shape}: output tokens/s, and relative to no plugin"]
            rows = [["arm", *(f"batch {b}" for b in self._batches(shape))], *self._speed_rows(shape)]
            widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
            lines += ["  ".join(cell.ljust(w) for cell, w in zip(row, widths, strict=True)) for row in rows]
        lines += ["", *self._notes()]
        return "\n".join(lines)

    def markdown(self) -> str:
        facts = [
            ("date", self.started_at.astimezone(UTC).strftime("%Y-%m-%d %H:%M UTC")),
            ("device", "a CPU" if self.gpu is None else f"{self.gpu.name}, driver {self.gpu.driver}"),
            ("versions", ", ".join(f"{name} {version}" for name, version in self.versions.items())),
            ("took", f"{self.seconds:.0f} s"),
        ]
        lines = ["# Budget forcing: proof and price on this machine", ""]
        lines += [f"- {name}: {value}" for name, value in facts]
        lines += ["", "```", self._command(), "```", "", "## Checks", "", "| | check | |", "|---|---|---|"]
        lines += [
            f"| {'pass' if c.passed else '**FAIL**'} | {c.name} | {_cell(c.detail)} |" for c in self.checks
        ]
        for shape in _ordered(s.shape for s in self.speeds):
            lines += self._shape_section(shape)
        notes = self._notes()
        lines += ["", "## Notes", "", *(f"- {note}" for note in notes)] if notes else []
        lines += ["", "## Engines", "", "```", *self._commands(), "```", ""]
        return "\n".join(lines)

    def _shape_section(self, shape: str) -> list[str]:
        batches = self._batches(shape)
        lines = ["", f"## Overhead: {shape}, weights of random numbers", ""]
        lines += [
            "Output tokens/s: median of all rounds, [least, most], and the median relative to that of the "
            "arm's control.",
            "",
        ]
        lines += [
            "| arm | " + " | ".join(f"batch {b}" for b in batches) + " |",
            "|---|" + "---|" * len(batches),
        ]
        lines += ["| " + " | ".join(row) + " |" for row in self._speed_rows(shape)]
        lines += ["", *(f"- *{name}*: {meaning}{_compared(name)}" for name, meaning in ARMS.items())]
        return lines

    def _speed_rows(self, shape: str) -> list[list[str]]:
        rows = []
        for arm in ARMS:
            of_arm = {s.batch: s for s in self.speeds if s.shape == shape and s.arm == arm}
            if of_arm:
                rows.append([arm, *(self._speed_cell(of_arm.get(b), shape) for b in self._batches(shape))])
        return rows

    def _speed_cell(self, speed: Speed | None, shape: str) -> str:
        if speed is None:
            return "–"
        values = speed.tokens_per_s
        control = CONTROLS.get(speed.arm, "")
        relative = ratio(self.speeds, speed.arm, control, shape=shape, batch=speed.batch)
        text = f"{median(values):,.0f} [{min(values):,.0f}, {max(values):,.0f}]"
        return text if relative is None else f"{text} {relative:.3f}"

    def _batches(self, shape: str) -> list[int]:
        return sorted({s.batch for s in self.speeds if s.shape == shape})

    def _notes(self) -> list[str]:
        rounds = {len(s.tokens_per_s) for s in self.speeds}
        measured = [f"{min(rounds)} to {max(rounds)} rounds per arm and batch size."] if rounds else []
        return measured + [note for part in self.parts.values() for note in part.notes]

    def _commands(self) -> list[str]:
        return [_portable(command) for part in self.parts.values() for command in part.commands]

    def _command(self) -> str:
        o = self.options
        words = ["loadtest/gpu_check.sh", o.model, o.out, "--device", o.device, "--parts", ",".join(o.parts)]
        words += ["--requests", str(o.requests), "--dtype", o.dtype, "--shapes", ",".join(o.shapes)]
        words += ["--batches", ",".join(map(str, o.batches)), "--tokens", str(o.tokens)]
        words += ["--rounds", str(o.rounds), "--runner", o.runner, "--limit-s", f"{o.limit_s:g}"]
        return _portable(shlex.join(words))


def _portable(command: str) -> str:
    """Without what is only this machine's: where the repository and the interpreter lie."""
    return command.replace(f"{_ROOT}/", "").replace(sys.executable, "python3")


def _compared(arm: str) -> str:
    return f"; compared with *{CONTROLS[arm]}*" if arm in CONTROLS else ""


def _ordered(names: Iterable[str]) -> Sequence[str]:
    return list(dict.fromkeys(names))


def _cell(text: str) -> str:
    return text.replace("|", "\\|").replace("\n", " ")
