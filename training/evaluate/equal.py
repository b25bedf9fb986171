"""Methods at equal thinking tokens: what branches gain on one line of thought that may think as much."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from training.evaluate import bootstrap
from training.evaluate.bootstrap import PerQuestion
from training.evaluate.summary import Measured, RunSummary, SeriesSummary, measured_as_json


@dataclass(frozen=True, slots=True)
class Compared:
    """One run that may think `allowed` tokens in all.

    All numbers are of the questions that every run with this maximum was asked. `difference` is in percentage
    points of accuracy, question by question; None for the run that others are compared with.
    """

    allowed: float
    series: str
    label: str
    num_questions: int
    thinking_tokens: float
    accuracy: Measured
    difference: Measured | None


def yardstick(series: Sequence[SeriesSummary]) -> SeriesSummary | None:
    """The sequential budget series that has most of the parallel ones' maxima; None where none has any."""
    maxima = {run.questions.at_most for one in series if one.is_parallel for run in one.runs} - {None}
    shared = {
        at: len(maxima & {run.questions.at_most for run in one.runs})
        for at, one in enumerate(series)
        if one.method == "budget"
    }
    best = max(shared, key=lambda at: shared[at], default=None)
    return None if best is None or not shared[best] else series[best]


def at_equal_tokens(series: Sequence[SeriesSummary]) -> list[Compared]:
    """By what is allowed: the yardstick's run, then every parallel run with the same maximum."""
    chosen = yardstick(series)
    if chosen is None:
        return []
    rows: list[Compared] = []
    for reference in sorted(chosen.runs, key=lambda run: run.questions.at_most or 0):
        equal = [
            (one, run)
            for one in series
            if one.is_parallel
            for run in one.runs
            if run.questions.at_most == reference.questions.at_most is not None
        ]
        if not equal:
            continue
        asked = set.intersection(*(set(run.questions.names) for _, run in [(chosen, reference), *equal]))
        rows.append(_compared(chosen, reference, asked, None))
        rows += [_compared(one, run, asked, reference) for one, run in equal]
    return rows


def as_json(compared: Compared) -> dict[str, Any]:
    """A row of `summary.json`."""
    return {
        "allowed_thinking_tokens": compared.allowed,
        "series": compared.series,
        "label": compared.label,
        "num_questions": compared.num_questions,
        "mean_thinking_tokens": round(compared.thinking_tokens, 2),
        "accuracy_percent": measured_as_json(compared.accuracy),
        "difference_points": None if compared.difference is None else measured_as_json(compared.difference),
    }


def _compared(
    series: SeriesSummary, run: RunSummary, asked: set[str], against: RunSummary | None
) -> Compared:
    own = _only(run.questions, asked)
    runs = [own] if against is None else [own, _only(against.questions, asked)]
    drawn = bootstrap.resample(runs)
    difference = None
    if against is not None:
        points = runs[0].run.accuracy_points - runs[1].run.accuracy_points
        spread = drawn.accuracy_points[:, 0] - drawn.accuracy_points[:, 1]
        difference = Measured(points, bootstrap.interval(spread))
    return Compared(
        float(own.at_most or 0),
        series.name,
        run.label,
        len(asked),
        own.run.thinking_tokens,
        Measured(own.run.accuracy_points, bootstrap.accuracy_intervals(drawn)[0]),
        difference,
    )


def _only(questions: PerQuestion, asked: set[str]) -> PerQuestion:
    kept = np.array([name in asked for name in questions.names])
    return replace(
        questions,
        accuracy_points=questions.accuracy_points[kept],
        thinking_tokens=questions.thinking_tokens[kept],
        names=tuple(name for name in questions.names if name in asked),
    )
