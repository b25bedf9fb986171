"""The client's processes, and one run over all of them."""

from __future__ import annotations

import contextlib
import multiprocessing
import signal
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from multiprocessing.connection import Connection
from typing import Any

from loadtest.client.arrivals import planned
from loadtest.client.asking import Dialect
from loadtest.client.record import Record
from loadtest.client.wire import OWN_LIMIT
from loadtest.client.worker import DONE, ERRORS, OPEN, TOKENS, Job, Outcome, histogram, work
from loadtest.client.workload import Workload

_HEAD_START_S = 0.05
_POLL_S = 0.2
_MOST_LAG_MS = 10.0
_MOST_LATE_MS = 25.0
_MOST_CPU = 0.9


class RunFailed(RuntimeError):
    """A worker could not do its part; the message says why."""


@dataclass(frozen=True, slots=True)
class Load:
    """What a run puts on a server: an open loop by arrivals, or a closed one."""

    workload: Workload
    duration_s: float
    warmup_s: float = 0.0
    """Requests meant to start before this are asked, but not counted; rates begin here, too."""
    arrivals: str = "poisson"
    rate: float | None = None
    concurrency: int = 0
    """0: open."""
    seed: int = 0


@dataclass(frozen=True, slots=True)
class Progress:
    elapsed_s: float
    done: int
    errors: int
    open: int
    tokens: int


@dataclass(slots=True)
class Run:
    """What all workers found in one run.

    Rates count what comes within a window from the warm-up's end to the load's end. Requests that are open
    then are waited for (the drain), so that their latencies count, too.
    """

    url: str
    load: Load
    began_s: float
    """The window's begin on the monotonic clock: the warm-up's end."""
    window_s: float
    records: list[Record]
    """Of requests meant to start in the window."""
    early: list[Record]
    """Of requests meant to start in the warm-up: what of them falls into the window counts in rates alone."""
    gaps: dict[int, Any]
    """By class: HdrHistogram of microseconds."""
    left_open: int | None = None
    """Requests that were not waited for when somebody stopped the run; None: nobody did."""
    client_limits: list[str] = field(default_factory=list)
    """Why the client itself may have been the limit; empty: it was not."""
    client: dict[str, float] = field(default_factory=dict)

    def ended_in_window(self, record: Record) -> bool:
        return self.began_s <= record.ended < self.began_s + self.window_s

    @property
    def drain_s(self) -> float:
        """From the window's end to the last answer."""
        last = max((record.ended for record in self.records), default=0.0)
        return max(0.0, last - self.began_s - self.window_s)


class Fleet:
    def __init__(self, ends: list[Connection], counters: Any) -> None:
        self._ends = ends
        self._counters = counters
        self._stopped_at: float | None = None

    def stop(self) -> None:
        """The run of now, or the next, ends with what it has. May be called from a signal's handler."""
        self._stopped_at = time.monotonic()

    def run(
        self, url: str, dialect: Dialect, load: Load, *, on_progress: Callable[[Progress], None] | None = None
    ) -> Run:
        """
        Raises:
            RunFailed, ArrivalsError
        """
        for place in range(len(self._counters)):
            self._counters[place] = 0
        begins = time.monotonic() + _HEAD_START_S
        jobs = self._jobs(url, dialect, load, begins)
        for end, job in zip(self._ends, jobs, strict=False):
            end.send(job)
        busy = self._ends[: len(jobs)]
        told = False
        outcomes = []
        for end in busy:
            while not end.poll(_POLL_S):
                if self._stopped_at is not None and not told:
                    told = True
                    for one in busy:
                        one.send(None)
                if on_progress is not None:
                    on_progress(self._progress(begins))
            try:
                outcomes.append(end.recv())
            except EOFError:
                raise RunFailed("a process of the client died") from None
        return _merged(url, load, begins, outcomes, stopped_at=self._stopped_at)

    def _jobs(self, url: str, dialect: Dialect, load: Load, begins: float) -> list[Job]:
        count = len(self._ends)

        def job(**kind: Any) -> Job:
            return Job(url, dialect, load.workload, load.seed, begins, load.duration_s, load.warmup_s, **kind)

        if load.concurrency:
            shares = [
                load.concurrency // count + (number < load.concurrency % count) for number in range(count)
            ]
            return [
                job(concurrency=share, first_index=number, index_step=count)
                for number, share in enumerate(shares)
                if share
            ]
        plan = planned(load.arrivals, rate=load.rate, duration_s=load.duration_s, seed=load.seed)
        return [job(planned=tuple(plan[number::count])) for number in range(count)]

    def _progress(self, begins: float) -> Progress:
        counters = self._counters
        elapsed_s = max(0.0, time.monotonic() - begins)
        return Progress(elapsed_s, counters[DONE], counters[ERRORS], counters[OPEN], counters[TOKENS])


