"""The highest rate of an open loop at which a server still keeps its service levels."""

from __future__ import annotations

from collections.abc import Callable, Generator, Sequence
from dataclasses import dataclass, replace
from statistics import correlation, linear_regression
from typing import Literal

from loadtest.client.asking import Dialect
from loadtest.client.fleet import Fleet, Load, Progress, Run
from loadtest.client.record import Record
from loadtest.client.slo import Slo, is_good

_GROWTH = 2.0
_MOST_STEPS_UP = 16
_MOST_TRIES = 3
"""Of a rate at which the client was the limit, which says nothing about the server."""
_SETTLED = 0.25
"""First part of a trial in which latencies may still grow: a server that was idle fills up."""
_FALLS_BEHIND = 0.05
"""Seconds that latencies grow by in a second: the server does so much less than it is asked for."""
_SURE = 3.0
"""Standard deviations that the order of latencies must be from chance."""
_SMALL_LEVEL = 0.1
"""Part of a trial that a service level may be for a backlog to reach it within the trial."""

Verdict = Literal["held", "missed", "unknown"]


@dataclass(frozen=True, slots=True)
class Trial:
    rate: float
    good_part: float
    growth: float | None
    """Seconds that end-to-end latencies grew by in a second; None: not for sure at all."""
    run: Run
    verdict: Verdict


@dataclass(frozen=True, slots=True)
class Highest:
    """What trials say of the highest rate that holds."""

    trial: Trial | None
    """The highest that held; None: not even the first."""
    at_least: bool
    """Nothing says that a higher rate would not hold."""


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

    Every trial has a seed of its own, so that no prompt is in a prefix cache because of an earlier one. The
    search ends with a rate at which the client is the limit time and again, and with a run that is stopped.

    Args:
        load: its rate is the first one tried.
        precision: stops when the gap is at most this part of the highest rate that held.

    Raises: as `Fleet.run`.
    """
    trials: list[Trial] = []
    rates = search(load.rate or 1.0, precision)
    rate = next(rates)
    tries = 0
    while True:
        own = replace(load, rate=rate, seed=load.seed + len(trials))
        run = fleet.run(url, dialect, own, on_progress=on_progress)
        if run.left_open is not None and trials:
            return trials
        trial = judged(rate, run, slos, good_part)
        trials.append(trial)
        on_trial(trial)
        tries = tries + 1 if trial.verdict == "unknown" else 0
        if run.left_open is not None or tries == _MOST_TRIES:
            return trials
        if trial.verdict == "unknown":
            continue
        try:
            rate = rates.send(trial.verdict == "held")
        except StopIteration:
            return trials


def judged(rate: float, run: Run, slos: Sequence[Slo], good_part: float) -> Trial:
    good = sum(is_good(record, slos) for record in run.records)
    part = good / len(run.records) if run.records else 0.0
    growth = latency_growth(run)
    verdict: Verdict = "held" if part >= good_part and growth is None else "missed"
    # What comes of a rate that the client did not keep, or that was cut short, is not the server's doing.
    if run.client_limits or run.left_open is not None:
        verdict = "unknown"
    return Trial(rate, part, growth, run, verdict)


def latency_growth(run: Run) -> float | None:
    """Seconds by which latencies grow in a second, if the server falls behind; None: not for sure.

    A backlog may be far from a service level when a trial ends, and yet grow for as long as the load lasts.
    """
    since = run.began_s + _SETTLED * run.window_s
    settled = [r for r in run.records if r.error is None and r.intended >= since]
    latencies = [_latency_s(record) for record in settled]
    if len(latencies) < 3 or len(set(latencies)) < 2:
        return None
    ranks = [0] * len(latencies)
    for rank, place in enumerate(sorted(range(len(latencies)), key=latencies.__getitem__)):
        ranks[place] = rank
    # Spearman's rank correlation with the order of arrival; its deviation by chance is 1/sqrt(n - 1).
    if correlation(range(len(ranks)), ranks) * (len(ranks) - 1) ** 0.5 < _SURE:
        return None
    slope = linear_regression([record.intended for record in settled], latencies).slope
    return slope if slope > _FALLS_BEHIND else None


def _latency_s(record: Record) -> float:
    return record.ended - record.intended


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


def highest(trials: Sequence[Trial]) -> Highest:
    held = [trial for trial in trials if trial.verdict == "held"]
    missed = any(trial.verdict == "missed" for trial in trials)
    return Highest(max(held, key=lambda trial: trial.rate, default=None), not missed)


def about_trials(trials: Sequence[Trial], slos: Sequence[Slo]) -> list[str]:
    """What a reader of the result has to know, in sentences."""
    said = sorted(
        {
            f"The client was the limit at {trial.rate:g} requests per second: {limit}."
            for trial in trials
            for limit in trial.run.client_limits
        }
    )
    if trials and trials[-1].verdict == "unknown" and trials[-1].run.client_limits:
        said.append(
            f"The search ended there, after {_MOST_TRIES} tries: a higher rate than the one shown may hold."
        )
    said += [
        f"{trial.rate:g} requests per second did not hold: latencies grew by {trial.growth:.2f} s a second."
        for trial in trials
        if trial.growth is not None and trial.verdict == "missed"
    ]
    window_s = min((trial.run.window_s for trial in trials), default=0.0)
    for slo in slos:
        if slo.most / 1000 > _SMALL_LEVEL * window_s:
            said.append(
                f"--slo {slo.measure}={slo.most:g} is more than a tenth of a trial ({window_s:g} s): "
                "a slow overload may not show. Give a longer --duration-s."
            )
    return said
