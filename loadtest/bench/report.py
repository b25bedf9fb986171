"""A benchmark's page: what was run, on what, and the tables; the numbers beside it as JSON."""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import date
from pathlib import Path
from typing import Any

from loadtest.client.provenance import machine, provenance

_CROWDED = 1.5
"""Load average per core at the start from which a page says that the machine was not quiet."""


def folder(results: Path | None, *, gpu: bool) -> Path:
    """Where a page goes: where it is told to, or with the results of its kind of machine."""
    if results is not None:
        return results
    return Path("docs/results") / (f"gpu-{date.today().isoformat()}" if gpu else "")


@dataclass(slots=True)
class Page:
    name: str
    """Of the files."""
    title: str
    lines: list[str] = field(default_factory=list)
    data: dict[str, Any] = field(default_factory=dict)
    origin: dict[str, Any] = field(default_factory=dict)

    @classmethod
    def begin(cls, name: str, title: str) -> Page:
        """Before anything is started: the machine's load is noted."""
        command = f"python -m loadtest.bench.{name} {' '.join(sys.argv[1:])}".strip()
        return cls(name, title, origin=provenance(command))

    def say(self, *paragraphs: str) -> None:
        self.lines += [f"{paragraph}\n" for paragraph in paragraphs]

    def table(self, head: Sequence[str], rows: Sequence[Sequence[object]]) -> None:
        cells = [[_shown(cell) for cell in row] for row in rows]
        lines = [f"| {' | '.join(row)} |" for row in [list(head), ["---"] * len(head), *cells]]
        self.lines.append("\n".join(lines) + "\n")

    def write(self, folder: Path) -> Path:
        folder.mkdir(parents=True, exist_ok=True)
        at, origin = folder / f"{self.name}.md", self.origin
        host = origin["machine"]
        commit, gpu = origin["commit"] or "no checkout", f", {host['gpu']}" if host["gpu"] else ""
        head = [
            f"# {self.title}\n",
            f"`{origin['command']}`, {origin['at']}, version {origin['version']} ({commit}), "
            f"Python {origin['python']}, {host['cores']} cores of {host['cpu']}, {host['system']}{gpu}.\n",
        ]
        if host["load_average"][0] > _CROWDED * host["cores"]:
            head.append(
                f"**The machine was not quiet** (load average {host['load_average'][0]:g} at the start): "
                "ratios of interleaved runs and CPU times say something, absolute rates little.\n"
            )
        at.write_text("\n".join([*head, *self.lines]))
        whole = {"provenance": origin, "machine_at_the_end": machine(), **self.data}
        at.with_suffix(".json").write_text(json.dumps(whole, indent=1) + "\n")
        return at


def _shown(cell: object) -> str:
    if cell is None:
        return "–"
    if isinstance(cell, float):
        return f"{cell:,.0f}" if abs(cell) >= 1000 else f"{cell:.3g}"
    if isinstance(cell, int) and not isinstance(cell, bool):
        return f"{cell:,}"
    if isinstance(cell, Mapping):
        return ", ".join(f"{name}: {value}" for name, value in cell.items()) or "none"
    return str(cell)
