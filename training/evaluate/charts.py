"""Figures of a report, each as a matplotlib figure."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from training.evaluate.summary import Measured, RunSummary, SeriesSummary

_WIDTH_INCHES = 7.6
_MARKERS = "os^Dv*PX<>"
_MAX_PANELS = 9
_MOST_POINTS = 100.0
"""Beyond it a slope says only that its runs are close in tokens."""
_RIGHT, _WRONG, _GAINED, _LOST = "#2a7f62", "#e8e3d9", "#2a7f62", "#c1443c"


def accuracy_over_tokens(series: Sequence[SeriesSummary], *, title: str = "") -> Any:
    """Accuracy over mean thinking tokens, logarithmic; runs that don't think are a dashed level."""
    figure, axes = _figure(height=4.2)
    for at, one in enumerate(series):
        marker, color = _MARKERS[at % len(_MARKERS)], f"C{at % 10}"
        thinking = sorted((r for r in one.runs if r.thinking_tokens > 0), key=lambda r: r.thinking_tokens)
        _curve(axes, thinking, marker, color, one.name)
        for run in one.runs:
            if run.thinking_tokens == 0:
                axes.axhline(run.accuracy.value, color=color, ls="--", lw=0.9, alpha=0.7)
    axes.set_xscale("log", base=2)
    axes.xaxis.set_major_formatter(lambda value, _: f"{value:g}")
    axes.set_xlabel("thinking tokens (mean per question, logarithmic)")
    axes.set_ylabel("accuracy (%)")
    axes.set_ylim(0, 100)
    axes.set_title(title)
    axes.grid(alpha=0.3)
    axes.legend(fontsize=8)
    return figure


def methods_side_by_side(series: Sequence[SeriesSummary]) -> Any:
    """Control, Scaling and Performance of every series, with their intervals."""
    figure, panels = _figure(height=1.2 + 0.36 * len(series), columns=3, sharey=True)
    columns: tuple[tuple[str, list[Measured]], ...] = (
        ("Control (%)", [one.control for one in series]),
        ("Scaling (points per doubling)", [one.points_per_doubling for one in series]),
        ("Performance (%)", [one.performance for one in series]),
    )
    places = np.arange(len(series))[::-1]
    for axes, (title, values) in zip(panels, columns, strict=True):
        for place, measured in zip(places, values, strict=True):
            if measured.value is None:
                axes.text(0, place, " none", va="center", fontsize=8, color="gray")
                continue
            axes.barh(place, measured.value, color="C0", alpha=0.75, height=0.6)
            if measured.interval is not None:
                span = (measured.interval.low, measured.interval.high)
                axes.plot(span, (place, place), color="black", lw=1.2)
        axes.set_title(title, fontsize=9)
        axes.axvline(0, color="black", lw=0.6)
        axes.grid(alpha=0.3, axis="x")
    low, high = panels[1].get_xlim()
    panels[1].set_xlim(max(low, -_MOST_POINTS), min(high, _MOST_POINTS))
    panels[0].set_yticks(places, [one.name for one in series], fontsize=8)
    return figure


def token_histograms(series: SeriesSummary) -> Any:
    """How many tokens single samples thought, run by run, on one scale."""
    shown = series.runs[-_MAX_PANELS:]
    longest = max((float(run.tokens_of_samples.max(initial=0)) for run in shown), default=0.0)
    bins = np.linspace(-0.5, max(longest, 1.0) + 0.5, 31)
    figure, panels = _figure(height=0.5 + 0.75 * len(shown), rows=len(shown), sharex=True)
    for axes, run in zip(np.atleast_1d(panels), shown, strict=True):
        axes.hist(run.tokens_of_samples, bins=bins, color="C0", alpha=0.8)
        if len(run.tokens_of_samples):
            axes.axvline(run.thinking_tokens, color="black", lw=1)
        if run.questions.at_most is not None and run.questions.at_most <= longest:
            axes.axvline(run.questions.at_most, color=_LOST, lw=1, ls="--")
        axes.set_ylabel(_short(run.label), rotation=0, ha="right", va="center", fontsize=7)
        axes.set_yticks([])
    np.atleast_1d(panels)[-1].set_xlabel("thinking tokens of a sample (line: mean; dashed: maximum)")
    return figure


