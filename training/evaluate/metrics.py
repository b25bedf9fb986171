"""Control, Scaling and Performance (s1, section 3.2), over the runs of one method on one benchmark.

A run is one setting over all questions: its mean thinking tokens, and its accuracy in percentage points. The
paper writes Scaling with raw tokens, but its numbers are per doubling (docs/evaluation.md); both are here.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

_ROUNDING = 1e-6
"""Of a mean over resampled questions, each exactly at its bound."""
Array = np.ndarray[Any, np.dtype[np.float64]]


@dataclass(frozen=True, slots=True)
class Run:
    """Means of one setting. `at_least` and `at_most` bound what was asked for, in thinking tokens."""

    thinking_tokens: float
    accuracy_points: float
    at_least: float | None = None
    at_most: float | None = None

    @property
    def is_bounded(self) -> bool:
        return self.at_least is not None or self.at_most is not None


def control(runs: Sequence[Run]) -> float | None:
    """Percent of the bounded runs whose mean is within its bounds; None where nothing was bounded. A run
    without any answer has no mean, NaN, and kept or broke nothing."""
    bounded = [run for run in runs if run.is_bounded and not math.isnan(run.thinking_tokens)]
    if not bounded:
        return None
    held = sum(
        (run.at_least is None or run.thinking_tokens >= run.at_least - _ROUNDING)
        and (run.at_most is None or run.thinking_tokens <= run.at_most + _ROUNDING)
        for run in bounded
    )
    return 100 * held / len(bounded)


def points_per_doubling(runs: Sequence[Run]) -> float | None:
    """The paper's Scaling as its tables have it. Runs without any thinking have no logarithm: left out."""
    return _or_none(doubling_slopes(*_as_arrays(runs)))


def points_per_thousand_tokens(runs: Sequence[Run]) -> float | None:
    """The paper's Scaling as its formula has it, times 1,000: the mean slope over raw tokens."""
    return _or_none(thousand_token_slopes(*_as_arrays(runs)))


def performance(runs: Sequence[Run]) -> float | None:
    return max((run.accuracy_points for run in runs), default=None)


def doubling_slopes(tokens: Array, accuracy: Array) -> Array:
    """Mean slope over all pairs of the last axis; NaN where no pair has one. Shapes (…, runs) to (…)."""
    with np.errstate(divide="ignore"):
        doublings = np.where(tokens > 0, np.log2(np.maximum(tokens, 0)), np.nan)
    return _mean_pair_slopes(doublings, accuracy)


def thousand_token_slopes(tokens: Array, accuracy: Array) -> Array:
    """As `doubling_slopes`, per 1,000 tokens."""
    return _mean_pair_slopes(tokens / 1000, accuracy)


def _mean_pair_slopes(x: Array, y: Array) -> Array:
    first, second = np.triu_indices(x.shape[-1], k=1)
    run = x[..., second] - x[..., first]
    rise = y[..., second] - y[..., first]
    # Two runs of the same length have no slope between them.
    usable = np.isfinite(run) & (run != 0)
    slopes = np.where(usable, rise / np.where(usable, run, 1.0), 0.0)
    count = usable.sum(axis=-1)
    return np.where(count > 0, slopes.sum(axis=-1) / np.maximum(count, 1), np.nan)


def _as_arrays(runs: Sequence[Run]) -> tuple[Array, Array]:
    tokens = np.array([run.thinking_tokens for run in runs], dtype=np.float64)
    return tokens, np.array([run.accuracy_points for run in runs], dtype=np.float64)


def _or_none(value: Array) -> float | None:
    return None if np.isnan(value) else float(value)
