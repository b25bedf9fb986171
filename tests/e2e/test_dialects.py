"""Every dialect through the real engine: the same budget enforced, answered in the client's own form."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from openai import AsyncOpenAI

from tests.support.dialects import Request, hidden, maximum, no_thinking
from tests.support.engines import Running, gateway_only

pytestmark = pytest.mark.engine

MESSAGES = [{"role": "user", "content": "How many r in raspberry?"}]
# So that 80 % of 1280 completion tokens leave room for the answer.
POLICY = """
server: {default: {answer_reserve_tokens: 64}}
models: {tiny-reasoner: {cap: {num_waits: 2}, preserve_thinking: keep}}
"""
CASES = [
    pytest.param(16, {"max_completion_tokens": 160}, "minimal", id="a tight maximum"),
    pytest.param(1024, {"max_completion_tokens": 1280}, "high", id="a wide maximum"),
]


@pytest.fixture(scope="module")
def front(served: Running, logs: Path) -> Iterator[Running]:
    """A second gateway, with a policy, before the session's engine."""
    policy = logs / "dialects.yaml"
    policy.write_text(POLICY)
    with gateway_only(logs, served.engine_url, policy=policy) as running:
        running.model = served.model
        yield running


@pytest.fixture
async def http(front: Running) -> AsyncIterator[httpx.AsyncClient]:
    async with httpx.AsyncClient(base_url=front.url, timeout=240) as client:
        yield client


@pytest.fixture
async def sdk(front: Running) -> AsyncIterator[AsyncOpenAI]:
    async with AsyncOpenAI(base_url=f"{front.url}/v1", api_key="none", max_retries=0, timeout=240) as client:
        yield client


class Answer:
    """What a client saw, whole or streamed, by raw JSON or the SDK."""

    def __init__(self, choices: list[dict[str, Any]], key: str) -> None:
        deltas = [choice[key] for choice in choices]
        self.receipt = next(choice["thinking_budget"] for choice in choices if "thinking_budget" in choice)
        self.reasoning = "".join(delta.get("reasoning") or "" for delta in deltas)
        self.reasoning_content = "".join(delta.get("reasoning_content") or "" for delta in deltas)
        self.content = "".join(delta.get("content") or "" for delta in deltas)
        details = [detail for delta in deltas for detail in delta.get("reasoning_details") or []]
        self.details = "".join(detail["text"] for detail in details)


async def raw(http: httpx.AsyncClient, fields: dict[str, Any], *, stream: bool) -> Answer:
    body = {"messages": MESSAGES, "temperature": 0, **fields, "stream": stream}
    response = await http.post("/v1/chat/completions", json=body)
    assert response.status_code == 200, (fields, response.text)
    if not stream:
        return Answer(response.json()["choices"], "message")
    lines = [line.removeprefix("data: ") for line in response.text.splitlines() if line]
    assert lines.pop() == "[DONE]"
    return Answer([choice for line in lines for choice in json.loads(line)["choices"]], "delta")


async def by_sdk(sdk: AsyncOpenAI, model: str, fields: dict[str, Any], *, stream: bool) -> Answer:
    body = dict(fields)
    # What the SDK has arguments for goes there, the rest into extra_body, as its users do.
    own = {name: body.pop(name) for name in ("reasoning_effort", "max_completion_tokens") if name in body}
    arguments: dict[str, Any] = {"model": model, "messages": MESSAGES, "temperature": 0, **own}
    if not stream:
        got = await sdk.chat.completions.create(**arguments, extra_body=body)
        assert got.usage.completion_tokens_details.reasoning_tokens >= 0  # type: ignore[union-attr]
        return Answer([choice.model_dump() for choice in got.choices], "message")
    chunks = await sdk.chat.completions.create(**arguments, extra_body=body, stream=True)
    return Answer([choice.model_dump() async for chunk in chunks for choice in chunk.choices], "delta")


async def everyone(requests: list[Request], ask: Any) -> list[tuple[Request, Answer]]:
    gate = asyncio.Semaphore(24)

    async def one(request: Request) -> tuple[Request, Answer]:
        async with gate:
            return request, await ask(request.fields)

    return await asyncio.gather(*(one(request) for request in requests))


