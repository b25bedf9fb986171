"""Engines that come and go behind a name, and one that answers but makes no tokens."""

from __future__ import annotations

import asyncio
import json
import time
from typing import Any

import pytest

from server.gateway.engines.discovery import engine_urls, resolve_addresses
from server.gateway.engines.progress import ProgressWatch, tokens_made
from server.gateway.settings import Settings
from tests.gateway.serving import eventually, gateway
from tests.gateway.stand_in import Faults, StandIn, running
from tests.gateway.test_gateway_chat import ASK


async def test_the_addresses_of_a_name_are_followed() -> None:
    known: set[str] = set()

    async def resolve(host: str, port: int) -> frozenset[str]:
        assert host == "engines"
        if not known:
            raise OSError("no such name")
        return frozenset(known)

    async with running(StandIn(models=("a",))) as first:
        port = int(first.url.rpartition(":")[2])
        name = f"dns+http://engines:{port}"
        async with (
            running(StandIn(models=("b",)), host="127.0.0.2", port=port) as second,
            gateway(name, wait_ready=False, resolve=resolve) as client,
        ):
            assert (await client.get("/ready")).json()["engines"] == []
            response = await client.post("/v1/chat/completions", json=ASK)
            assert response.status_code == 503
            known.add("127.0.0.1")
            await eventually(lambda: [engine.url for engine in client.pool.ready] == [first.url])
            known.add("127.0.0.2")
            await eventually(lambda: {engine.url for engine in client.pool.ready} == {first.url, second.url})
            assert (await client.post("/v1/chat/completions", json=ASK | {"model": "b"})).status_code == 200
            known.remove("127.0.0.1")
            await eventually(lambda: [engine.url for engine in client.pool.engines] == [second.url])
            known.clear()  # a resolver that fails takes nobody out
            assert (await client.post("/v1/chat/completions", json=ASK | {"model": "b"})).status_code == 200


async def test_a_request_under_way_outlives_its_engines_address() -> None:
    addresses = [frozenset({"127.0.0.1"})]

    async def resolve(host: str, port: int) -> frozenset[str]:
        return addresses[-1]

    async with running(StandIn(models=("tiny",), faults=Faults(stall_after=3))) as engine:
        name = f"dns+http://engines:{engine.url.rpartition(':')[2]}"
        async with gateway(name, wait_ready=False, resolve=resolve) as client:
            await eventually(lambda: client.pool.ready)
            stream = asyncio.create_task(client.post("/v1/chat/completions", json=ASK | {"stream": True}))
            await eventually(lambda: engine.active == 1)
            addresses.append(frozenset())
            await eventually(lambda: not client.pool.engines)
            engine.release.set()
            assert (await stream).text.rstrip().endswith("[DONE]")


async def test_names_and_addresses() -> None:
    assert "127.0.0.1" in await resolve_addresses("localhost", 80)

    async def resolve(host: str, port: int) -> frozenset[str]:
        return frozenset({"10.0.0.7", "fd00::7"})

    found = await engine_urls("dns+http://engines.ns.svc:8001", resolve)
    assert found == {"http://10.0.0.7:8001", "http://[fd00::7]:8001"}


@pytest.mark.parametrize("url", ["dns+https://a:1", "dns://a:1", "a:1", "http://a:1/v1"])
def test_other_urls_are_refused(url: str) -> None:
    with pytest.raises(ValueError, match="dns\\+http://NAME:PORT"):
        Settings(engine_urls=(url,))


@pytest.mark.parametrize("stream", [True, False], ids=["stream", "whole"])
async def test_an_engine_that_makes_no_tokens_is_taken_out(stream: bool) -> None:
    stalled = StandIn(faults=Faults(stall_after=3 if stream else 0), tokens_made=12)
    async with running(stalled) as engine, gateway(engine.url, stall_timeout_s=0.3) as client:
        response = await client.post("/v1/chat/completions", json=ASK | {"stream": stream})
        if stream:
            error = json.loads(response.text.rstrip().rpartition("data: ")[2])["error"]
        else:
            assert response.status_code == 503
            error = response.json()["error"]
        assert error["code"] == "engine_died"
        await eventually(lambda: engine.active == 0)
        engine.faults = Faults()
        await eventually(lambda: client.pool.ready)
        assert client.pool.engines[0].status.reconnects == 1
        assert (await client.post("/v1/chat/completions", json=ASK)).status_code == 200


