"""Engines: learnt, probed, chosen, reported."""

from __future__ import annotations

from typing import Any

import httpx
import pytest

from server.budget.receipt import EngineReceipt
from server.budget.spec import BUDGET_FIELDS
from server.gateway.engines.engine import Engine
from tests.gateway.serving import eventually, gateway
from tests.gateway.stand_in import MAX_MODEL_LEN, Faults, StandIn, running
from tests.gateway.test_gateway_chat import ASK


async def chat(client: httpx.AsyncClient, **fields: object) -> httpx.Response:
    return await client.post("/v1/chat/completions", json=ASK | fields)


async def test_a_probed_engine_is_ready_and_native(client: httpx.AsyncClient, engine: StandIn) -> None:
    response = await client.get("/ready")
    assert response.status_code == 200
    assert response.json() == {
        "ready": True,
        "draining": False,
        "engines": [
            {
                "url": engine.url,
                "state": "ready",
                "models": ["tiny"],
                "enforcement": "native",
                "family": "s1",
                "processor": "v1",
                "fields": list(BUDGET_FIELDS),
                "reason": "",
                "outstanding": 0,
                "kv_cache_tokens": None,
                "committed_tokens": 0,
                "reconnects": 0,
            }
        ],
    }
    assert engine.probes == 3


async def test_models_tell_what_thinking_they_take(client: httpx.AsyncClient) -> None:
    listed = (await client.get("/v1/models")).json()
    assert listed["object"] == "list"
    (card,) = listed["data"]
    assert card["id"] == "tiny"
    assert card["object"] == "model"
    assert card["owned_by"] == "vllm"
    assert card["max_model_len"] == MAX_MODEL_LEN
    assert card["thinking"] == {
        "family": "s1",
        "enforcement": "native",
        "fields": list(BUDGET_FIELDS),
        "checkpoint": None,
    }
    assert (await client.get("/v1/models/tiny")).json() == card


@pytest.mark.parametrize(
    ("engine", "reason"),
    [
        (StandIn(has_plugin=False), "without the s1 plugin"),
        (StandIn(faults=Faults(ignores=frozenset({"max_thinking_tokens"}))), "max_thinking_tokens"),
        (StandIn(faults=Faults(ignores=frozenset({"min_thinking_tokens"}))), "min_thinking_tokens"),
        (StandIn(faults=Faults(ignores=frozenset({"num_waits"}))), "num_waits"),
        (StandIn(faults=Faults(no_receipt=True)), "receipt missing"),
    ],
    ids=["no plugin", "max", "min", "waits", "receipt"],
)
async def test_a_budget_that_no_engine_enforces_is_refused(engine: StandIn, reason: str) -> None:
    async with running(engine), gateway(engine.url) as client:
        (described,) = (await client.get("/ready")).json()["engines"]
        assert described["enforcement"] == "none"
        assert reason in described["reason"]
        response = await chat(client, num_waits=3, max_completion_tokens=100)
        assert response.status_code == 400
        error = response.json()["error"]
        assert error["param"] == "num_waits"
        assert "`num_waits` (3)" in error["message"]
        assert engine.url not in error["message"]  # where engines are is not for every client
        assert reason in error["message"]
        assert (await chat(client)).status_code == 200
        assert (await client.get("/v1/models/tiny")).json()["thinking"]["enforcement"] == "none"


async def test_an_engine_of_another_protocol_is_no_clients_fault() -> None:
    async with running(StandIn(protocol=2)) as engine, gateway(engine.url) as client:
        response = await chat(client, num_waits=3, max_completion_tokens=100)
        assert response.status_code == 503
        error = response.json()["error"]
        assert error["code"] == "version_skew"
        assert "the engine's protocol is 2, this gateway's is 1" in error["message"]
        assert engine.url not in error["message"]
        assert response.headers["retry-after"]
        assert (await chat(client)).status_code == 200
        # Whoever has upgraded takes the budgets meanwhile.
        async with running(StandIn()) as upgraded, gateway(engine.url, upgraded.url) as both:
            assert (await chat(both, num_waits=3, max_completion_tokens=100)).status_code == 200
            assert len(upgraded.bodies) == 1


async def test_what_a_later_engine_has_beyond_this_gateway_is_left_alone() -> None:
    def later(receipt: EngineReceipt) -> dict[str, Any]:
        return receipt.to_json() | {"joy": 3}

    engine = StandIn(enforces=(*BUDGET_FIELDS, "max_joy"), receipt_form=later)
    async with running(engine), gateway(engine.url) as client:
        (described,) = (await client.get("/ready")).json()["engines"]
        assert (described["enforcement"], described["fields"]) == ("native", list(BUDGET_FIELDS))
        response = await chat(client, num_waits=3, max_completion_tokens=100)
        assert response.json()["choices"][0]["thinking_budget"]["waits"] == 3
        # The same if it has to be asked for.
        engine.receipt_along = lambda receipt: None
        response = await chat(client, num_waits=3, max_completion_tokens=100)
        assert response.json()["choices"][0]["thinking_budget"]["waits"] == 3
        assert (await chat(client, max_joy=1)).status_code == 400