def flips(series: SeriesSummary) -> Any:
    """Question by question: what a run makes right or wrong that the run before it had the other way."""
    right = np.stack([run.questions.accuracy_points >= 50 for run in series.runs])
    order = np.lexsort(right[::-1].astype(int))
    figure, (grid, bars) = _figure(
        height=1.0 + 0.32 * len(series.runs), columns=2, widths=(3, 1), sharey=True
    )
    colors = np.array([_rgb(_WRONG), _rgb(_RIGHT)])
    grid.imshow(colors[right[:, order].astype(int)], aspect="auto", interpolation="nearest")
    grid.set_yticks(range(len(series.runs)), [_short(run.label) for run in series.runs], fontsize=7)
    grid.set_xlabel("questions (dark: right)")
    for at in range(1, len(series.runs)):
        gained, lost = flips_between(series.runs[at - 1], series.runs[at])
        bars.barh(at, gained, color=_GAINED, height=0.6)
        bars.barh(at, -lost, color=_LOST, height=0.6)
    bars.axvline(0, color="black", lw=0.6)
    bars.set_xlabel("lost | gained")
    return figure


def flips_between(before: RunSummary, after: RunSummary) -> tuple[int, int]:
    """Questions gained and lost, the same questions being in the same places."""
    was, now = before.questions.accuracy_points >= 50, after.questions.accuracy_points >= 50
    return int((now & ~was).sum()), int((was & ~now).sum())


def parallel_against_sequential(series: Sequence[SeriesSummary]) -> Any | None:
    """Both kinds over all tokens they thought; None where there aren't both."""
    kinds = {one.is_parallel for one in series}
    if len(kinds) < 2:
        return None
    figure, axes = _figure(height=4.0)
    for at, one in enumerate(sorted(series, key=lambda one: one.is_parallel)):
        runs = sorted((r for r in one.runs if r.thinking_tokens > 0), key=lambda r: r.thinking_tokens)
        kind = "parallel" if one.is_parallel else "sequential"
        style = "--" if one.is_parallel else "-"
        _curve(axes, runs, _MARKERS[at % len(_MARKERS)], f"C{at % 10}", f"{kind}: {one.name}", style)
    axes.set_xscale("log", base=2)
    axes.xaxis.set_major_formatter(lambda value, _: f"{value:g}")
    axes.set_xlabel("thinking tokens of all branches (mean per question, logarithmic)")
    axes.set_ylabel("accuracy (%)")
    axes.grid(alpha=0.3)
    axes.legend(fontsize=8)
    return figure


def _curve(
    axes: Any, runs: Sequence[RunSummary], marker: str, color: str, label: str, style: str = "-"
) -> None:
    if not runs:
        return
    x = [run.thinking_tokens for run in runs]
    y = [run.accuracy.value or 0.0 for run in runs]
    spans = [run.accuracy.interval for run in runs]
    below = [max(0.0, v - s.low) if s else 0.0 for v, s in zip(y, spans, strict=True)]
    above = [max(0.0, s.high - v) if s else 0.0 for v, s in zip(y, spans, strict=True)]
    axes.errorbar(
        x, y, yerr=(below, above), marker=marker, ms=5, capsize=2, lw=1.3, ls=style, color=color, label=label
    )


def _figure(
    *, height: float, rows: int = 1, columns: int = 1, widths: Sequence[float] | None = None, **shared: Any
) -> tuple[Any, Any]:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(_WIDTH_INCHES, height), layout="constrained")
    panels = figure.subplots(
        rows, columns, gridspec_kw={"width_ratios": widths} if widths is not None else None, **shared
    )
    return figure, panels


def _rgb(color: str) -> list[float]:
    return [int(color[at : at + 2], 16) / 255 for at in (1, 3, 5)]


def _short(label: str, most: int = 34) -> str:
    return label if len(label) <= most else label[: most - 1] + "…"
