"""What a stage shows while it runs and when it is done."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeElapsedColumn
from rich.progress import Progress as Bars
from rich.table import Table

from training.terminal import Terminal


@dataclass(frozen=True, slots=True)
class Progress(Terminal):
    """Bars go to standard error, the funnel to standard output."""

    @contextlib.contextmanager
    def bar(self, title: str, total: int) -> Iterator[Iterator[None]]:
        """`next` on the yielded iterator advances the bar by one; it never ends."""
        columns = (
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
        )
        with Bars(*columns, console=self.errors) as bars:
            task = bars.add_task(title, total=total)

            def advance() -> Iterator[None]:
                while True:
                    bars.advance(task)
                    yield

            yield advance()

    def funnel(self, steps: Sequence[Mapping[str, Any]]) -> None:
        table = Table(show_edge=False, pad_edge=False)
        table.add_column("stage")
        for name in ("in", "dropped", "kept"):
            table.add_column(name, justify="right")
        for step in steps:
            dropped = step["in"] - step["kept"]
            table.add_row(step["stage"], f"{step['in']:,}", f"{dropped:,}", f"{step['kept']:,}")
            for reason, count in step["drops"].items():
                table.add_row(f"  {reason}", "", f"{count:,}", "", style="dim")
        self.console.print(table)
