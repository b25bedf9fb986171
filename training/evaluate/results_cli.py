"""``s1 evaluate report`` and ``s1 evaluate recommend``: what a finished run says."""

from __future__ import annotations

import shlex
import sys
from pathlib import Path
from typing import Annotated

import typer
from rich.markup import escape
from rich.table import Table

from training.evaluate.sweep_cli import tell_warnings

Folder = Annotated[Path, typer.Argument(help="The folder of a finished `s1 evaluate run`.")]
OneBenchmark = Annotated[str | None, typer.Option("--benchmark", help="Which, if the run has several.")]
Margin = Annotated[float, typer.Option(min=0, help="Percentage points below the best that are acceptable.")]
Confidence = Annotated[float, typer.Option(min=0.5, max=0.999, help="How sure, as a share of resamples.")]
Price = Annotated[float | None, typer.Option(min=0, help="Of a million completion tokens, to tell costs.")]
PolicyFile = Annotated[
    Path | None, typer.Option("--out", dir_okay=False, help="Write a policy file for `s1 serve --policy`.")
]
PolicyModel = Annotated[
    str | None, typer.Option("--model", help="The model's name in the policy; the measured one if absent.")
]


def report(folder: Folder) -> None:
    """Draw a run's figures and write one HTML file that needs nothing else; print its metrics."""
    from training.curate.progress import Progress
    from training.curate.running import one_line_errors
    from training.evaluate.html_report import write_report
    from training.evaluate.summary import Measured, read_results

    def shown(measured: Measured) -> str:
        if measured.value is None:
            return "none"
        span = measured.interval
        return f"{measured.value:.1f}" + ("" if span is None else f" ({span.low:.1f} – {span.high:.1f})")

    progress = Progress()
    with one_line_errors(progress, folder):
        results = read_results(folder)
        path = write_report(results, folder)
        table = Table(show_edge=False, pad_edge=False)
        for column in ("benchmark", "series", "Control (%)", "points per doubling", "Performance (%)"):
            table.add_column(column, justify="left" if column in ("benchmark", "series") else "right")
        for series in results.series:
            metrics = (series.control, series.points_per_doubling, series.performance)
            table.add_row(escape(series.benchmark), escape(series.name), *map(shown, metrics))
        progress.console.print(table)
        tell_warnings([results.clamps.warning], progress)
        progress.console.print(escape(str(path)), soft_wrap=True, highlight=False)


def recommend(
    folder: Folder,
    benchmark: OneBenchmark = None,
    margin: Margin = 2.0,
    confidence: Confidence = 0.9,
    price_per_million: Price = None,
    out: PolicyFile = None,
    model: PolicyModel = None,
) -> None:
    """Name the smallest budget that is good enough, its cost, and write it as a policy file."""
    from training.curate.progress import Progress
    from training.curate.running import one_line_errors
    from training.evaluate.recommend import Wish, reasons, warnings, write_policy
    from training.evaluate.recommend import recommend as find
    from training.evaluate.summary import read_results

    progress = Progress()
    with one_line_errors(progress, out or folder):
        results = read_results(folder)
        found = find(results, benchmark, Wish(margin, confidence, price_per_million))
        table = Table(show_edge=False, pad_edge=False)
        columns = ["setting", "thinking tokens", "accuracy (%)", "good enough with"]
        columns += ["errors"] if any(one.run.num_errors for one in found.candidates) else []
        for column in columns:
            table.add_column(column, justify="left" if column == "setting" else "right")
        for candidate in found.candidates:
            mark = "→ " if candidate is found.chosen else "  "
            cells = (
                mark + escape(", ".join(f"{k} {v}" for k, v in candidate.fields.items()) or "no budget"),
                f"{candidate.run.thinking_tokens:,.0f}",
                f"{candidate.run.accuracy.value:.1f}",
                f"{candidate.confidence:.1%}",
                str(candidate.run.num_errors),
            )
            table.add_row(*cells[: len(columns)])
        progress.console.print(table)
        tell_warnings(warnings(found), progress)
        for line in reasons(found):
            progress.console.print(escape(line), soft_wrap=True, highlight=False)
        if out is not None:
            command = shlex.join(["s1", *sys.argv[1:]])
            write_policy(found, model or str(results.facts["model"]), out, command)
            progress.console.print(f"policy: {escape(str(out))}", soft_wrap=True, highlight=False)
