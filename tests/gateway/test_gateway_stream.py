"""Streamed chat completions."""

from __future__ import annotations

import asyncio
from typing import Any

import httpx
import openai
import orjson
import pytest
from openai.types.chat import ChatCompletionChunk

from server.gateway.chat import sse
from tests.gateway.stand_in import NATURAL_THINKING, PROMPT_TOKENS, Faults, StandIn
from tests.gateway.test_gateway_chat import ASK


async def events(client: httpx.AsyncClient, **fields: Any) -> list[Any]:
    """The stream's events; the last is "[DONE]" unless it ended in an error."""
    async with client.stream(
        "POST", "/v1/chat/completions", json=ASK | {"stream": True} | fields
    ) as response:
        assert response.status_code == 200, await response.aread()
        assert response.headers["content-type"].startswith("text/event-stream")
        assert response.headers["cache-control"] == "no-cache"
        assert response.headers["x-accel-buffering"] == "no"
        raw = await response.aread()
    found = [line.removeprefix(b"data: ") for line in raw.split(b"\n\n") if line]
    return [event.decode() if event == b"[DONE]" else orjson.loads(event) for event in found]


def text(chunks: list[Any], field: str, index: int = 0) -> str:
    choices = [chunk["choices"][0] for chunk in chunks if chunk != "[DONE]" and chunk.get("choices")]
    return "".join(choice["delta"].get(field) or "" for choice in choices if choice["index"] == index)


async def test_the_sdk_streams_reasoning_answer_and_receipt(sdk: openai.AsyncOpenAI) -> None:
    stream = await sdk.chat.completions.create(
        **ASK, stream=True, stream_options={"include_usage": True}, extra_body={"max_thinking_tokens": 5}
    )
    chunks = [chunk async for chunk in stream]
    deltas = [chunk.choices[0].delta for chunk in chunks if chunk.choices]
    reasoning = [delta.reasoning for delta in deltas if getattr(delta, "reasoning", None)]
    assert reasoning == ["t0 ", "t1 ", "t2 ", "t3 ", "t4 "]
    assert all(delta.reasoning == delta.reasoning_content for delta in deltas if hasattr(delta, "reasoning"))
    assert "".join(delta.content or "" for delta in deltas) == "42."
    finish = chunks[-2].choices[0]
    assert finish.finish_reason == "stop"
    assert finish.thinking_budget["thinking_tokens"] == 5
    assert [
        c for c in chunks[:-2] if c.choices[0].finish_reason or hasattr(c.choices[0], "thinking_budget")
    ] == []
    assert chunks[-1].usage.completion_tokens_details.reasoning_tokens == 5
    assert chunks[-1].choices == []
    assert len({chunk.id for chunk in chunks}) == 1


@pytest.mark.parametrize(
    "fields", [{}, {"n": 2, "stream_options": {"include_usage": True}}, {"max_thinking_tokens": 0}], ids=str
)
async def test_chunks_are_as_the_sdk_types_them(client: httpx.AsyncClient, fields: dict[str, Any]) -> None:
    for chunk in (await events(client, **fields))[:-1]:
        ChatCompletionChunk.model_validate(chunk, strict=True)


async def test_the_usage_chunk_comes_only_if_asked_for(client: httpx.AsyncClient, engine: StandIn) -> None:
    without = await events(client)
    assert engine.bodies[-1]["stream_options"] == {"include_usage": True}
    assert without[-1] == "[DONE]"
    assert all("usage" not in chunk for chunk in without[:-1])
    assert without[-2]["choices"][0]["finish_reason"] == "stop"
    assert without[-2]["choices"][0]["thinking_budget"]["thinking_tokens"] == NATURAL_THINKING
    assert without[-2]["system_fingerprint"] == "fp"
    asked = await events(client, stream_options={"include_usage": True})
    assert asked[-2]["choices"] == []
    assert asked[-2]["usage"]["prompt_tokens"] == PROMPT_TOKENS


async def test_continuous_usage_is_on_every_chunk(client: httpx.AsyncClient) -> None:
    options = {"include_usage": True, "continuous_usage_stats": True}
    chunks = await events(client, stream_options=options, max_thinking_tokens=4)
    assert all("usage" in chunk for chunk in chunks[:-1])
    finish = chunks[-3]
    assert finish["usage"]["completion_tokens_details"]["reasoning_tokens"] == 4


async def test_the_last_text_comes_before_the_receipt(client: httpx.AsyncClient, engine: StandIn) -> None:
    """The engine's finishing chunk holds text when the choice ends by length."""
    chunks = await events(client, max_completion_tokens=11, max_thinking_tokens=1)
    finish = chunks[-2]["choices"][0]
    assert finish["finish_reason"] == "length"
    assert finish["delta"] == {}
    last_text = chunks[-3]["choices"][0]
    assert last_text["delta"]["content"] == "2"
    assert last_text["finish_reason"] is None
    assert text(chunks, "content") == "42"


