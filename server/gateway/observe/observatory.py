"""All observing of an application, put together: who listens, what runs now, and the metrics' registry."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

from prometheus_client import CollectorRegistry, Info, ProcessCollector
from prometheus_client.core import GaugeMetricFamily, Metric
from prometheus_client.exposition import choose_encoder
from prometheus_client.registry import Collector
from starlette.datastructures import Headers

from server import __version__
from server.gateway.engines.pool import EnginePool
from server.gateway.observe.engine_metrics import EngineCollector, QueueCollector
from server.gateway.observe.instruments import NO_MODEL, Instruments
from server.gateway.observe.observation import Api, EngineWatch, Observation, Sink
from server.gateway.observe.observer import UNOBSERVED, Observer
from server.gateway.observe.request_log import RequestLog
from server.gateway.observe.trace_context import TraceContext, enter_trace, read_trace_context
from server.gateway.settings import Settings, SettingsError

if TYPE_CHECKING:
    from server.gateway.observe.tracing import Tracing


_COUNTED_TOGETHER = 64
"""Requests that have ended; a reader of the metrics has all of them counted."""
_COUNTED_AFTER_S = 1.0
"""At the latest, so that what was seen of them doesn't stay in memory."""


class Observatory:
    """Everything here belongs to one application; nothing is shared with others in the process."""

    def __init__(self, settings: Settings, pool: EnginePool) -> None:
        """
        Raises:
            SettingsError: the packages for tracing are not installed.
        """
        self.is_on = settings.observe == "on"
        self._pool = pool
        self._running: dict[int, Observation] = {}
        self._registry = CollectorRegistry()
        self._instruments: Instruments | None = None
        self._sinks: list[Sink] = []
        self.tracing = _tracing(settings)
        if self.is_on:
            self._instruments = Instruments(self._registry, per_key=settings.metrics_per_key == "on")
            self._sinks.append(self._instruments)
            if self.tracing is not None:
                self._sinks.append(self.tracing)
            if settings.log_requests == "on":
                self._sinks.append(RequestLog(content=settings.log_content == "on"))
            self._registry.register(_RunningCollector(self))
        self._registry.register(EngineCollector(pool))
        ProcessCollector(registry=self._registry)
        Info("s1_build", "The gateway's version.", registry=self._registry).info({"version": __version__})

    def watch_queue(self, waiting: Callable[[], dict[str, int]]) -> None:
        """Tell of the requests that wait for room in an engine, by model."""
        self._registry.register(QueueCollector(waiting))

    def begin(self, api: Api, headers: Headers, state: dict[str, Any]) -> Observer:
        parent = read_trace_context(headers)
        if not self.is_on:
            enter_trace(parent)
            return UNOBSERVED
        seen = Observation(
            api,
            time.perf_counter(),
            time.time_ns(),
            self._sinks,
            parent=parent,
            trace=parent,
            state=state,
        )
        for sink in self._sinks:
            sink.started(seen)
        enter_trace(seen.trace)
        self._running[id(seen)] = seen
        return seen

    def end(self, seen: Observation) -> None:
        self._running.pop(id(seen), None)
        seen.finish()
        if self._instruments is None:
            return
        # By the loop, so that no request has to do with the counting of others.
        if self._instruments.behind == 1:
            asyncio.get_running_loop().call_later(_COUNTED_AFTER_S, self._instruments.catch_up)
        elif self._instruments.behind == _COUNTED_TOGETHER:
            asyncio.get_running_loop().call_soon(self._instruments.catch_up)

    async def close(self) -> None:
        """Send the spans that are left."""
        if self.tracing is not None:
            await asyncio.to_thread(self.tracing.close)

    @property
    def running(self) -> tuple[Observation, ...]:
        """The requests that have come and haven't ended, the oldest first."""
        return tuple(self._running.values())

    def render(self, accept: str) -> tuple[bytes, str]:
        """The metrics in the best format that `accept` takes, and its content type.

        Only OpenMetrics has exemplars.
        """
        self._refresh()
        encode, content_type = choose_encoder(accept)
        return encode(self._registry), content_type

    def collect(self) -> list[Metric]:
        """The metrics as they are now."""
        self._refresh()
        return list(self._registry.collect())

    def _refresh(self) -> None:
        if self._instruments is None:
            return
        engines = (engine.url for engine in self._pool.engines)
        self._instruments.know(models=self._pool.models(), engines=engines)
        for seen in self.running:
            self._instruments.count_intervals(seen)


def _tracing(settings: Settings) -> Tracing | None:
    if settings.otlp_endpoint is None:
        return None
    try:
        from server.gateway.observe.tracing import make_tracing
    except ImportError:
        raise SettingsError(
            "otlp_endpoint: needs OpenTelemetry: install the extra `tracing` (pip install -e '.[tracing]')"
        ) from None
    return make_tracing(settings.otlp_endpoint, sample_ratio=settings.trace_sample_ratio)


class _RunningCollector(Collector):
    def __init__(self, observatory: Observatory) -> None:
        self._observatory = observatory

    def collect(self) -> Iterator[Metric]:
        metric = GaugeMetricFamily(
            "s1_requests_in_flight", "Requests under way, by how far they are.", labels=("model", "phase")
        )
        counts: dict[tuple[str, str], int] = {}
        for seen in self._observatory.running:
            at = (seen.model or NO_MODEL, seen.phase)
            counts[at] = counts.get(at, 0) + 1
        for (model, phase), count in counts.items():
            metric.add_metric((model, phase), count)
        yield metric


def describe_running(seen: Observation) -> dict[str, Any]:
    """What operators see of a request under way: never what it says."""
    now = seen.clock()
    return {
        "id": f"chatcmpl-{seen.request_id}",
        "request_id": seen.request_id,
        "trace_id": _trace_id(seen.trace),
        "api": seen.api,
        "model": seen.model,
        "key": seen.key,
        "engine": seen.engines[-1] if seen.engines else None,
        "stream": seen.call.stream if seen.call is not None else None,
        "phase": seen.phase,
        "age_s": round(now - seen.started, 3),
        "choices": [_describe_watch(watch, now) for watch in seen.watches],
    }


def _describe_watch(watch: EngineWatch, now: float) -> dict[str, Any]:
    budget = watch.call.budget
    return {
        "index": watch.call.index,
        "thinking_tokens": watch.thinking_tokens,
        "answer_tokens": watch.answer_tokens,
        "max_thinking_tokens": budget.max_thinking_tokens,
        "min_thinking_tokens": budget.min_thinking_tokens,
        "num_waits": budget.num_waits,
        "idle_s": round(now - (watch.last_part if watch.last_part is not None else watch.begun), 3),
        "ended": watch.ended is not None,
    }


def _trace_id(trace: TraceContext | None) -> str | None:
    return trace.trace_id if trace is not None else None
