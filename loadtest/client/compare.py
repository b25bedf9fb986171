"""Two servers under the same load, in turns, so that a change of the machine's mood hits both."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from statistics import NormalDist, fmean, median, stdev
from typing import Any

from loadtest.client.asking import Dialect
from loadtest.client.fleet import Fleet, Load, Progress, Run
from loadtest.client.slo import Slo
from loadtest.client.summary import summarize

_STUDENT_T = (12.7062, 4.3027, 3.1824, 2.7764, 2.5706, 2.4469, 2.3646, 2.3060, 2.2622, 2.2281)
COMPARED = {
    "requests per second": ("requests_per_s",),
    "completion tokens per second": ("tokens", "completion_per_s"),
    "updates per second": ("updates_per_s",),
    "time to first token, p50": ("time_to_first_token_ms", "p50"),
    "time to first token, p99": ("time_to_first_token_ms", "p99"),
    "time to first answer, p50": ("time_to_first_answer_ms", "p50"),
    "end to end, p50": ("end_to_end_ms", "p50"),
    "end to end, p99": ("end_to_end_ms", "p99"),
    "between updates, p50": ("between_updates_ms", "p50"),
    "between updates, p99": ("between_updates_ms", "p99"),
}


@dataclass(frozen=True, slots=True)
class Side:
    url: str
    dialect: Dialect


_MANY_ROUNDS = 20


@dataclass(frozen=True, slots=True)
class Ratio:
    """Of A to B: the median of the rounds' ratios, and an interval of what they are ratios of, at 95 %.

    It takes rounds to be independent. With 20 or more it is that of the median, between two of the rounds
    (the sign test's). With fewer it is Student's t of the mean log ratio, which takes the log ratios to be
    about normal, widened to the median where outliers leave that outside.
    """

    rounds: tuple[float, ...]
    median: float
    low: float
    high: float

    @classmethod
    def of(cls, ratios: Sequence[float]) -> Ratio:
        """
        Args:
            ratios: of two rounds or more, all above 0.
        """
        middle = median(ratios)
        if len(ratios) >= _MANY_ROUNDS:
            inner = _rank(len(ratios))
            ordered = sorted(ratios)
            return cls(tuple(ratios), middle, ordered[inner], ordered[-1 - inner])
        logs = [math.log(ratio) for ratio in ratios]
        half = student_t(len(logs) - 1) * stdev(logs) / math.sqrt(len(logs))
        low, high = math.exp(fmean(logs) - half), math.exp(fmean(logs) + half)
        return cls(tuple(ratios), middle, min(low, middle), max(high, middle))

    def as_json(self) -> dict[str, Any]:
        return {
            "median": round(self.median, 4),
            "interval": [round(self.low, 4), round(self.high, 4)],
            "rounds": [round(ratio, 4) for ratio in self.rounds],
        }


def _rank(rounds: int) -> int:
    """How many rounds lie below the interval of their median, and as many above it."""
    below, rank = 0.0, -1
    while below + math.comb(rounds, rank + 1) / 2**rounds <= 0.025:
        rank += 1
        below += math.comb(rounds, rank) / 2**rounds
    return rank


def student_t(freedom: int) -> float:
    """The 97.5 % quantile: from a table, then by Fisher's expansion, which is good to 4 digits from there."""
    if freedom <= len(_STUDENT_T):
        return _STUDENT_T[freedom - 1]
    z = NormalDist().inv_cdf(0.975)
    first = (z**3 + z) / (4 * freedom)
    second = (5 * z**5 + 16 * z**3 + 3 * z) / (96 * freedom**2)
    third = (3 * z**7 + 19 * z**5 + 17 * z**3 - 15 * z) / (384 * freedom**3)
    return z + first + second + third


def compare(
    fleet: Fleet,
    a: Side,
    b: Side,
    load: Load,
    *,
    rounds: int,
    on_progress: Callable[[Progress], None] | None = None,
) -> list[tuple[Run, Run]]:
    """One run of each side a round, A first and B first in turn. Every round has a seed of its own.

    When a run is stopped, the rounds before it are left.

    Raises: as `Fleet.run`.
    """
    pairs: list[tuple[Run, Run]] = []
    for number in range(rounds):
        own = replace(load, seed=load.seed + number)
        found: dict[str, Run] = {}
        for side in (a, b) if number % 2 == 0 else (b, a):
            key = "a" if side is a else "b"
            found[key] = fleet.run(side.url, side.dialect, own, on_progress=on_progress)
            if found[key].left_open is not None:
                return pairs
        pairs.append((found["a"], found["b"]))
    return pairs


def ratios(pairs: Sequence[tuple[Run, Run]], slos: Sequence[Slo]) -> dict[str, Ratio]:
    """Of every figure that both sides have, and that isn't 0, in every round; none of fewer than two."""
    if len(pairs) < 2:
        return {}
    figures = [(summarize(a, slos)["all"], summarize(b, slos)["all"]) for a, b in pairs]
    found = {}
    for name, path in COMPARED.items():
        values = [(_at(a, path), _at(b, path)) for a, b in figures]
        if all(a and b for a, b in values):
            found[name] = Ratio.of([a / b for a, b in values if a and b])
    return found


def _at(figures: Mapping[str, Any], path: Sequence[str]) -> float | None:
    value: Any = figures
    for name in path:
        value = value.get(name) if isinstance(value, Mapping) else None
    return value if isinstance(value, int | float) else None
