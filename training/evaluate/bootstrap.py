"""Intervals by resampling questions: the same draw for every run, because they answer the same questions."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from training.evaluate.metrics import Array, Run, control, doubling_slopes, thousand_token_slopes

NUM_RESAMPLES = 2000
SEED = 0


@dataclass(frozen=True, slots=True)
class Interval:
    low: float
    high: float


@dataclass(frozen=True, slots=True)
class PerQuestion:
    """One run, question by question in one order: accuracy (0 to 100, mean of its samples) and tokens."""

    accuracy_points: Array
    thinking_tokens: Array
    at_least: float | None = None
    at_most: float | None = None
    names: tuple[str, ...] = ()
    """The questions, in that order."""

    @property
    def run(self) -> Run:
        tokens, accuracy = float(self.thinking_tokens.mean()), float(self.accuracy_points.mean())
        return Run(tokens, accuracy, self.at_least, self.at_most)


@dataclass(frozen=True, slots=True)
class Resampled:
    """Means of every run in every resample, both of shape (resamples, runs)."""

    accuracy_points: Array
    thinking_tokens: Array


def resample(
    runs: Sequence[PerQuestion], *, num_resamples: int = NUM_RESAMPLES, seed: int = SEED
) -> Resampled:
    """Raises ValueError: the runs are not about the same number of questions, or there are none."""
    sizes = {len(run.accuracy_points) for run in runs}
    if len(sizes) != 1 or sizes == {0}:
        raise ValueError(f"runs must be about the same questions, at least one. Given: {sorted(sizes)}")
    size = sizes.pop()
    draws = np.random.default_rng(seed).multinomial(size, np.full(size, 1 / size), num_resamples) / size
    accuracy = draws @ np.stack([run.accuracy_points for run in runs], axis=1)
    tokens = draws @ np.stack([run.thinking_tokens for run in runs], axis=1)
    return Resampled(accuracy, tokens)


def interval(values: Array, confidence: float = 0.95) -> Interval | None:
    """The middle `confidence` of the values; None where fewer than half exist."""
    finite = values[np.isfinite(values)]
    if len(finite) * 2 < len(values):
        return None
    tail = 50 * (1 - confidence)
    low, high = np.percentile(finite, [tail, 100 - tail])
    return Interval(float(low), float(high))


def accuracy_intervals(drawn: Resampled) -> list[Interval | None]:
    return [interval(column) for column in drawn.accuracy_points.T]


def scaling_interval(drawn: Resampled) -> Interval | None:
    return interval(doubling_slopes(drawn.thinking_tokens, drawn.accuracy_points))


def raw_scaling_interval(drawn: Resampled) -> Interval | None:
    return interval(thousand_token_slopes(drawn.thinking_tokens, drawn.accuracy_points))


def performance_interval(drawn: Resampled) -> Interval | None:
    """Of the best run's accuracy, whichever run is best in a resample: high by the luck of the best."""
    return interval(drawn.accuracy_points.max(axis=1))


def control_interval(runs: Sequence[PerQuestion], drawn: Resampled) -> Interval | None:
    if not any(run.run.is_bounded for run in runs):
        return None
    values = [
        control([Run(t, 0.0, run.at_least, run.at_most) for t, run in zip(tokens, runs, strict=True)])
        for tokens in drawn.thinking_tokens
    ]
    return interval(np.array(values, dtype=np.float64))
