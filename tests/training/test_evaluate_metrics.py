"""The paper's Table 3 from its published points, and what the metrics make of awkward runs."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest

from training.evaluate.bootstrap import (
    Interval,
    PerQuestion,
    accuracy_intervals,
    control_interval,
    interval,
    performance_interval,
    resample,
    scaling_interval,
)
from training.evaluate.metrics import (
    Run,
    control,
    performance,
    points_per_doubling,
    points_per_thousand_tokens,
)

NUM_AIME24 = 30


def runs_of(
    tokens: Sequence[float], num_right: Sequence[int], limits: Sequence[int | None] | None = None
) -> list[Run]:
    """Published points. Accuracies are questions right of 30: one decimal of a percentage is not enough."""
    bounds = limits or [None] * len(tokens)
    return [
        Run(t, 100 * right / NUM_AIME24, at_most=limit)
        for t, right, limit in zip(tokens, num_right, bounds, strict=True)
    ]


# Of arXiv 2501.19393v3 and the vector figures of its repository, AIME24.
BUDGET_FORCING = runs_of(
    (500, 1000, 2000, 3933, 5301, 6657, 7320),
    (0, 4, 9, 13, 15, 16, 17),
    (500, 1000, 2000, 4000, 8000, None, None),
)
"""Figure 1: five maxima, then 2 and 4 waits, which bound nothing."""
_TOKENS_ASKED = (1024, 2048, 4096, 8192, 16384)
TOKEN_CONDITIONAL = runs_of((7939, 7158, 8263, 7108, 7500), (8, 9, 10, 10, 12), _TOKENS_ASKED)
TOKEN_CONDITIONAL_FORCED = runs_of((1024, 2048, 4031, 5664, 6330), (1, 9, 10, 10, 12), _TOKENS_ASKED)
"""Table 12."""
_HUNDRED_A_STEP = (1600, 3200, 6400, 12800, 25600)
STEP_CONDITIONAL = runs_of((7252, 6277, 5396, 5552, 7551), (10, 7, 10, 11, 10), _HUNDRED_A_STEP)
STEP_CONDITIONAL_FORCED = runs_of((1517, 2963, 4636, 5409, 7551), (7, 7, 10, 11, 10), _HUNDRED_A_STEP)
"""Table 13: 16 to 256 steps, of 100 tokens each."""
_UNPROMPTED_TOKENS = 6109
CLASS_CONDITIONAL = [
    Run(8033, 100 * 9 / NUM_AIME24, at_most=_UNPROMPTED_TOKENS),
    Run(9651, 100 * 11 / NUM_AIME24, at_least=_UNPROMPTED_TOKENS),
]
"""Table 14: a short prompt should shorten, a long one lengthen."""
REJECTION = runs_of(
    (2974, 3703, 4344, 4734, 5193, 5293), (12, 11, 10, 9, 8, 7), (3500, 4000, 5000, 6000, 8000, 16000)
)
"""Figure 6. The table's slope leaves the first point out; its performance is that point."""


@pytest.mark.parametrize(
    ("runs", "printed"),
    [
        (BUDGET_FORCING, ("100", "15", "56.7")),
        (TOKEN_CONDITIONAL, ("40", "-24", "40.0")),
        (TOKEN_CONDITIONAL_FORCED, ("100", "13", "40.0")),
        (STEP_CONDITIONAL, ("60", "3", "36.7")),
        (STEP_CONDITIONAL_FORCED, ("100", "6", "36.7")),
        (CLASS_CONDITIONAL, ("50", "25", "36.7")),
    ],
    ids=["BF", "TCC", "TCC+BF", "SCC", "SCC+BF", "CCC"],
)
def test_table_3(runs: list[Run], printed: tuple[str, str, str]) -> None:
    computed = control(runs), points_per_doubling(runs), performance(runs)
    assert None not in computed
    assert (f"{computed[0]:.0f}", f"{computed[1]:.0f}", f"{computed[2]:.1f}") == printed


