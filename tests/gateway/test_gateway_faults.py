"""What clients see when an engine fails, and what an engine sees when clients leave."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import httpx
import openai
import pytest

from tests.gateway.serving import eventually, gateway
from tests.gateway.stand_in import Faults, StandIn, running
from tests.gateway.test_gateway_chat import ASK
from tests.gateway.test_gateway_stream import events, text


def refusal(message: str, status: int, **rest: Any) -> tuple[int, Any]:
    return status, {"error": {"message": message, "type": "X", "param": None, "code": status, **rest}}


REFUSALS = [
    (
        refusal("too long", 400, param="input_tokens"),
        400,
        "invalid_request_error",
        "input_tokens",
        "too long",
    ),
    (
        (400, {"object": "error", "message": "old form", "code": 400}),
        400,
        "invalid_request_error",
        None,
        "old form",
    ),
    (refusal("`num_waits` must be 1", 400), 400, "invalid_request_error", "num_waits", "must be 1"),
    (refusal("no such adapter", 404), 404, "invalid_request_error", None, "no such adapter"),
    (refusal("slow down", 429), 429, "rate_limit_error", None, "slow down"),
    (refusal("broken", 500), 500, "engine_error", None, "broken"),
    (refusal("overloaded", 503), 503, "engine_error", None, "overloaded"),
    ((502, "a proxy's page"), 502, "engine_error", None, "a proxy's page"),
    ((422, {"detail": "odd"}), 422, "invalid_request_error", None, "odd"),
]


@pytest.mark.parametrize("stream", [False, True], ids=["whole", "stream"])
@pytest.mark.parametrize(("refuse", "status", "kind", "param", "says"), REFUSALS)
async def test_the_engines_own_errors_keep_status_and_param(
    client: httpx.AsyncClient,
    engine: StandIn,
    refuse: tuple[int, Any],
    status: int,
    kind: str,
    param: str | None,
    says: str,
    stream: bool,
) -> None:
    engine.faults = Faults(refuse=refuse)
    response = await client.post("/v1/chat/completions", json=ASK | {"stream": stream})
    assert response.status_code == status
    error = response.json()["error"]
    assert (error["type"], error["param"]) == (kind, param)
    assert says in error["message"]
    assert ("retry-after" in response.headers) == (status == 503)


@pytest.mark.parametrize("stream", [False, True], ids=["whole", "stream"])
async def test_a_connection_lost_before_the_first_byte_can_be_retried(
    client: httpx.AsyncClient, engine: StandIn, stream: bool
) -> None:
    engine.faults = Faults(die_after=0)
    response = await client.post("/v1/chat/completions", json=ASK | {"stream": stream})
    assert response.status_code == 503
    assert int(response.headers["retry-after"]) > 0
    assert response.json()["error"]["type"] == "engine_error"
    assert response.json()["error"]["code"] == "engine_died"


@pytest.mark.parametrize(
    ("faults", "code"),
    [
        (Faults(die_after=3), "engine_died"),
        (Faults(end_early_after=3), "engine_died"),
        (Faults(error_after=3), "engine_error"),
        (Faults(garbage_after=3), "engine_misbehaved"),
    ],
    ids=["cut", "ended", "error", "garbage"],
)
@pytest.mark.parametrize("choices", [1, 3])
async def test_a_failure_in_the_stream_is_its_last_event(
    client: httpx.AsyncClient, engine: StandIn, faults: Faults, code: str, choices: int
) -> None:
    engine.faults = faults
    chunks = await events(client, max_thinking_tokens=6, n=choices)
    assert text(chunks, "reasoning").startswith("t0 ")
    assert set(chunks[-1]) == {"error"}
    assert chunks[-1]["error"]["type"] == "engine_error"
    assert chunks[-1]["error"]["code"] == code
    assert "[DONE]" not in chunks
    assert all("thinking_budget" not in str(chunk) for chunk in chunks)
    await eventually(lambda: engine.active == 0)


@pytest.mark.parametrize(
    "odd",
    [{"choices": [{}]}, {"choices": [{"delta": None}]}, {"choices": ["x"]}, {"choices": {"delta": {}}}],
    ids=str,
)
@pytest.mark.parametrize("after", [1, 3])
async def test_json_of_another_shape_is_the_engines_fault(
    client: httpx.AsyncClient, engine: StandIn, odd: dict[str, Any], after: int
) -> None:
    engine.faults = Faults(garbage_after=after, garbage=json.dumps(odd).encode())
    chunks = await events(client)
    assert text(chunks, "reasoning").startswith("t0 ")
    assert chunks[-1]["error"]["code"] == "engine_misbehaved"
    assert "the engine's stream can't be read" in chunks[-1]["error"]["message"]
    asked = {"model": "tiny", "max_tokens": 50, "stream": True, "messages": ASK["messages"]}
    message = await client.post("/v1/messages", json=asked)
    assert "event: error\n" in message.text


async def test_the_sdk_raises_on_an_error_in_the_stream(sdk: openai.AsyncOpenAI, engine: StandIn) -> None:
    engine.faults = Faults(die_after=3)
    stream = await sdk.chat.completions.create(**ASK, stream=True)
    with pytest.raises(openai.APIError, match="lost"):
        async for _ in stream:
            pass


async def test_one_of_several_streams_failing_cancels_the_others(
    client: httpx.AsyncClient, engine: StandIn
) -> None:
    engine.faults = Faults(only_seed=6, die_after=2)
    chunks = await events(client, n=3, seed=5)
    assert chunks[-1]["error"]["code"] == "engine_died"
    await eventually(lambda: engine.active == 0)


@pytest.mark.parametrize(
    "faults", [Faults(no_receipt=True), Faults(stale_receipt=True)], ids=["none", "stale"]
)
async def test_a_missing_receipt_is_an_error_and_never_made_up(
    client: httpx.AsyncClient, engine: StandIn, faults: Faults
) -> None:
    engine.faults = faults
    response = await client.post("/v1/chat/completions", json=ASK | {"max_thinking_tokens": 4})
    assert response.status_code == 502
    assert response.json()["error"]["type"] == "engine_error"
    assert response.json()["error"]["code"] == "receipt_missing"
    assert "receipt missing" in response.json()["error"]["message"]
    chunks = await events(client, max_thinking_tokens=4)
    assert chunks[-1]["error"]["code"] == "receipt_missing"
    assert text(chunks, "content") == "42."
    assert all(
        "finish_reason" not in str(chunk) or chunk["choices"][0]["finish_reason"] is None
        for chunk in chunks[:-1]
    )
    # Without a budget no receipt is needed.
    assert (await client.post("/v1/chat/completions", json=ASK)).status_code == 200


async def test_a_receipt_that_takes_too_long(engine: StandIn) -> None:
    async with gateway(engine.url, control_timeout_s=0.5) as client:
        engine.faults = Faults(stall_receipt=True)
        response = await client.post("/v1/chat/completions", json=ASK | {"max_thinking_tokens": 4})
        assert response.json()["error"]["code"] == "receipt_missing"


@pytest.mark.parametrize("choices", [1, 3])
async def test_leaving_a_stream_closes_the_engines_requests(
    client: httpx.AsyncClient, engine: StandIn, choices: int
) -> None:
    engine.faults = Faults(stall_after=2)
    asked = ASK | {"stream": True, "n": choices}
    async with client.stream("POST", "/v1/chat/completions", json=asked) as response:
        await anext(response.aiter_bytes())
        await eventually(lambda: engine.active == choices)
    await eventually(lambda: engine.cancelled == choices and engine.active == 0)
    await eventually(lambda: client.pool.engines[0].outstanding == 0)


@pytest.mark.parametrize("stream", [False, True], ids=["whole", "stream"])
@pytest.mark.parametrize("choices", [1, 3])
async def test_leaving_before_the_first_byte_closes_the_engines_requests(
    client: httpx.AsyncClient, engine: StandIn, choices: int, stream: bool
) -> None:
    engine.faults = Faults(stall_after=0)
    asked = ASK | {"n": choices, "stream": stream}
    asking = asyncio.create_task(client.post("/v1/chat/completions", json=asked))
    await eventually(lambda: engine.active == choices)
    asking.cancel()
    await eventually(lambda: engine.cancelled == choices and engine.active == 0)
    await eventually(lambda: client.pool.engines[0].outstanding == 0)


@pytest.mark.parametrize("stream", [False, True], ids=["whole", "stream"])
async def test_leaving_while_the_receipt_is_looked_for(
    client: httpx.AsyncClient, engine: StandIn, stream: bool
) -> None:
    engine.faults = Faults(stall_receipt=True)
    asked = ASK | {"stream": stream, "max_thinking_tokens": 3}
    asking = asyncio.create_task(client.post("/v1/chat/completions", json=asked))
    await eventually(lambda: engine.receipt_waits == 1)
    asking.cancel()
    await eventually(lambda: engine.receipt_waits_cancelled == 1)


async def test_no_engine_at_all() -> None:
    async with gateway("http://127.0.0.1:9", wait_ready=False) as client:
        response = await client.post("/v1/chat/completions", json=ASK)
        assert response.status_code == 503
        assert response.headers["retry-after"]
        assert response.json()["error"]["code"] == "engine_unavailable"
        assert (await client.get("/health")).json()["status"] == "ok"
        assert (await client.get("/ready")).status_code == 503
        assert (await client.get("/v1/models")).json() == {"object": "list", "data": []}


async def test_an_unforeseen_failure_tells_nothing_of_itself(
    client: httpx.AsyncClient, engine: StandIn
) -> None:
    def broken(*_: object) -> None:
        raise RuntimeError("secret")

    client.pool.resolve_model = broken
    response = await client.post("/v1/chat/completions", json=ASK)
    assert response.status_code == 500
    assert response.json()["error"]["type"] == "server_error"
    assert "secret" not in response.text
    assert response.headers["x-request-id"]
    assert (await client.get("/health")).status_code == 200


async def test_an_engine_that_dies_and_comes_back_is_probed_again() -> None:
    async with running(StandIn()) as engine, gateway(engine.url) as client:
        status = client.pool.engines[0].status
        engine.faults = Faults(unhealthy=True)
        await eventually(lambda: status.state == "down")
        response = await client.post("/v1/chat/completions", json=ASK)
        assert response.status_code == 503
        assert "tiny" in response.json()["error"]["message"]
        probes = engine.probes
        engine.faults = Faults()
        await eventually(lambda: status.state == "ready")
        assert engine.probes > probes
        assert status.reconnects == 1
        assert (await client.post("/v1/chat/completions", json=ASK)).status_code == 200
