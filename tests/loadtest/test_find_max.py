"""The search for the highest rate: what a trial says of the server, and what it only says of the client."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, cast

import pytest

from loadtest.client.asking import Dialect
from loadtest.client.counting import Markers
from loadtest.client.find_max import Trial, about_trials, find_max, highest, judged, search
from loadtest.client.fleet import Fleet, Load, Run
from loadtest.client.record import Record
from loadtest.client.result import result
from loadtest.client.slo import Slo
from loadtest.client.workload import read_workload

SHORT = read_workload("short")
LAX = [Slo.read("e2e_ms=6000")]
LIMIT = "its timers were late: timer_lag_p99_ms 30, more than 10"


def test_the_search_finds_where_a_rate_stops_holding() -> None:
    rates = search(10, 0.1)
    tried = [next(rates)]
    with pytest.raises(StopIteration):
        while True:
            tried.append(rates.send(tried[-1] <= 57))
    held = max(rate for rate in tried if rate <= 57)
    assert 50 <= held <= 57
    assert len(tried) < 12


def queue(load: Load, *, service_s: float = 0.05, noise: str | None = None) -> Run:
    """What a server that answers one request after another gives, at even arrivals."""
    rate, free_at = load.rate or 1.0, 0.0
    records = []
    for number in range(int(load.duration_s * rate)):
        intended = number / rate
        free_at = max(free_at, intended) + service_s
        records.append(
            Record(0, intended, started=intended, first_answer=free_at, ended=free_at, completion_tokens=1)
        )
    run = Run("http://x", load, 0.0, load.duration_s, records, [], {})
    run.client_limits = [noise] if noise else []
    return run


class Server:
    """Stands in for the client's processes and the server behind them."""

    def __init__(self, noisy: Callable[[int, float], bool] = lambda number, rate: False) -> None:
        self.loads: list[Load] = []
        self._noisy = noisy

    def run(self, url: str, dialect: Dialect, load: Load, *, on_progress: Any = None) -> Run:
        self.loads.append(load)
        noise = LIMIT if self._noisy(len(self.loads), load.rate or 0.0) else None
        return queue(load, noise=noise)


def searched(server: Server, *, rate: float = 4, slos: list[Slo] = LAX, duration_s: float = 8) -> list[Trial]:
    return find_max(
        cast(Fleet, server),
        "http://x",
        Dialect("m", "none", False, Markers()),
        Load(SHORT, duration_s, rate=rate),
        slos=slos,
        good_part=0.99,
        precision=0.1,
        on_trial=lambda trial: None,
    )


def told(trials: list[Trial]) -> dict[str, Any]:
    shown = trials[0].run
    return result(
        {"x": [shown]}, provenance={}, targets=[{"url": "x"}], load=shown.load, slos=LAX, trials=trials
    )


def test_a_rate_at_which_latencies_still_grow_does_not_hold() -> None:
    """24 requests a second for a server of 20: all within 6 s of a trial of 8 s, and later not."""
    trial = judged(24, queue(Load(SHORT, 8, rate=24)), LAX, 0.99)
    assert (trial.good_part, trial.verdict) == (1.0, "missed")
    assert trial.growth == pytest.approx(0.2, abs=0.02)
    assert judged(19, queue(Load(SHORT, 8, rate=19)), LAX, 0.99).verdict == "held"
    trials = searched(Server())
    best = highest(trials)
    assert best.trial is not None and 17 < best.trial.rate <= 20 and not best.at_least
    found = told(trials)
    assert (found["highest_rate"], found["highest_rate_is_at_least"]) == (best.trial.rate, False)
    assert any("latencies grew by" in warning for warning in found["warnings"])
    assert any("e2e_ms=6000 is more than a tenth" in warning for warning in found["warnings"])
    assert not about_trials(searched(Server(), duration_s=80)[:1], LAX)


def test_latencies_that_only_scatter_do_not_grow() -> None:
    run = queue(Load(SHORT, 20, rate=10))
    for number, record in enumerate(run.records):
        record.ended += (number * 7919 % 100) / 50
    assert judged(10, run, LAX, 0.99).growth is None


def test_no_trial_asks_what_another_has_asked() -> None:
    server = Server()
    searched(server)
    seeds = [load.seed for load in server.loads]
    assert len(set(seeds)) == len(seeds) > 3


def test_a_passing_noise_of_the_client_is_tried_again() -> None:
    noisy = Server(lambda number, rate: number in (1, 3))
    found, quiet = highest(searched(noisy)), highest(searched(Server()))
    assert found.trial is not None and quiet.trial is not None
    assert (found.trial.rate, found.at_least) == (quiet.trial.rate, False)


def test_a_client_that_is_the_limit_leaves_a_lower_bound_and_says_so() -> None:
    trials = searched(Server(lambda number, rate: rate > 10))
    assert [trial.verdict for trial in trials] == ["held", "held", "unknown", "unknown", "unknown"]
    found = told(trials)
    assert (found["highest_rate"], found["highest_rate_is_at_least"]) == (8, True)
    assert [trial["held"] for trial in found["trials"]] == [True, True, None, None, None]
    assert f"The client was the limit at 16 requests per second: {LIMIT}." in found["warnings"]
    assert any("a higher rate than the one shown may hold" in warning for warning in found["warnings"])
