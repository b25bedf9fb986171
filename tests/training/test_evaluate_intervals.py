"""Intervals of shares."""

import pytest

from training.evaluate.intervals import wilson_interval


@pytest.mark.parametrize(
    ("num_correct", "num_questions", "low", "high"),
    [(0, 10, 0.0, 0.2775), (10, 10, 0.7225, 1.0), (5, 10, 0.2366, 0.7634), (320, 400, 0.7580, 0.8363)],
)
def test_wilson_interval(num_correct: int, num_questions: int, low: float, high: float) -> None:
    assert wilson_interval(num_correct, num_questions) == pytest.approx((low, high), abs=1e-3)
