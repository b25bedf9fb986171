"""Every dialect through the gateway: what reaches the engine, the receipt, and the client's own form."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from typing import Any

import httpx
import openai
import pytest
import pytest_asyncio

from server.budget.forms import ALIAS_ROOTS
from tests.gateway.serving import gateway
from tests.gateway.stand_in import MAX_MODEL_LEN, StandIn, running
from tests.gateway.test_gateway_chat import ASK
from tests.gateway.toy_engine import Toy
from tests.gateway.toy_engine import running as toy_running
from tests.support.dialects import Request, hidden, maximum, no_thinking

pytestmark = pytest.mark.asyncio(loop_scope="module")

# 10 % of this room are 5 thinking tokens, fewer than the stand-in thinks of itself.
ROOM = {"max_completion_tokens": 50}
MAXIMUM = maximum(5, effort="minimal")


@pytest_asyncio.fixture(loop_scope="module", scope="module")
async def engine() -> AsyncIterator[StandIn]:
    async with running(StandIn()) as started:
        yield started


@pytest_asyncio.fixture(loop_scope="module", scope="module")
async def client(engine: StandIn) -> AsyncIterator[httpx.AsyncClient]:
    async with gateway(engine.url, refresh_interval_s=5) as opened:
        yield opened


async def asked(client: httpx.AsyncClient, fields: dict[str, Any]) -> httpx.Response:
    response = await client.post("/v1/chat/completions", json=ASK | fields)
    assert response.status_code == 200, response.text
    return response


def chunks(response: httpx.Response) -> list[dict[str, Any]]:
    lines = [line.removeprefix("data: ") for line in response.text.splitlines() if line]
    assert lines.pop() == "[DONE]"
    return [json.loads(line) for line in lines]


@pytest.mark.parametrize("stream", [False, True], ids=["whole", "stream"])
@pytest.mark.parametrize("request_", MAXIMUM, ids=str)
async def test_a_maximum_in_every_dialect(
    client: httpx.AsyncClient, engine: StandIn, request_: Request, stream: bool
) -> None:
    response = await asked(client, {**request_.fields, **ROOM, "stream": stream})
    body = engine.bodies[-1]
    assert body["vllm_xargs"]["max_thinking_tokens"] == 5
    forwarded = body.keys() & ALIAS_ROOTS
    assert forwarded <= {"reasoning_effort", "include_reasoning", "chat_template_kwargs"}
    if stream:
        choices = [chunk["choices"][0] for chunk in chunks(response)]
        thinking = "".join(choice["delta"].get("reasoning_content") or "" for choice in choices)
        receipt = choices[-1]["thinking_budget"]
    else:
        (choice,) = response.json()["choices"]
        thinking, receipt = choice["message"]["reasoning_content"], choice["thinking_budget"]
    assert thinking == "t0 t1 t2 t3 t4 "
    assert receipt["requested"] == {"max_thinking_tokens": 5}
    named = {"requested_as": {"max_thinking_tokens": request_.named}} if request_.named else {}
    assert {name: receipt[name] for name in receipt.keys() & {"requested_as"}} == named
    assert receipt["effective"] == {"min": 0, "max": 5, "num_waits": 0}
    assert receipt["thinking_tokens"] == 5
    assert receipt["clamped_by"] == []
    assert response.headers["x-thinking-budget-max"] == "5"
    assert "x-thinking-budget-clamped-by" not in response.headers


@pytest.mark.parametrize("request_", no_thinking(), ids=str)
async def test_no_thinking_in_every_dialect(
    client: httpx.AsyncClient, engine: StandIn, request_: Request
) -> None:
    response = await asked(client, request_.fields)
    (choice,) = response.json()["choices"]
    assert choice["thinking_budget"]["effective"]["max"] == 0
    assert choice["thinking_budget"]["thinking_tokens"] == 0
    assert choice["message"]["content"] == "42."
    body = engine.bodies[-1]
    assert "reasoning_effort" not in body
    # The budget ends the thinking, whatever the template can be told.
    assert not any(value is False for value in body.get("chat_template_kwargs", {}).values())


@pytest.mark.parametrize("request_", hidden(), ids=str)
async def test_hidden_thinking_is_counted_in_every_dialect(
    client: httpx.AsyncClient, request_: Request
) -> None:
    response = await asked(client, {**request_.fields, "max_thinking_tokens": 4})
    (choice,) = response.json()["choices"]
    assert choice["message"]["reasoning"] is choice["message"]["reasoning_content"] is None
    assert "t0" not in response.text
    assert choice["thinking_budget"]["thinking_tokens"] == 4
    streamed = await asked(client, {**request_.fields, "max_thinking_tokens": 4, "stream": True})
    assert "t0" not in streamed.text
    assert chunks(streamed)[-1]["choices"][0]["thinking_budget"]["thinking_tokens"] == 4


@pytest.mark.parametrize(
    ("fields", "kwargs", "effort"),
    [
        ({"reasoning_effort": "low"}, {"enable_thinking": True, "thinking": True}, "low"),
        ({"reasoning": {"effort": "high"}}, {"enable_thinking": True, "thinking": True}, "high"),
        ({"thinking": {"type": "enabled"}}, {"enable_thinking": True, "thinking": True}, None),
        ({"enable_thinking": True}, {"enable_thinking": True, "thinking": True}, None),
        (
            {"enable_thinking": True, "chat_template_kwargs": {"thinking": "deep", "x": 1}},
            {"enable_thinking": True, "thinking": "deep", "x": 1},
            None,
        ),
        ({"chat_template_kwargs": {"thinking_budget": 9}}, {"thinking_budget": 9}, None),
        ({"chat_template_kwargs": {"enable_thinking": False, "x": 1}}, {"x": 1}, None),
        ({"thinking_budget": 9}, None, None),
        ({}, None, None),
    ],
    ids=str,
)
async def test_what_the_chat_template_is_told(
    client: httpx.AsyncClient,
    engine: StandIn,
    fields: dict[str, Any],
    kwargs: dict[str, Any] | None,
    effort: str | None,
) -> None:
    await asked(client, fields)
    assert engine.bodies[-1].get("chat_template_kwargs") == kwargs
    assert engine.bodies[-1].get("reasoning_effort") == effort


async def test_thinking_that_is_only_switched_on_has_no_budget(
    client: httpx.AsyncClient, engine: StandIn
) -> None:
    for fields in ({"thinking": {"type": "enabled"}}, {"reasoning": {"enabled": True}}, {"reasoning": {}}):
        response = await asked(client, fields)
        assert "vllm_xargs" not in engine.bodies[-1]
        assert response.json()["choices"][0]["thinking_budget"]["effective"] is None
        assert "x-thinking-budget-max" not in response.headers


@pytest.mark.parametrize(
    ("fields", "left"),
    [
        # Shares of the context, of the completion tokens, and what markers and answer leave of them.
        ({}, MAX_MODEL_LEN // 2),
        ({"max_completion_tokens": 100}, 50),
        ({"max_tokens": 100}, 50),
        ({"max_tokens": 10 * MAX_MODEL_LEN}, MAX_MODEL_LEN // 2),
        ({"max_tokens": 100, "answer_reserve_tokens": 80}, 12),
        ({"max_tokens": 100, "answer_reserve_tokens": 1}, 50),
    ],
    ids=str,
)
async def test_an_effort_is_a_share_of_the_room(
    client: httpx.AsyncClient, engine: StandIn, fields: dict[str, Any], left: int
) -> None:
    response = await asked(client, {"reasoning_effort": "medium", **fields})
    assert engine.bodies[-1]["vllm_xargs"]["max_thinking_tokens"] == left
    receipt = response.json()["choices"][0]["thinking_budget"]
    assert receipt["effective"]["max"] == left
    # An effort never asks for more than fits: there is nothing to clamp.
    assert receipt["clamped_by"] == []


async def test_an_effort_without_any_room_is_refused(client: httpx.AsyncClient) -> None:
    response = await client.post(
        "/v1/chat/completions", json=ASK | {"reasoning_effort": "low", "max_tokens": 3}
    )
    assert response.status_code == 400
    assert response.json()["error"]["param"] == "max_tokens"
    assert ">= 9" in response.json()["error"]["message"]


async def test_openrouters_clients_get_reasoning_details(client: httpx.AsyncClient) -> None:
    fields = {"reasoning": {"max_tokens": 2}}
    message = (await asked(client, fields)).json()["choices"][0]["message"]
    detail = {"type": "reasoning.text", "text": "t0 t1 ", "format": "unknown", "index": 0}
    assert message["reasoning_details"] == [detail]
    streamed = chunks(await asked(client, fields | {"stream": True}))
    told = [chunk["choices"][0]["delta"].get("reasoning_details", []) for chunk in streamed]
    assert "".join(each["text"] for details in told for each in details) == "t0 t1 "
    hides = {"reasoning": {"max_tokens": 2, "exclude": True}}
    assert (await asked(client, hides)).json()["choices"][0]["message"]["reasoning_details"] == []
    other = (await asked(client, {"thinking_budget": 2})).json()
    assert "reasoning_details" not in other["choices"][0]["message"]


async def test_the_sdks_own_arguments(client: httpx.AsyncClient) -> None:
    url = f"{client.base_url}/v1"
    async with openai.AsyncOpenAI(base_url=url, api_key="unused", max_retries=0) as sdk:
        got = await sdk.chat.completions.create(**ASK, reasoning_effort="minimal", max_completion_tokens=50)
        assert got.usage.completion_tokens_details.reasoning_tokens == 5
        with pytest.raises(openai.BadRequestError) as caught:
            await sdk.chat.completions.create(
                **ASK, reasoning_effort="low", extra_body={"enable_thinking": False}
            )
    assert caught.value.param == "enable_thinking"
    assert "`reasoning_effort` ('low')" in str(caught.value)


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"reasoning": {"max_tokens": 5, "effort": "low"}}, "reasoning.effort"),
        ({"reasoning": {"budget": 5}}, "reasoning.budget"),
        ({"reasoning": "high"}, "reasoning"),
        ({"nvext": {"max_thinking_tokens": 5, "ignore_eos": True}}, "nvext.ignore_eos"),
        ({"custom_params": {"thinking_budget": "5"}}, "custom_params.thinking_budget"),
        ({"extra_body": {"google": {"thinking_config": {"x": 1}}}}, "extra_body.google.thinking_config.x"),
        ({"generationConfig": {"temperature": 1}}, "generationConfig.temperature"),
        ({"thinking": {"type": "enabled", "budget_tokens": 100}}, "thinking.budget_tokens"),
        ({"thinking_budget": -1}, "thinking_budget"),
        ({"enable_thinking": 1}, "enable_thinking"),
        ({"thinking_budgets": 5}, "thinking_budgets"),
    ],
    ids=lambda value: str(value)[:40],
)
async def test_refused_by_name(client: httpx.AsyncClient, fields: dict[str, Any], param: str) -> None:
    response = await client.post("/v1/chat/completions", json=ASK | fields)
    assert response.status_code == 400
    error = response.json()["error"]
    assert (error["param"], error["type"]) == (param, "invalid_request_error")
    assert f"`{param}`" in error["message"]


async def test_an_engine_that_enforces_nothing_is_told_by_the_clients_name() -> None:
    async with running(StandIn(enforces=("num_waits",))) as engine, gateway(engine.url) as client:
        response = await client.post("/v1/chat/completions", json=ASK | {"reasoning_effort": "none"})
        assert response.status_code == 400
        assert response.json()["error"]["param"] == "reasoning_effort"
        assert "max_thinking_tokens 0" in response.json()["error"]["message"]


async def test_rounds_take_every_dialect() -> None:
    """Before an engine without the plugin; its template is told of an effort by /tokenize."""
    async with toy_running(Toy()) as toy, gateway(toy.url) as client:
        for request_ in MAXIMUM:
            body = {"model": toy.name, "messages": ASK["messages"], **ROOM, **request_.fields}
            response = await client.post("/v1/chat/completions", json=body)
            assert response.status_code == 200, (request_, response.text)
            receipt = response.json()["choices"][0]["thinking_budget"]
            assert receipt["effective"]["max"] == 5, request_
        body = {"model": toy.name, "messages": ASK["messages"], **ROOM, "reasoning_effort": "high"}
        assert (await client.post("/v1/chat/completions", json=body)).status_code == 200
        assert toy.rendered[-1]["chat_template_kwargs"]["reasoning_effort"] == "high"


async def test_the_documented_schema_knows_every_dialect(client: httpx.AsyncClient) -> None:
    schema = (await client.get("/openapi.json")).json()["components"]["schemas"]["ChatCompletionRequest"]
    assert schema["properties"].keys() >= ALIAS_ROOTS
    held = schema["properties"]["reasoning"]["anyOf"][0]
    assert held["additionalProperties"] is False
    assert held["properties"]["max_tokens"]["minimum"] == 0