@contextlib.contextmanager
def fleet(processes: int) -> Iterator[Fleet]:
    """Worker processes; they end with this one."""
    context = multiprocessing.get_context("spawn")
    # Without a lock: these numbers are for eyes only.
    counters = context.Array("q", 4, lock=False)
    ends: list[Connection] = []
    started: list[Any] = []
    try:
        for _ in range(processes):
            here, there = context.Pipe()
            process = context.Process(target=work, args=(there, counters), daemon=True)
            with _ignoring_interrupts():
                process.start()
            there.close()
            started.append(process)
            ends.append(here)
        for end in ends:
            end.recv()
        yield Fleet(ends, counters)
    finally:
        for end in ends:
            end.close()
        for process in started:
            process.join(2)
            process.terminate()
            process.join(5)


@contextlib.contextmanager
def _ignoring_interrupts() -> Iterator[None]:
    """What is started meanwhile doesn't hear Ctrl-C, which a terminal sends to all of its processes."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)


def _merged(url: str, load: Load, begins: float, outcomes: list[Outcome], *, stopped_at: float | None) -> Run:
    failed = [outcome.failed for outcome in outcomes if outcome.failed is not None]
    if failed:
        raise RunFailed(failed[0])
    counts_from, ends = begins + load.warmup_s, begins + load.duration_s
    if stopped_at is not None:
        ends = min(ends, stopped_at)
        if ends <= counts_from:
            raise RunFailed("stopped before anything was counted")
    asked = sorted((r for outcome in outcomes for r in outcome.records), key=lambda record: record.intended)
    records = [record for record in asked if record.intended >= counts_from]
    early = [record for record in asked if record.intended < counts_from]
    gaps: dict[int, Any] = {}
    for outcome in outcomes:
        for kind, encoded in outcome.gaps.items():
            gaps.setdefault(kind, histogram()).decode_and_add(encoded)
    run = Run(url, load, counts_from, ends - counts_from, records, early, gaps)
    if stopped_at is not None:
        run.left_open = sum(outcome.left_open for outcome in outcomes)
    late = histogram()
    for record in records:
        late.record_value(max(1, int((record.started - record.intended) * 1e6)))
    run.client = {
        "processes": len(outcomes),
        "timer_lag_p99_ms": round(max(outcome.lag_p99_ms for outcome in outcomes), 3),
        "late_start_p99_ms": round(late.get_value_at_percentile(99) / 1000, 3) if records else 0.0,
        "cpu_of_the_busiest": round(max(outcome.cpu for outcome in outcomes), 3),
    }
    own = Counter(r.error.removeprefix(OWN_LIMIT) for r in asked if r.error and r.error.startswith(OWN_LIMIT))
    run.client_limits = _limits(run.client) + [f"{kind}: {count} requests" for kind, count in own.items()]
    return run


def _limits(client: dict[str, float]) -> list[str]:
    most = {
        "timer_lag_p99_ms": (_MOST_LAG_MS, "its timers were late"),
        "late_start_p99_ms": (_MOST_LATE_MS, "requests started late"),
        "cpu_of_the_busiest": (_MOST_CPU, "a process of it was busy all the time"),
    }
    return [
        f"{what}: {name} {client[name]:g}, more than {limit:g}"
        for name, (limit, what) in most.items()
        if client[name] > limit
    ]
