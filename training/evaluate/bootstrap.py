"""Intervals by resampling questions: the same draw for every run, because they answer the same questions."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from training.evaluate.intervals import wilson_interval
from training.evaluate.metrics import Array, Run, control, doubling_slopes, thousand_token_slopes

NUM_RESAMPLES = 2000
SEED = 0
_ROUNDING = 1e-6


@dataclass(frozen=True, slots=True)
class Interval:
    low: float
    high: float


@dataclass(frozen=True, slots=True)
class Kept:
    """What Control judges, question by question; NaN where nothing is known. None: there is no such bound."""

    tokens: Array
    minima: Array | None = None
    maxima: Array | None = None

    @property
    def run(self) -> Run:
        at_least, at_most = (None if b is None else mean_of_known(b) for b in (self.minima, self.maxima))
        return Run(mean_of_known(self.tokens), 0.0, at_least, at_most)


@dataclass(frozen=True, slots=True)
class PerQuestion:
    """One run, question by question in one order: accuracy (0 to 100, mean of its samples) and tokens (NaN
    where no sample has an answer)."""

    accuracy_points: Array
    thinking_tokens: Array
    at_least: float | None = None
    at_most: float | None = None
    """As it was granted, on average."""
    names: tuple[str, ...] = ()
    """The questions, in that order."""
    judged: Kept | None = None
    """By Control; None: the tokens, by the two bounds."""
    asked_at_most: float | None = None
    maxima: Array | None = None
    """As they were granted, question by question; NaN where no sample has an answer. None: no bound."""

    @property
    def run(self) -> Run:
        tokens, accuracy = mean_of_known(self.thinking_tokens), float(self.accuracy_points.mean())
        return Run(tokens, accuracy, self.at_least, self.at_most)

    @property
    def kept(self) -> Kept:
        if self.judged is not None:
            return self.judged
        bounds = (self.at_least, self.at_most)
        minima, maxima = (None if b is None else np.full(len(self.thinking_tokens), float(b)) for b in bounds)
        return Kept(self.thinking_tokens, minima, maxima)


@dataclass(frozen=True, slots=True)
class Resampled:
    """Means of every run in every resample, both of shape (resamples, runs); `shares` of shape (resamples,
    questions) says how much each question weighs."""

    accuracy_points: Array
    thinking_tokens: Array
    shares: Array

    @property
    def num_questions(self) -> int:
        return int(self.shares.shape[1])


def mean_of_known(values: Array) -> float:
    """NaN where none is known."""
    known = values[~np.isnan(values)]
    return float(known.mean()) if len(known) else float("nan")


def resample(runs: Sequence[PerQuestion]) -> Resampled:
    """Raises ValueError: the runs are not about the same number of questions, or there are none."""
    sizes = {len(run.accuracy_points) for run in runs}
    if len(sizes) != 1 or sizes == {0}:
        raise ValueError(f"runs must be about the same questions, at least one. Given: {sorted(sizes)}")
    size = sizes.pop()
    shares = np.random.default_rng(SEED).multinomial(size, np.full(size, 1 / size), NUM_RESAMPLES) / size
    accuracy = shares @ np.stack([run.accuracy_points for run in runs], axis=1)
    tokens = _means(shares, np.stack([run.thinking_tokens for run in runs], axis=1))
    return Resampled(accuracy, tokens, shares)


def interval(values: Array, confidence: float = 0.95) -> Interval | None:
    """The middle `confidence` of the values; None where fewer than half exist."""
    finite = values[np.isfinite(values)]
    if len(finite) * 2 < len(values):
        return None
    tail = 50 * (1 - confidence)
    low, high = np.percentile(finite, [tail, 100 - tail])
    return Interval(float(low), float(high))


def accuracy_intervals(drawn: Resampled) -> list[Interval | None]:
    return [_accuracy_interval(column, drawn.num_questions) for column in drawn.accuracy_points.T]


def scaling_interval(drawn: Resampled) -> Interval | None:
    return _slope_interval(doubling_slopes(drawn.thinking_tokens, drawn.accuracy_points))


def raw_scaling_interval(drawn: Resampled) -> Interval | None:
    return _slope_interval(thousand_token_slopes(drawn.thinking_tokens, drawn.accuracy_points))


def performance_interval(drawn: Resampled) -> Interval | None:
    """Of the best run's accuracy, whichever run is best in a resample: high by the luck of the best."""
    return _accuracy_interval(drawn.accuracy_points.max(axis=1), drawn.num_questions)


def difference_interval(drawn: Resampled) -> Interval | None:
    """Of the first run's accuracy over the second's, in points.

    Where every question differs by the same, mostly not at all: give or take what Wilson's interval allows
    the share of questions that would differ otherwise, none of which was seen.
    """
    differences = drawn.accuracy_points[:, 0] - drawn.accuracy_points[:, 1]
    if np.ptp(differences) > _ROUNDING:
        return interval(differences)
    at, unseen = float(differences[0]), 100 * wilson_interval(0, drawn.num_questions)[1]
    return Interval(max(-100.0, at - unseen), min(100.0, at + unseen))


def control_interval(runs: Sequence[PerQuestion], drawn: Resampled) -> Interval | None:
    kept = [run.kept for run in runs]
    if control([one.run for one in kept]) is None:
        return None
    unbounded = np.full(drawn.num_questions, np.nan)
    tokens, minima, maxima = (
        _means(drawn.shares, np.stack(columns, axis=1))
        for columns in (
            [one.tokens for one in kept],
            [unbounded if one.minima is None else one.minima for one in kept],
            [unbounded if one.maxima is None else one.maxima for one in kept],
        )
    )
    values = [
        control(
            [
                Run(t, 0.0, None if one.minima is None else low, None if one.maxima is None else high)
                for one, t, low, high in zip(kept, *means, strict=True)
            ]
        )
        for means in zip(tokens, minima, maxima, strict=True)
    ]
    return interval(np.array(values, dtype=np.float64))


def _accuracy_interval(values: Array, num_questions: int) -> Interval | None:
    """Where all questions agree no resample varies, though other questions might: Wilson's interval."""
    if np.ptp(values) > _ROUNDING:
        return interval(values)
    low, high = wilson_interval(float(values[0]) / 100 * num_questions, num_questions)
    return Interval(100 * low, 100 * high)


def _slope_interval(values: Array) -> Interval | None:
    """None where no resample differs: what no question contradicts is not certain."""
    found = interval(values)
    return None if found is None or found.high - found.low < _ROUNDING else found


def _means(shares: Array, columns: Array) -> Array:
    """Of the questions whose value is known; NaN where a resample has none. Shapes (resamples, questions) and
    (questions, runs) to (resamples, runs)."""
    known = ~np.isnan(columns)
    if known.all():
        return np.asarray(shares @ columns)
    weights = shares @ known
    sums = shares @ np.where(known, columns, 0.0)
    return np.where(weights > 0, sums / np.where(weights > 0, weights, 1.0), np.nan)
