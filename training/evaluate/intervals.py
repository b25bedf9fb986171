"""Intervals of shares."""

import math

_NORMAL_QUANTILE_95 = 1.959964


def wilson_interval(num_correct: float, num_questions: int) -> tuple[float, float]:
    """95 % interval of a share (Wilson 1927, without continuity correction)."""
    share, z = num_correct / num_questions, _NORMAL_QUANTILE_95
    scale = 1 + z * z / num_questions
    middle = (share + z * z / (2 * num_questions)) / scale
    spread = math.sqrt(share * (1 - share) / num_questions + (z / (2 * num_questions)) ** 2)
    half = z * spread / scale
    return max(0.0, middle - half), min(1.0, middle + half)