async def test_an_engine_that_is_only_slow_is_left_alone() -> None:
    slow = StandIn(faults=Faults(stall_after=0), tokens_made=0)
    async with running(slow) as engine, gateway(engine.url, stall_timeout_s=0.5) as client:
        whole = asyncio.create_task(client.post("/v1/chat/completions", json=ASK))
        await eventually(lambda: engine.active == 1)
        for _ in range(40):  # longer than the timeout, in looks at the engine
            engine.tokens_made += 1
            seen = engine.metrics_read
            await eventually(lambda seen=seen: engine.metrics_read > seen)
        assert client.pool.engines[0].status.state == "ready"
        engine.release.set()
        assert (await whole).status_code == 200


async def test_an_engine_whose_reader_is_slow_is_left_alone() -> None:
    talkative = StandIn(answers=dict.fromkeys((1, 2, 3), "x" * 8_000_000), tokens_made=12)
    async with running(talkative) as engine, gateway(engine.url, stall_timeout_s=0.2) as client:
        body = json.dumps(ASK | {"stream": True, "seed": 1, "n": 3}).encode()
        head = "POST /v1/chat/completions HTTP/1.1\r\nhost: localhost\r\ncontent-type: application/json\r\n"
        _, writer = await asyncio.open_connection(client.base_url.host, client.base_url.port, limit=1024)
        writer.write(f"{head}content-length: {len(body)}\r\n\r\n".encode() + body)
        (one,) = client.pool.engines
        try:
            await eventually(lambda: one.outstanding and one.parts_received and not one.owed)
            until = time.monotonic() + 0.6
            await eventually(lambda: time.monotonic() > until)
            assert (one.outstanding, one.status.state, one.status.reconnects) == (3, "ready", 0)
        finally:
            writer.close()
        await eventually(lambda: not one.outstanding)


@pytest.mark.parametrize("admission", ["off", "on"])
@pytest.mark.parametrize("stream", [True, False], ids=["stream", "whole"])
async def test_another_engine_answers_if_the_first_dies_before_it_has(stream: bool, admission: str) -> None:
    async with (
        running(StandIn()) as one,
        running(StandIn()) as two,
        gateway(one.url, two.url, admission=admission, refresh_interval_s=60) as client,
    ):
        one.faults = two.faults = Faults(die_after=0, only_seed=1)
        two.faults = Faults()
        for _ in range(3):  # whichever is asked first
            body = ASK | {"stream": stream, "seed": 1, "num_waits": 1}
            response = await client.post("/v1/chat/completions", json=body)
            assert response.status_code == 200, response.text
            assert '"waits":1' in response.text
        assert one.active == two.active == 0


async def test_a_stream_that_has_begun_ends_with_its_engine() -> None:
    async with (
        running(StandIn(faults=Faults(die_after=3, only_seed=1))) as one,
        running(StandIn(faults=Faults(die_after=3, only_seed=1))) as two,
        gateway(one.url, two.url) as client,
    ):
        response = await client.post("/v1/chat/completions", json=ASK | {"stream": True, "seed": 1})
        last = json.loads(response.text.rstrip().rpartition("data: ")[2])
        assert last["error"]["code"] == "engine_died"
        assert len(one.bodies) + len(two.bodies) == 1


async def test_every_engine_is_asked_once() -> None:
    dying = Faults(die_after=0, only_seed=1)
    async with (
        running(StandIn(faults=dying)) as one,
        running(StandIn(faults=dying)) as two,
        gateway(one.url, two.url, refresh_interval_s=60) as client,
    ):
        response = await client.post("/v1/chat/completions", json=ASK | {"seed": 1})
        assert (response.status_code, response.json()["error"]["code"]) == (503, "engine_died")
        # On an engine itself, a connection that was closed unanswered is tried once more.
        assert (len(one.bodies), len(two.bodies)) == (2, 2)


def test_progress_is_judged_only_while_there_is_work() -> None:
    now = 0.0
    watch = ProgressWatch(10, lambda: now)
    looks: list[tuple[float, int, Any, bool]] = [
        (0, 1, "a", False),
        (9, 1, "a", False),
        (10, 1, "a", True),
        (11, 1, "b", False),
        (20, 0, "b", False),
        (99, 1, "b", False),
        (108, 1, "b", False),
        (109, 1, "b", True),
    ]
    for now, generations, marker, expected in looks:
        assert watch.stalled(generations=generations, marker=marker) is expected, now


def test_tokens_made_are_read_from_vllms_metrics() -> None:
    text = b"""# TYPE vllm:prompt_tokens_total counter
vllm:prompt_tokens_total{engine="0",model_name="m"} 12.0
vllm:generation_tokens_total{engine="0",model_name="m"} 1.5e+03
vllm:generation_tokens_total{engine="1",model_name="m"} 8.0
vllm:generation_tokens_created{engine="0"} 1.7e+09
"""
    assert tokens_made(text) == 1520
    assert tokens_made(b"other_metric 1\n") is None
