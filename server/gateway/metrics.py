"""Prometheus metrics of the gateway, read from its state when they are scraped: never stale."""

from __future__ import annotations

from collections.abc import Iterator
from typing import get_args

from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.core import GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from server.gateway.engine import Enforcement, EngineState
from server.gateway.upstream import EnginePool


class EngineCollector(Collector):
    """What the pool knows of its engines. Labels are bounded by the configured engine URLs."""

    def __init__(self, pool: EnginePool) -> None:
        self._pool = pool

    def collect(self) -> Iterator[Metric]:
        state = GaugeMetricFamily(
            "s1_engine_state", "1 for the state an engine is in.", labels=("engine", "state")
        )
        enforcement = GaugeMetricFamily(
            "s1_engine_enforcement",
            "1 for how thinking budgets are enforced on an engine, as its last probe proved.",
            labels=("engine", "enforcement"),
        )
        outstanding = GaugeMetricFamily(
            "s1_engine_outstanding_generations", "Generations under way on an engine.", labels=("engine",)
        )
        for engine in self._pool.engines:
            for name in get_args(EngineState):
                state.add_metric((engine.url, name), engine.status.state == name)
            for name in get_args(Enforcement):
                enforcement.add_metric((engine.url, name), engine.status.enforcement == name)
            outstanding.add_metric((engine.url,), engine.outstanding)
        yield from (state, enforcement, outstanding)


def render(pool: EnginePool) -> bytes:
    """The metrics in Prometheus' text format."""
    registry = CollectorRegistry()
    registry.register(EngineCollector(pool))
    return generate_latest(registry)
