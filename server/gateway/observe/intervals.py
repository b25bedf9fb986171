"""A histogram of what happens once per token: a list of counts, without locks or label look-ups."""

from __future__ import annotations

from bisect import bisect_left
from collections import Counter
from collections.abc import Sequence
from itertools import islice, repeat
from operator import sub

from prometheus_client.utils import floatToGoString


class Intervals:
    """Counts durations by bucket. For one event loop; read whenever metrics are."""

    __slots__ = ("_bounds", "_counts", "_sum_s")

    def __init__(self, bounds_s: Sequence[float]) -> None:
        self._bounds = tuple(bounds_s)
        self._counts = [0] * (len(bounds_s) + 1)
        self._sum_s = 0.0

    def add_between(self, times_s: Sequence[float]) -> None:
        """Count the time from each moment to the next; the same moment again is no interval."""
        gaps = filter(None, map(sub, islice(times_s, 1, None), times_s))
        # Counted without a line of Python for each token.
        for bucket, count in Counter(map(bisect_left, repeat(self._bounds), gaps)).items():
            self._counts[bucket] += count
        self._sum_s += times_s[-1] - times_s[0]

    @property
    def sum_s(self) -> float:
        return self._sum_s

    def buckets(self) -> list[tuple[str, float]]:
        """Upper bounds and cumulative counts, as Prometheus wants them."""
        bounds = [*map(floatToGoString, self._bounds), "+Inf"]
        total, cumulative = 0, []
        for bound, count in zip(bounds, self._counts, strict=True):
            total += count
            cumulative.append((bound, float(total)))
        return cumulative