def test_table_3_rejection_sampling() -> None:
    assert f"{control(REJECTION):.0f}" == "100" and f"{performance(REJECTION):.1f}" == "40.0"
    assert f"{points_per_doubling(REJECTION[1:]):.0f}" == "-35"
    assert f"{points_per_doubling(REJECTION):.0f}" == "-29", "with the run that the performance is of"


def test_no_common_factor_makes_table_3_of_raw_tokens() -> None:
    methods = (TOKEN_CONDITIONAL, TOKEN_CONDITIONAL_FORCED, CLASS_CONDITIONAL)
    slopes = [points_per_thousand_tokens(runs) for runs in methods]
    factors = [printed / slope for printed, slope in zip((-24, 13, 25), slopes, strict=True) if slope]
    assert len(factors) == 3 and max(factors) > 1.5 * min(factors)


def test_slopes_by_hand() -> None:
    runs = [Run(100, 20.0), Run(200, 30.0), Run(400, 60.0)]
    assert points_per_doubling(runs) == pytest.approx((10 + 30 + 20) / 3)
    assert points_per_thousand_tokens(runs) == pytest.approx((100 + 150 + 40 / 0.3) / 3)


def test_runs_that_have_no_slope() -> None:
    assert points_per_doubling([Run(100, 20.0)]) is None
    assert points_per_doubling([Run(100, 20.0), Run(100, 90.0)]) is None
    none_thought = [Run(0, 5.0), Run(100, 20.0), Run(200, 30.0)]
    assert points_per_doubling(none_thought) == pytest.approx(10.0)
    assert points_per_thousand_tokens(none_thought) == pytest.approx((150 + 125 + 100) / 3)


def test_control_counts_bounded_runs_only() -> None:
    assert control([Run(50, 1.0)]) is None
    assert control([Run(50, 1.0), Run(50, 1.0, at_most=50), Run(51, 1.0, at_most=50)]) == 50
    assert control([Run(50, 1.0, at_least=51, at_most=60)]) == 0
    assert performance([]) is None


def per_question(accuracy: list[float], tokens: list[float], at_most: float | None = None) -> PerQuestion:
    return PerQuestion(np.array(accuracy), np.array(tokens), at_most=at_most)


def test_intervals_hold_the_value_and_shrink_with_questions() -> None:
    def widths(size: int) -> float:
        low = per_question([0.0, 100.0] * size, [50.0, 70.0] * size)
        high = per_question([100.0, 100.0] * (size - 1) + [0.0, 100.0], [100.0, 140.0] * size)
        drawn = resample([low, high])
        first, second = accuracy_intervals(drawn)
        assert first is not None and first.low < 50 < first.high
        slope, truth = scaling_interval(drawn), points_per_doubling([low.run, high.run])
        assert second is not None and slope is not None and truth is not None
        assert slope.low < truth < slope.high
        best = performance_interval(drawn)
        assert best is not None and best.high >= high.run.accuracy_points
        return first.high - first.low

    assert widths(400) < widths(25)


def test_the_same_seed_gives_the_same_interval_and_every_run_the_same_draw() -> None:
    one = per_question([0.0, 100.0, 100.0], [1.0, 2.0, 3.0])
    drawn = resample([one, one])
    assert (drawn.accuracy_points[:, 0] == drawn.accuracy_points[:, 1]).all()
    assert accuracy_intervals(drawn) == accuracy_intervals(resample([one, one]))


def test_control_is_uncertain_only_near_its_bound() -> None:
    far = per_question([0.0] * 50, [10.0, 20.0] * 25, at_most=100)
    near = per_question([0.0] * 50, [90.0, 110.0] * 25, at_most=100)
    assert control_interval([far], resample([far])) == Interval(100, 100)
    exact = per_question([0.0] * 49, [64.0] * 49, at_most=64)
    assert control_interval([exact], resample([exact])) == Interval(100, 100)
    assert control_interval([near], resample([near])) == Interval(0, 100)
    free = per_question([0.0], [1.0])
    assert control_interval([free], resample([free])) is None


def test_different_questions_are_refused() -> None:
    with pytest.raises(ValueError, match="same questions"):
        resample([per_question([0.0], [1.0]), per_question([0.0, 1.0], [1.0, 1.0])])
    assert interval(np.array([np.nan, np.nan, 1.0])) is None
