"""What /metrics says of the engines, as Prometheus' own parser reads it."""

from __future__ import annotations

from contextlib import AsyncExitStack

from tests.gateway.scraping import scrape, series
from tests.gateway.serving import eventually, gateway
from tests.gateway.stand_in import StandIn, running


async def test_the_enforcement_of_each_engine_is_a_metric() -> None:
    async with (
        running(StandIn(kv_blocks=10)) as native,
        running(StandIn(has_plugin=False)) as plain,
        gateway(native.url, plain.url) as client,
    ):
        found = await scrape(client)
        for url, enforced in ((native.url, "native"), (plain.url, "none")):
            for mode in ("native", "rounds", "none"):
                shown = found[series("s1_engine_enforcement", engine=url, enforcement=mode)]
                assert shown == float(mode == enforced)
            assert found[series("s1_engine_state", engine=url, state="ready")] == 1
            assert found[series("s1_engine_state", engine=url, state="down")] == 0
            assert found[series("s1_engine_outstanding_generations", engine=url)] == 0
        assert found[series("s1_engine_kv_cache_tokens", engine=native.url)] == 160
        assert series("s1_engine_kv_cache_tokens", engine=plain.url) not in found


async def test_an_engine_that_went_down_shows_it() -> None:
    async with AsyncExitStack() as stack:
        engine = await stack.enter_async_context(running(StandIn()))
        async with gateway(engine.url) as client:
            await stack.aclose()
            await eventually(lambda: client.pool.engines[0].status.state == "down")
            found = await scrape(client)
            assert found[series("s1_engine_state", engine=engine.url, state="down")] == 1
            assert found[series("s1_engine_enforcement", engine=engine.url, enforcement="none")] == 1


async def test_engines_are_targets_for_prometheus() -> None:
    async with running(StandIn()) as one, running(StandIn()) as two, gateway(one.url, two.url) as client:
        targets = (await client.get("/s1/scrape_targets")).json()
        assert targets == [
            {
                "targets": [url.removeprefix("http://")],
                "labels": {"engine": url, "__scheme__": "http", "__metrics_path__": "/metrics"},
            }
            for url in (one.url, two.url)
        ]
