"""Two servers under the same load, in turns, so that a change of the machine's mood hits both."""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from statistics import median
from typing import Any

from loadtest.client.asking import Dialect
from loadtest.client.fleet import Fleet, Load, Progress, Run
from loadtest.client.slo import Slo
from loadtest.client.summary import summarize

_RESAMPLES = 2000
_INTERVAL = 0.95
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


@dataclass(frozen=True, slots=True)
class Ratio:
    """Of A to B: the median of the rounds' ratios, with a bootstrap interval of that median."""

    rounds: tuple[float, ...]
    median: float
    low: float
    high: float

    @classmethod
    def of(cls, ratios: Sequence[float], *, seed: int = 0) -> Ratio:
        rng = random.Random(seed)  # noqa: S311 - reproducible, not secret
        medians = sorted(median(rng.choices(ratios, k=len(ratios))) for _ in range(_RESAMPLES))
        cut = round((1 - _INTERVAL) / 2 * _RESAMPLES)
        return cls(tuple(ratios), median(ratios), medians[cut], medians[-cut - 1])

    def as_json(self) -> dict[str, Any]:
        return {
            "median": round(self.median, 4),
            "interval": [round(self.low, 4), round(self.high, 4)],
            "rounds": [round(ratio, 4) for ratio in self.rounds],
        }


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

    Raises: as `Fleet.run`.
    """
    pairs = []
    for number in range(rounds):
        own = replace(load, seed=load.seed + number)
        found: dict[str, Run] = {}
        for side in (a, b) if number % 2 == 0 else (b, a):
            key = "a" if side is a else "b"
            found[key] = fleet.run(side.url, side.dialect, own, on_progress=on_progress)
        pairs.append((found["a"], found["b"]))
    return pairs


def ratios(pairs: Sequence[tuple[Run, Run]], slos: Sequence[Slo]) -> dict[str, Ratio]:
    """Of every figure that both sides have in every round."""
    figures = [(summarize(a, slos)["all"], summarize(b, slos)["all"]) for a, b in pairs]
    found = {}
    for name, path in COMPARED.items():
        values = [(_at(a, path), _at(b, path)) for a, b in figures]
        if all(a is not None and b for a, b in values):
            found[name] = Ratio.of([float(a) / float(b) for a, b in values if a is not None and b])
    return found


def _at(figures: Mapping[str, Any], path: Sequence[str]) -> float | None:
    value: Any = figures
    for name in path:
        value = value.get(name) if isinstance(value, Mapping) else None
    return value if isinstance(value, int | float) else None
