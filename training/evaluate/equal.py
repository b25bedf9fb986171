"""Methods at equal thinking tokens: what branches gain on one line of thought that may think as much."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from training.evaluate import bootstrap
from training.evaluate.bootstrap import PerQuestion
from training.evaluate.summary import Measured, RunSummary, SeriesSummary, measured_as_json, rounded

_Named = tuple[SeriesSummary, RunSummary]


@dataclass(frozen=True, slots=True)
class Compared:
    """One run that may think `allowed` tokens in all, as they were granted.

    All numbers are of the questions that every run with this maximum was asked and had it for. `difference`
    is in percentage points of accuracy, question by question; None for the run that others are compared with.
    """

    allowed: float
    series: str
    label: str
    num_questions: int
    thinking_tokens: float
    accuracy: Measured
    difference: Measured | None


def yardsticks(series: Sequence[SeriesSummary]) -> list[SeriesSummary]:
    """Budget series with a run that may think as much as some parallel one."""
    shared = _shared_maxima(series)
    return [one for one in series if _is_sequential(one) and any(_allowed(run) in shared for run in one.runs)]


def at_equal_tokens(series: Sequence[SeriesSummary]) -> list[Compared]:
    """By what is allowed: the best budget run, then all other budget runs and parallel ones against it."""
    rows: list[Compared] = []
    for allowed in sorted(_shared_maxima(series)):
        sequential = _runs([one for one in series if _is_sequential(one)], allowed)
        parallel = _runs([one for one in series if one.is_parallel], allowed)
        every = [*sequential, *parallel]
        asked = set.intersection(*(_granted(run, allowed) for _, run in every))
        if not asked:
            continue
        best = max(sequential, key=lambda named: _rank(_only(named[1].questions, asked)))
        rows.append(_compared(best, allowed, asked, None))
        rows += [_compared(named, allowed, asked, best[1]) for named in every if named is not best]
    return rows


def left_out_at(series: Sequence[SeriesSummary]) -> list[float]:
    """Maxima that budgets and branches both ask for and no question had in all their runs."""
    compared = {row.allowed for row in at_equal_tokens(series)}
    return sorted(_shared(series, _asked) - compared)


def as_json(compared: Compared) -> dict[str, Any]:
    """A row of `summary.json`."""
    return {
        "allowed_thinking_tokens": compared.allowed,
        "series": compared.series,
        "label": compared.label,
        "num_questions": compared.num_questions,
        "mean_thinking_tokens": rounded(compared.thinking_tokens),
        "accuracy_percent": measured_as_json(compared.accuracy),
        "difference_points": None if compared.difference is None else measured_as_json(compared.difference),
    }


def _shared_maxima(series: Sequence[SeriesSummary]) -> set[float]:
    return _shared(series, _allowed)


def _shared(series: Sequence[SeriesSummary], maximum_of: Callable[[RunSummary], float | None]) -> set[float]:
    sequential, parallel = (
        {maximum for one in chosen for run in one.runs if (maximum := maximum_of(run)) is not None}
        for chosen in (
            [one for one in series if _is_sequential(one)],
            [one for one in series if one.is_parallel],
        )
    )
    return sequential & parallel


def _runs(series: Sequence[SeriesSummary], allowed: float) -> list[_Named]:
    """A setting that several series share is the first one's."""
    found: dict[str, _Named] = {}
    for one in series:
        for run in one.runs:
            if _allowed(run) == allowed:
                found.setdefault(json.dumps([one.method, dict(run.parameters)], sort_keys=True), (one, run))
    return list(found.values())


def _is_sequential(series: SeriesSummary) -> bool:
    return series.method == "budget" and not series.is_parallel


def _asked(run: RunSummary) -> float | None:
    return run.questions.asked_at_most


def _allowed(run: RunSummary) -> float | None:
    """What was asked for if some question had it, else what all were lowered to; None if that differs."""
    asked, known = _asked(run), _known_maxima(run)
    if not known or asked in known:
        return asked
    return known.pop() if len(known) == 1 else None


def _known_maxima(run: RunSummary) -> set[float]:
    maxima = run.questions.maxima
    return set() if maxima is None else {float(maximum) for maximum in maxima if not np.isnan(maximum)}


def _granted(run: RunSummary, maximum: float) -> set[str]:
    """Questions whose samples all had this maximum; also those without an answer, which count as wrong."""
    names, maxima = run.questions.names, run.questions.maxima
    if maxima is None:
        return set(names)
    return {name for name, had in zip(names, maxima, strict=True) if had == maximum or np.isnan(had)}


def _rank(questions: PerQuestion) -> tuple[float, float]:
    """By accuracy; of equal ones, the run that needed fewer tokens."""
    return questions.run.accuracy_points, -questions.run.thinking_tokens


def _compared(named: _Named, allowed: float, asked: set[str], against: RunSummary | None) -> Compared:
    series, run = named
    own = _only(run.questions, asked)
    runs = [own] if against is None else [own, _only(against.questions, asked)]
    drawn = bootstrap.resample(runs)
    difference = None
    if against is not None:
        points = runs[0].run.accuracy_points - runs[1].run.accuracy_points
        difference = Measured(points, bootstrap.difference_interval(drawn))
    return Compared(
        float(allowed),
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
        judged=None,
        maxima=None,
    )
