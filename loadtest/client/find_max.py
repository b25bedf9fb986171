"""The highest rate of an open loop at which a server still keeps its service levels."""

from __future__ import annotations

from collections.abc import Callable, Generator
from dataclasses import dataclass, replace

from loadtest.client.asking import Dialect
from loadtest.client.fleet import Fleet, Load, Progress, Run
from loadtest.client.slo import Slo, is_good

_GROWTH = 2.0
_MOST_STEPS_UP = 16


@dataclass(frozen=True, slots=True)
class Trial:
    rate: float
    good_part: float
    run: Run

    @property
    def client_was_the_limit(self) -> bool:
        return bool(self.run.client_limits)


def find_max(
    fleet: Fleet,
    url: str,
    dialect: Dialect,
    load: Load,
    *,
    slos: list[Slo],
    good_part: float,
    precision: float,
    on_trial: Callable[[Trial], None],
    on_progress: Callable[[Progress], None] | None = None,
) -> list[Trial]:
    """Double the rate until fewer than `good_part` of the requests are good, then halve the gap.

    Args:
        load: its rate is the first one tried.
        precision: stops when the gap is at most this part of the highest rate that held.

    Raises: as `Fleet.run`.
    """
    trials = []
    rates = search(load.rate or 1.0, precision)
    rate = next(rates)
    while True:
        run = fleet.run(url, dialect, replace(load, rate=rate), on_progress=on_progress)
        good = sum(is_good(record, slos) for record in run.records)
        trial = Trial(rate, good / len(run.records) if run.records else 0.0, run)
        trials.append(trial)
        on_trial(trial)
        # A rate at which the client was late says nothing about the server beyond it.
        held = trial.good_part >= good_part and not trial.client_was_the_limit
        try:
            rate = rates.send(held)
        except StopIteration:
            return trials


def search(first: float, precision: float) -> Generator[float, bool, None]:
    """Rates to try; each is answered with whether it held."""
    low, high, rate = 0.0, float("inf"), first
    for _ in range(_MOST_STEPS_UP):
        if not (yield rate):
            high = rate
            break
        low, rate = rate, rate * _GROWTH
    else:
        return
    while high - low > precision * max(low, first * precision):
        rate = (low + high) / 2
        if (yield rate):
            low = rate
        else:
            high = rate


def highest(trials: list[Trial], good_part: float) -> Trial | None:
    """The highest rate that held; None: not even the first."""
    held = [t for t in trials if t.good_part >= good_part and not t.client_was_the_limit]
    return max(held, key=lambda trial: trial.rate, default=None)