@pytest.mark.parametrize("client", ["raw", "sdk"])
@pytest.mark.parametrize("stream", [False, True], ids=["whole", "stream"])
@pytest.mark.parametrize(("tokens", "room", "effort"), CASES)
async def test_the_same_budget_in_every_dialect(
    http: httpx.AsyncClient,
    sdk: AsyncOpenAI,
    front: Running,
    tokens: int,
    room: dict[str, int],
    effort: str,
    stream: bool,
    client: str,
) -> None:
    def ask(fields: dict[str, Any]) -> Any:
        fields = {**room, **fields, "num_waits": 1}
        if client == "raw":
            return raw(http, fields, stream=stream)
        return by_sdk(sdk, front.model, fields, stream=stream)

    requests = maximum(tokens, effort=effort)
    answers = await everyone(requests, ask)
    ours = answers[0][1]
    assert ours.content
    for request, answer in answers:
        receipt = answer.receipt
        assert receipt["effective"] == {"min": 0, "max": tokens, "num_waits": 1}, request
        assert receipt["requested"] == {"max_thinking_tokens": tokens, "num_waits": 1}, request
        assert receipt.get("requested_as", {}).get("max_thinking_tokens") == request.named
        assert receipt["thinking_tokens"] == ours.receipt["thinking_tokens"] <= tokens, request
        assert receipt["clamped_by"] == [], request
        # Greedy, so that the same budget gives the same text.
        assert answer.reasoning == answer.reasoning_content == ours.reasoning, request
        assert answer.content == ours.content, request
        assert answer.details == (answer.reasoning if "reasoning" in request.fields else ""), request
    assert (ours.receipt["ended_by"] == "max_thinking_tokens") == (tokens == 16)


@pytest.mark.parametrize("stream", [False, True], ids=["whole", "stream"])
async def test_no_thinking_in_every_dialect(http: httpx.AsyncClient, stream: bool) -> None:
    for request, answer in await everyone(no_thinking(), lambda fields: raw(http, fields, stream=stream)):
        assert answer.receipt["effective"]["max"] == answer.receipt["thinking_tokens"] == 0, request
        assert answer.reasoning == "", request
        assert answer.content, request
        assert "<|im_" not in answer.content, request


@pytest.mark.parametrize("stream", [False, True], ids=["whole", "stream"])
async def test_hidden_thinking_in_every_dialect(http: httpx.AsyncClient, stream: bool) -> None:
    for request, answer in await everyone(hidden(), lambda fields: raw(http, fields, stream=stream)):
        assert answer.reasoning == answer.reasoning_content == answer.details == "", request
        assert answer.receipt["thinking_tokens"] > 0, request
        assert answer.content, request


async def test_forms_that_disagree_never_reach_the_engine(http: httpx.AsyncClient) -> None:
    for first in maximum(1024, effort="high"):
        for second in maximum(2000, effort="low") + no_thinking():
            anthropics = (first.fields | second.fields).keys() <= {"thinking", "output_config"}
            if anthropics or first.fields.keys() & second.fields.keys():
                continue
            body = {"messages": MESSAGES, **first.fields, **second.fields}
            response = await http.post("/v1/chat/completions", json=body)
            assert response.status_code == 400, body
            message = response.json()["error"]["message"]
            assert "disagree" in message, body
            for said in (first, second):
                assert any(f"`{name}" in message for name in said.fields), body


async def test_the_policy_of_the_model(http: httpx.AsyncClient) -> None:
    body = {"messages": MESSAGES, "temperature": 0, "num_waits": 9, "thinking_budget": 100}
    response = await http.post("/v1/chat/completions", json=body)
    receipt = response.json()["choices"][0]["thinking_budget"]
    assert receipt["effective"] == {"min": 0, "max": 100, "num_waits": 2}
    assert receipt["requested"] == {"max_thinking_tokens": 100, "num_waits": 9}
    assert receipt["clamped_by"] == ["policy:model"]
    assert response.headers["x-thinking-budget-num-waits"] == "2"
    assert response.headers["x-thinking-budget-max"] == "100"
    assert response.headers["x-thinking-budget-clamped-by"] == "policy:model"


async def test_kept_thinking_begins_the_next_prompt_with_the_same_tokens(
    http: httpx.AsyncClient, served: Running
) -> None:
    """The prefix cache holds them; without keeping, it only holds the question."""

    async def turn(messages: list[dict[str, Any]], url: str = "") -> dict[str, Any]:
        body = {"messages": messages, "temperature": 0, "num_waits": 1, "return_token_ids": True}
        response = await http.post(f"{url}/v1/chat/completions", json=body)
        assert response.status_code == 200, response.text
        return response.json()

    first = await turn(MESSAGES)
    message = first["choices"][0]["message"]
    earlier = {"role": "assistant", "content": message["content"], "reasoning": message["reasoning"]}
    follow_up = {"role": "user", "content": "How many e in raspberry?"}
    kept = (await turn([*MESSAGES, earlier, follow_up]))["prompt_token_ids"]
    # The session's own gateway has no policy: the demo template leaves earlier thinking out.
    dropped = (await turn([*MESSAGES, earlier, follow_up], served.url))["prompt_token_ids"]
    both = earlier | {"reasoning_content": message["reasoning"]}
    tokenized = await http.post(
        f"{served.engine_url}/tokenize", json={"model": served.model, "messages": [*MESSAGES, both]}
    )
    assert tokenized.status_code == 200, tokenized.text
    told = first["prompt_token_ids"] + first["choices"][0]["token_ids"]
    assert common_prefix(kept, told) == len(told)
    assert common_prefix(dropped, told) < len(first["prompt_token_ids"])


def common_prefix(one: list[int], other: list[int]) -> int:
    return next(
        (i for i, (a, b) in enumerate(zip(one, other, strict=False)) if a != b), min(len(one), len(other))
    )
