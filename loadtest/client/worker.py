"""One process of the client: asks its part of the requests, and watches that it is not the limit itself."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import os
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from multiprocessing.connection import Connection
from typing import Any

import uvloop
from hdrh.histogram import HdrHistogram

from loadtest.client.arrivals import Planned
from loadtest.client.asking import Dialect, ask
from loadtest.client.record import Record
from loadtest.client.wire import Client, Target
from loadtest.client.workload import Workload

LONGEST_US = 3_600_000_000
_DIGITS = 3
_TIMER_STEP_S = 0.001
_LOOK_S = 0.01
DONE, ERRORS, TOKENS, OPEN = range(4)
"""Places in the counters that all processes share."""


def histogram() -> Any:
    """Microseconds up to an hour, to three digits."""
    return HdrHistogram(1, LONGEST_US, _DIGITS)


@dataclass(frozen=True, slots=True)
class Job:
    """A worker's part of one run."""

    url: str
    dialect: Dialect
    workload: Workload
    seed: int
    begins: float
    """On the monotonic clock."""
    duration_s: float
    warmup_s: float = 0.0
    planned: tuple[Planned, ...] = ()
    """Of an open loop."""
    concurrency: int = 0
    """Of a closed loop; 0: open."""
    first_index: int = 0
    index_step: int = 1


@dataclass(slots=True)
class Outcome:
    records: list[Record] = field(default_factory=list)
    gaps: dict[int, bytes] = field(default_factory=dict)
    """Time between updates, a histogram in HDR's encoding by class."""
    lag_p99_ms: float = 0.0
    """How late this process's own timers were."""
    cpu: float = 0.0
    """Part of one core."""
    left_open: int = 0
    """Requests that a stopped run did not wait for."""
    failed: str | None = None


def work(told: Connection, counters: Any) -> None:
    """Say that it is ready, then do jobs until the other end has gone. For `multiprocessing.Process`.

    None instead of a job stops the one before, if that still runs.
    """
    gc.freeze()
    gc.disable()
    told.send(None)
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner, contextlib.suppress(EOFError):
        while True:
            job: Job | None = told.recv()
            if job is None:
                continue
            try:
                outcome = runner.run(_run(job, counters, told))
            except ValueError as error:
                outcome = Outcome(failed=str(error))
            told.send(outcome)
            gc.collect()


async def _run(job: Job, counters: Any, told: Connection) -> Outcome:
    run = _Run(job, counters)
    # A timer may fire early, and what starts before the run is not counted.
    while (wait_s := job.begins - time.monotonic()) > 0:  # noqa: ASYNC110 - no event, but a time
        await asyncio.sleep(wait_s)
    cpu, began = time.process_time(), time.monotonic()
    watching = asyncio.create_task(run.watch())
    asking = asyncio.create_task(run.closed() if job.concurrency else run.open())
    with _stopped_by(told, asking), contextlib.suppress(asyncio.CancelledError):
        await asking
    watching.cancel()
    run.client.close()
    outcome = run.outcome
    outcome.cpu = (time.process_time() - cpu) / max(1e-9, time.monotonic() - began)
    outcome.lag_p99_ms = run.lag.get_value_at_percentile(99) / 1000
    outcome.gaps = {kind: found.encode() for kind, found in run.gaps.items()}
    return outcome


@contextlib.contextmanager
def _stopped_by(told: Connection, asking: asyncio.Task[None]) -> Iterator[None]:
    """Cancel `asking` when the other end says something, or has gone."""
    loop = asyncio.get_running_loop()

    def stop() -> None:
        loop.remove_reader(told.fileno())
        asking.cancel()

    loop.add_reader(told.fileno(), stop)
    try:
        yield
    finally:
        loop.remove_reader(told.fileno())
        # libuv made it non-blocking.
        os.set_blocking(told.fileno(), True)


def _forget(_: float) -> None:
    pass


class _Run:
    def __init__(self, job: Job, counters: Any) -> None:
        self.job = job
        self.outcome = Outcome()
        self.gaps: dict[int, Any] = {}
        self.lag = histogram()
        self._counters = counters
        self._target = Target.of(job.url)
        self.client = Client(self._target)

    async def open(self) -> None:
        """Every request at its time, however many are open by then."""
        asking: set[asyncio.Task[None]] = set()
        try:
            for planned in self.job.planned:
                intended = self.job.begins + planned.at_s
                # A timer counts whole milliseconds from the loop's last look at the clock: it may fire early.
                while (wait_s := intended - time.monotonic()) > _TIMER_STEP_S:  # noqa: ASYNC110 - as above
                    await asyncio.sleep(wait_s)
                intended = max(self.job.begins, min(intended, time.monotonic()))
                task = asyncio.create_task(self._ask(planned.index, intended, planned.overrides))
                asking.add(task)
                task.add_done_callback(asking.discard)
            await asyncio.gather(*asking)
        finally:
            left = list(asking)
            for task in left:
                task.cancel()
            await asyncio.gather(*left, return_exceptions=True)

    async def closed(self) -> None:
        """So many at a time, each followed by the next."""
        indices = self._indices()
        await asyncio.gather(*(self._ask_on(indices) for _ in range(self.job.concurrency)))

    async def _ask_on(self, indices: Iterator[int]) -> None:
        until = self.job.begins + self.job.duration_s
        while (now := time.monotonic()) < until:
            await self._ask(next(indices), now, {})

    def _indices(self) -> Iterator[int]:
        index = self.job.first_index
        while True:
            yield index
            index += self.job.index_step

    async def _ask(self, index: int, intended: float, overrides: dict[str, Any]) -> None:
        job, counters = self.job, self._counters
        asked = job.workload.request(index, seed=job.seed, overrides=overrides)
        counters[OPEN] += 1
        try:
            record = await ask(
                self.client,
                self._target,
                job.dialect,
                asked,
                intended=intended,
                on_gap=self._recorder(asked.kind_number, intended),
                window=(job.begins + job.warmup_s, job.begins + job.duration_s),
            )
        except asyncio.CancelledError:
            self.outcome.left_open += 1
            raise
        finally:
            counters[OPEN] -= 1
        counters[DONE] += 1
        counters[ERRORS] += record.error is not None
        counters[TOKENS] += record.completion_tokens
        self.outcome.records.append(record)

    def _recorder(self, kind: int, intended: float) -> Callable[[float], None]:
        if intended < self.job.begins + self.job.warmup_s:
            return _forget
        record_value = self.gaps.setdefault(kind, histogram()).record_value

        def on_gap(gap_s: float) -> None:
            record_value(min(LONGEST_US, max(1, int(gap_s * 1e6))))

        return on_gap

    async def watch(self) -> None:
        while True:
            before = time.monotonic()
            await asyncio.sleep(_LOOK_S)
            late_s = time.monotonic() - before - _LOOK_S
            self.lag.record_value(min(LONGEST_US, max(1, int(late_s * 1e6))))