async def test_a_single_field_that_is_not_enforced_is_refused() -> None:
    async with running(StandIn(enforces=("max_thinking_tokens",))) as engine, gateway(engine.url) as client:
        assert (await chat(client, max_thinking_tokens=3)).status_code == 200
        response = await chat(client, max_thinking_tokens=3, landing_tokens=1)
        assert response.json()["error"]["param"] == "landing_tokens"


async def test_a_plugin_that_failed_its_probe_is_probed_again() -> None:
    async with running(StandIn(faults=Faults(no_receipt=True))) as engine, gateway(engine.url) as client:
        assert client.pool.engines[0].status.enforcement == "none"
        engine.faults = Faults()
        await eventually(lambda: client.pool.engines[0].status.enforcement == "native")


async def test_budgets_go_where_they_are_enforced_and_load_is_spread() -> None:
    plain, native, second = StandIn(has_plugin=False), StandIn(), StandIn()
    async with (
        running(plain),
        running(native),
        running(second),
        gateway(plain.url, native.url, second.url) as client,
    ):
        for _ in range(4):
            assert (await chat(client, num_waits=1)).status_code == 200
        assert plain.bodies == []
        native.faults = second.faults = Faults(stall_after=0)
        first_of = [engine for engine in client.pool.engines if engine.enforced_fields]
        first_of[0].outstanding += 10
        seen = len(second.bodies)
        second.faults = Faults()
        await chat(client, num_waits=1)
        assert len(second.bodies) == seen + 1
        first_of[0].outstanding -= 10


async def test_models_of_several_engines() -> None:
    one, two = StandIn(models=("a", "org/b")), StandIn(models=("c",))
    async with running(one), running(two), gateway(one.url, two.url) as client:
        ids = [card["id"] for card in (await client.get("/v1/models")).json()["data"]]
        assert sorted(ids) == ["a", "c", "org/b"]
        assert (await client.get("/v1/models/org/b")).json()["id"] == "org/b"
        assert (await chat(client, model="org/b")).json()["model"] == "org/b"
        assert (await chat(client, model="c")).json()["model"] == "c"
        assert len(one.bodies) == len(two.bodies) == 1
        response = await client.post("/v1/chat/completions", json={"messages": ASK["messages"]})
        assert response.status_code == 400
        assert response.json()["error"]["param"] == "model"
        assert "a, c, org/b" in response.json()["error"]["message"]


async def test_models_tell_which_checkpoints_their_engines_have_loaded() -> None:
    old, new = StandIn(checkpoint="e1"), StandIn(models=("tiny", "other"), checkpoint="b2")
    silent = StandIn()
    async with (
        running(old),
        running(new),
        running(silent),
        gateway(old.url, new.url, silent.url) as client,
    ):
        await eventually(lambda: all(engine.status.state == "ready" for engine in client.pool.engines))
        cards = (await client.get("/v1/models")).json()["data"]
    assert {card["id"]: card["thinking"]["checkpoint"] for card in cards} == {"tiny": "b2 e1", "other": "b2"}


async def test_an_engine_may_come_after_the_gateway() -> None:
    async with running(StandIn()) as placeholder:
        port = int(placeholder.url.rpartition(":")[2])
    async with gateway(f"http://127.0.0.1:{port}", wait_ready=False) as client:
        await eventually(lambda: client.pool.engines[0].status.reason != "not reached yet")
        assert client.pool.engines[0].status.state == "starting"
        async with running(StandIn(), port=port):
            await eventually(lambda: client.pool.ready)
            assert (await chat(client, num_waits=1)).status_code == 200
        await eventually(lambda: client.pool.engines[0].status.state == "down")
        async with running(StandIn(), port=port) as again:
            await eventually(lambda: client.pool.ready)
            assert again.probes == 3
            assert client.pool.engines[0].status.reconnects == 1
            assert (await chat(client, num_waits=1)).status_code == 200


async def test_a_failing_watcher_takes_its_engine_out_of_service(
    client: httpx.AsyncClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def broken(_: object) -> bool:
        raise ZeroDivisionError

    monkeypatch.setattr(Engine, "healthy", broken)
    await eventually(lambda: client.pool.engines[0].status.state == "down")
    assert "ZeroDivisionError" in (await client.get("/ready")).json()["engines"][0]["reason"]
