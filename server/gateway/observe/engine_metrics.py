"""Prometheus metrics of the gateway's engines and queues, read from their state when they are scraped."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import get_args

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from server.gateway.engines.engine import Enforcement, EngineState
from server.gateway.engines.pool import EnginePool


class EngineCollector(Collector):
    """What the pool knows of its engines. Labels are bounded by the engines there are."""

    def __init__(self, pool: EnginePool) -> None:
        self._pool = pool

    def collect(self) -> Iterator[Metric]:
        yield from self._states()
        yield self._gauge(
            "s1_engine_outstanding_generations",
            "Generations under way on an engine.",
            {engine.url: engine.outstanding for engine in self._pool.engines},
        )
        yield self._gauge(
            "s1_engine_open_streams",
            "Connections to an engine that wait for more of an answer.",
            {engine.url: engine.open_streams for engine in self._pool.engines},
        )
        yield self._gauge(
            "s1_engine_committed_tokens",
            "What the requests on an engine may come to hold in its KV cache, at worst.",
            {engine.url: engine.committed_tokens for engine in self._pool.engines},
        )
        yield self._gauge(
            "s1_engine_kv_cache_tokens",
            "What an engine's KV cache holds, if it says.",
            {engine.url: engine.status.kv_cache_tokens for engine in self._pool.engines},
        )
        yield self._counter(
            "s1_engine_stream_parts",
            "Parts of streams that came from an engine: as long as it grows, the engine makes tokens.",
            {engine.url: engine.parts_received for engine in self._pool.engines},
        )
        yield self._counter(
            "s1_engine_reconnects",
            "Times that an engine came back.",
            {engine.url: engine.status.reconnects for engine in self._pool.engines},
        )

    def _states(self) -> Iterator[Metric]:
        state = GaugeMetricFamily(
            "s1_engine_state", "1 for the state an engine is in.", labels=("engine", "state")
        )
        enforcement = GaugeMetricFamily(
            "s1_engine_enforcement",
            "1 for how thinking budgets are enforced on an engine, as its last probe proved.",
            labels=("engine", "enforcement"),
        )
        for engine in self._pool.engines:
            for name in get_args(EngineState):
                state.add_metric((engine.url, name), engine.status.state == name)
            for name in get_args(Enforcement):
                enforcement.add_metric((engine.url, name), engine.status.enforcement == name)
        yield from (state, enforcement)

    def _gauge(self, name: str, text: str, values: dict[str, int | None]) -> Metric:
        metric = GaugeMetricFamily(name, text, labels=("engine",))
        for url, value in values.items():
            if value is not None:
                metric.add_metric((url,), value)
        return metric

    def _counter(self, name: str, text: str, values: dict[str, int]) -> Metric:
        metric = CounterMetricFamily(name, text, labels=("engine",))
        for url, value in values.items():
            metric.add_metric((url,), value)
        return metric


class QueueCollector(Collector):
    def __init__(self, waiting: Callable[[], dict[str, int]]) -> None:
        """
        Args:
            waiting: requests that wait for room in an engine, by model.
        """
        self._waiting = waiting

    def collect(self) -> Iterator[Metric]:
        depth = GaugeMetricFamily(
            "s1_queue_depth_requests", "Requests that wait for room in an engine.", labels=("model",)
        )
        for model, waiting in self._waiting().items():
            depth.add_metric((model,), waiting)
        yield depth