async def test_three_choices_interleave_under_one_id(client: httpx.AsyncClient, engine: StandIn) -> None:
    chunks = await events(client, n=3, num_waits=1, stream_options={"include_usage": True}, seed=1)
    assert len({chunk["id"] for chunk in chunks[:-1]}) == 1
    for index in range(3):
        assert text(chunks, "content", index) == "42."
        assert text(chunks, "reasoning", index).count("Wait") == 1
    receipts = [c["choices"][0]["thinking_budget"] for c in chunks[:-1] if "thinking_budget" in str(c)]
    assert [receipt["waits"] for receipt in receipts] == [1, 1, 1]
    order = [chunk["choices"][0]["index"] for chunk in chunks[:-2]]
    assert order != sorted(order), "the choices came one after the other"
    usage = chunks[-2]["usage"]
    assert usage["prompt_tokens"] == PROMPT_TOKENS
    assert usage["completion_tokens"] == sum(
        r["thinking_tokens"] + r["answer_tokens"] + r["marker_tokens"] for r in receipts
    )
    assert usage["completion_tokens_details"]["reasoning_tokens"] == sum(
        r["thinking_tokens"] for r in receipts
    )


async def test_a_silent_stream_is_kept_alive(
    client: httpx.AsyncClient, engine: StandIn, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sse, "SILENCE_S", 0.05)
    engine.faults = Faults(stall_after=2)
    async with client.stream("POST", "/v1/chat/completions", json=ASK | {"stream": True}) as response:
        raw = b""
        async for piece in response.aiter_raw():
            raw += piece
            if raw.count(b"\n\n:\n\n:\n\n:\n\n"):
                engine.release.set()
    assert raw.endswith(b"data: [DONE]\n\n")
    assert raw.index(b":\n\n:") < raw.index(b'"finish_reason":"stop"')


async def test_choices_open_in_order_whichever_speaks_first(sdk: openai.AsyncOpenAI, engine: StandIn) -> None:
    """The SDK's own helper keeps choices in a list, and puts each at its index."""
    engine.faults = Faults(only_seed=1, stall_after=0)
    asked = {**ASK, "n": 3, "seed": 1, "extra_body": {"num_waits": 1}}
    async with sdk.chat.completions.stream(**asked) as stream:
        said = []
        async for event in stream:
            if event.type != "chunk" or not event.chunk.choices:
                continue
            (choice,) = event.chunk.choices
            said.append((choice.index, choice.delta.role))
            if len(said) > 5:
                engine.release.set()
        final = await stream.get_final_completion()
    assert said[:3] == [(0, "assistant"), (1, "assistant"), (2, "assistant")]
    assert all(role is None for _, role in said[3:])
    assert said[3][0] != 0
    assert [choice.message.content for choice in final.choices] == ["42."] * 3


@pytest.mark.parametrize("stream", [False, True])
async def test_a_generation_that_vllm_gave_up_is_no_answer(
    client: httpx.AsyncClient, engine: StandIn, stream: bool
) -> None:
    engine.faults = Faults(gives_up=True)
    if stream:
        last = (await events(client, max_thinking_tokens=4))[-1]
        assert last["error"]["code"] == "engine_died"
        return
    response = await client.post("/v1/chat/completions", json=ASK | {"max_thinking_tokens": 4})
    assert (response.status_code, response.json()["error"]["code"]) == (503, "engine_died")


async def test_hidden_reasoning_streams_only_the_answer(client: httpx.AsyncClient) -> None:
    chunks = await events(client, include_reasoning=False, max_thinking_tokens=4)
    shown = str(chunks)
    assert "t0" not in shown
    assert "logprobs" not in shown
    assert "'token_ids'" not in shown
    assert "reasoning" not in shown
    assert text(chunks, "content") == "42."
    # role, three words, the finish: none is empty.
    assert len(chunks) == 6


async def test_logprobs_and_token_ids_of_every_token_are_streamed_once(client: httpx.AsyncClient) -> None:
    chunks = await events(client, logprobs=True, return_token_ids=True)
    choices = [chunk["choices"][0] for chunk in chunks[:-1]]
    tokens = [entry for choice in choices for entry in (choice.get("logprobs") or {}).get("content", [])]
    assert len(tokens) == NATURAL_THINKING + 4
    assert sum(len(choice.get("token_ids") or []) for choice in choices) == NATURAL_THINKING + 4


@pytest.mark.parametrize(
    "faults", [Faults(split_bytes=1), Faults(split_bytes=7, crlf=True), Faults(crlf=True)]
)
async def test_chunks_of_the_transport_do_not_matter(
    client: httpx.AsyncClient, engine: StandIn, faults: Faults
) -> None:
    engine.faults = faults
    chunks = await events(client, max_thinking_tokens=6)
    assert text(chunks, "content") == "42."
    assert text(chunks, "reasoning") == "t0 t1 t2 t3 t4 t5 "


async def test_64_streams_at_once_keep_their_budgets(client: httpx.AsyncClient, engine: StandIn) -> None:
    async def one(limit: int) -> None:
        chunks = await events(client, max_thinking_tokens=limit)
        thought = text(chunks, "reasoning").split()
        assert len(thought) == min(limit, NATURAL_THINKING)
        assert chunks[-2]["choices"][0]["thinking_budget"]["thinking_tokens"] == len(thought)
        assert text(chunks, "content") == "42."

    client._transport = httpx.AsyncHTTPTransport(limits=httpx.Limits(max_connections=64))
    await asyncio.gather(*(one(index % 12) for index in range(64)))
    assert len({body["vllm_xargs"]["receipt_id"] for body in engine.bodies}) == 64
    assert engine.active == 0
