"""What /metrics says of the engines, as Prometheus' own parser reads it."""

from __future__ import annotations

from contextlib import AsyncExitStack

import httpx
from prometheus_client.parser import text_string_to_metric_families

from tests.gateway.serving import eventually, gateway
from tests.gateway.stand_in import StandIn, running


async def samples(client: httpx.AsyncClient) -> dict[tuple[str, ...], float]:
    """Values by metric name and label values, the engine's URL last."""
    response = await client.get("/metrics")
    assert response.headers["content-type"].startswith("text/plain")
    found = {}
    for family in text_string_to_metric_families(response.text):
        for sample in family.samples:
            engine = sample.labels.pop("engine")
            found[sample.name, *sample.labels.values(), engine] = sample.value
    return found


async def test_the_enforcement_of_each_engine_is_a_metric() -> None:
    async with (
        running(StandIn()) as native,
        running(StandIn(has_plugin=False)) as plain,
        gateway(native.url, plain.url) as client,
    ):
        found = await samples(client)
        for url, enforced in ((native.url, "native"), (plain.url, "none")):
            shown = {mode: found["s1_engine_enforcement", mode, url] for mode in ("native", "rounds", "none")}
            assert shown == {mode: float(mode == enforced) for mode in shown}
            assert found["s1_engine_state", "ready", url] == 1
            assert found["s1_engine_state", "down", url] == 0
            assert found["s1_engine_outstanding_generations", url] == 0


async def test_an_engine_that_went_down_shows_it() -> None:
    async with AsyncExitStack() as stack:
        engine = await stack.enter_async_context(running(StandIn()))
        async with gateway(engine.url) as client:
            await stack.aclose()
            await eventually(lambda: client.pool.engines[0].status.state == "down")
            found = await samples(client)
            assert found["s1_engine_state", "down", engine.url] == 1
            assert found["s1_engine_enforcement", "none", engine.url] == 1
