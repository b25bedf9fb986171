"""What only llama.cpp's dialect has to cope with, over the toy model."""

from __future__ import annotations

import random
from collections.abc import AsyncIterator
from typing import Any

import httpx
import pytest

from server.budget.spec import ThinkingBudget
from tests.gateway.serving import gateway
from tests.gateway.test_gateway_rounds import MESSAGES, native, stream
from tests.gateway.toy_engine import Toy
from tests.gateway.toy_llamacpp import running_llamacpp

HALVES = (30, 31)
"""Once they are halves of a character, 30 is withheld until the next token."""


@pytest.fixture
async def toy() -> AsyncIterator[Toy]:
    async with running_llamacpp(Toy()) as started:
        yield started


@pytest.fixture
async def client(toy: Toy) -> AsyncIterator[httpx.AsyncClient]:
    async with gateway(toy.url, refresh_interval_s=5) as opened:
        yield opened


async def test_ids_that_are_withheld_are_found_again(client: httpx.AsyncClient, toy: Toy) -> None:
    """By tokenizing the character, or, where its tokens aren't the usual ones, by asking once more."""
    toy.halves, toy.prefers = HALVES, 0.3
    repeats = []
    for toy.spells_halves in (True, False):
        toy.repeats.clear()
        rng = random.Random(3)
        withheld = 0
        for toy.seed in range(80):
            toy.ends = rng.choice([0.02, 0.15])
            fields = {
                "max_thinking_tokens": rng.choice([0, 1, 3, 8, 30]),
                "num_waits": rng.choice([0, 2]),
                "max_completion_tokens": rng.choice([20, 60]),
            }
            withheld += await _answers_like_the_machine(client, toy, fields)
        assert withheld > 40
        repeats.append(len(toy.repeats))
    # Halves that stay alone can't be spelled either way.
    assert 0 < repeats[0] < repeats[1]


async def _answers_like_the_machine(client: httpx.AsyncClient, toy: Toy, fields: dict[str, int]) -> bool:
    """Whether anything was withheld."""
    budget = ThinkingBudget.from_fields(fields)
    output, finish, settled = native(toy, budget, fields["max_completion_tokens"])
    body = {"model": toy.name, "messages": MESSAGES, "return_token_ids": True, **fields}
    response = await client.post("/v1/chat/completions", json=body)
    assert response.status_code == 200, response.text
    (choice,) = response.json()["choices"]
    assert choice["token_ids"] == output, fields
    assert (choice["finish_reason"], choice["thinking_budget"]) == (finish, settled)
    parts = [part for chunk in await stream(client, **fields) for part in chunk["choices"]]
    for kind in ("reasoning", "content"):
        text = "".join(part["delta"].get(kind) or "" for part in parts)
        assert text == (choice["message"][kind] or ""), (fields, kind)
    return HALVES[0] in output


@pytest.mark.parametrize(
    ("toy", "reason"),
    [
        (Toy(missing=frozenset({"/apply-template"})), "no /apply-template"),
        (Toy(missing=frozenset({"/tokenize"})), "no /tokenize"),
        (Toy(missing=frozenset({"/detokenize"})), "no /detokenize"),
        (Toy(missing=frozenset({"/completion"})), "no /completion"),
        (Toy(ignores=frozenset({"return_tokens"})), "return_tokens"),
        (Toy(ignores=frozenset({"logit_bias"})), "logit_bias"),
        (Toy(ignores=frozenset({"mask"})), "can't mask a stop token"),
        (Toy(ignores=frozenset({"n_predict"})), "tokens of at most"),
        (Toy(ignores=frozenset({"prompt"})), "1 tokens of a prompt of"),
        (Toy(ignores=frozenset({"template"})), "that its /v1/chat/completions counts as"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
async def test_a_server_that_lacks_something_is_refused_by_name(toy: Toy, reason: str) -> None:
    async with running_llamacpp(toy), gateway(toy.url) as client:
        (engine,) = (await client.get("/ready")).json()["engines"]
        assert engine["enforcement"] == "none"
        assert reason in engine["reason"]
        body = {"model": toy.name, "messages": MESSAGES, "num_waits": 1}
        response = await client.post("/v1/chat/completions", json=body)
        assert (response.status_code, response.json()["error"]["param"]) == (400, "num_waits")
        assert reason in response.json()["error"]["message"]


async def test_without_a_budget_its_reasoning_has_our_name(client: httpx.AsyncClient, toy: Toy) -> None:
    body = {"model": toy.name, "messages": MESSAGES}
    (choice,) = (await client.post("/v1/chat/completions", json=body)).json()["choices"]
    assert choice["message"]["reasoning"] == choice["message"]["reasoning_content"] == "6 * 7"
    chunks = await stream(client)
    deltas: list[dict[str, Any]] = [part["delta"] for chunk in chunks for part in chunk["choices"]]
    assert [delta["reasoning"] for delta in deltas if delta.get("reasoning")] == ["6 * 7"]


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"repetition_penalty": 1.2}, "repetition_penalty"),
        ({"stop_token_ids": [3]}, "stop_token_ids"),
        ({"num_waits": 1, "min_tokens": 3}, "min_tokens"),
        ({"include_reasoning": False}, "include_reasoning"),
        (
            {"stream": True, "stream_options": {"continuous_usage_stats": True}},
            "stream_options.continuous_usage_stats",
        ),
    ],
    ids=str,
)
async def test_what_its_chat_route_ignores_is_refused_by_name(
    client: httpx.AsyncClient, fields: dict[str, Any], param: str
) -> None:
    response = await client.post("/v1/chat/completions", json={"messages": MESSAGES, **fields})
    assert (response.status_code, response.json()["error"]["param"]) == (400, param)
    assert "llama.cpp" in response.json()["error"]["message"]


@pytest.mark.parametrize("streams", [False, True])
async def test_a_bias_is_of_token_ids(client: httpx.AsyncClient, streams: bool) -> None:
    body = {"messages": MESSAGES, "num_waits": 1, "logit_bias": {"Wait": 5}, "stream": streams}
    response = await client.post("/v1/chat/completions", json=body)
    assert (response.status_code, response.json()["error"]["param"]) == (400, "logit_bias")
