"""Paired bootstrap: how sure is a difference between two models that answered the same questions?"""

from collections.abc import Sequence
from dataclasses import dataclass

_SEED = 0


@dataclass(frozen=True, slots=True)
class Difference:
    """Of mean scores, with its 95 % interval (percentiles)."""

    mean: float
    low: float
    high: float


def paired_difference(scores: Sequence[float], others: Sequence[float], *, resamples: int) -> Difference:
    """``scores - others`` by question, resampled over questions, as in section 5.1 of the paper.

    Raises:
        ValueError: the two did not answer the same number of questions, or none.
    """
    import numpy as np

    if len(scores) != len(others) or not scores:
        raise ValueError(f"pairs are needed. Given: {len(scores)} and {len(others)} scores")
    differences = np.asarray(scores, dtype=float) - np.asarray(others, dtype=float)
    drawn = np.random.default_rng(_SEED).integers(0, len(differences), (resamples, len(differences)))
    means = differences[drawn].mean(axis=1)
    low, high = np.percentile(means, [2.5, 97.5])
    return Difference(float(differences.mean()), float(low), float(high))
