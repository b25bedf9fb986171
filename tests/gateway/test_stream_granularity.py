"""Tokens of an event: asked for by the pace of an engine, joined where received together, or one each."""

from __future__ import annotations

from typing import Any

import httpx
import orjson
import pytest

from server.gateway.chat.bursts import Burst, joins
from server.gateway.chat.granularity import CROWD, CROWDED_UPDATES_PER_S, MOST_TOKENS, UPDATES_PER_S, Pace
from server.gateway.errors import EngineDied
from tests.gateway.serving import gateway
from tests.gateway.stand_in import NATURAL_THINKING, Faults, StandIn

CHAT = "/v1/chat/completions"
ASK = {"model": "tiny", "messages": [{"role": "user", "content": "?"}], "stream": True}
THOUGHT = "".join(f"t{i} " for i in range(NATURAL_THINKING))


async def chunks(client: httpx.AsyncClient, **fields: Any) -> list[dict[str, Any]]:
    answer = await client.post(CHAT, json=ASK | fields)
    assert answer.status_code == 200, answer.text
    found = [line.removeprefix("data: ") for line in answer.text.split("\n\n") if line]
    return [orjson.loads(event) for event in found if event != "[DONE]"]


def texts(found: list[dict[str, Any]], field: str) -> list[str]:
    deltas = [choice["delta"] for chunk in found for choice in chunk["choices"]]
    return [delta[field] for delta in deltas if delta.get(field)]


async def test_the_engine_is_asked_for_as_many_tokens_an_event_as_suit_its_pace(engine: StandIn) -> None:
    async with gateway(engine.url, stream_granularity="auto") as client:
        pace = client.pool.ready[0].pace  # type: ignore[attr-defined]
        pace.tokens_per_s = UPDATES_PER_S * 5.0
        await chunks(client, max_thinking_tokens=5)
        assert engine.bodies[-1]["stream_interval"] == 5
        pace.tokens_per_s = UPDATES_PER_S * 0.5
        await chunks(client)
        assert "stream_interval" not in engine.bodies[-1]


@pytest.mark.parametrize("fields", [{"stream_granularity": "token"}, {"stream_interval": 3}])
async def test_a_request_that_says_it_gets_that(engine: StandIn, fields: dict[str, Any]) -> None:
    async with gateway(engine.url, stream_granularity="auto") as client:
        client.pool.ready[0].pace.tokens_per_s = 1000.0  # type: ignore[attr-defined]
        found = await chunks(client, **fields)
        assert engine.bodies[-1].get("stream_interval") == fields.get("stream_interval")
        assert "stream_granularity" not in engine.bodies[-1]
        assert texts(found, "reasoning") == [f"t{i} " for i in range(NATURAL_THINKING)]


async def test_tool_calls_come_a_token_at_a_time(engine: StandIn) -> None:
    tool = {"type": "function", "function": {"name": "f", "parameters": {"type": "object"}}}
    async with gateway(engine.url, stream_granularity="auto") as client:
        client.pool.ready[0].pace.tokens_per_s = 1000.0  # type: ignore[attr-defined]
        await chunks(client, tools=[tool])
        assert "stream_interval" not in engine.bodies[-1]


@pytest.mark.parametrize("fields", [{}, {"return_token_ids": True}, {"logprobs": True}, {"n": 3}])
async def test_nothing_is_lost_where_events_are_joined(engine: StandIn, fields: dict[str, Any]) -> None:
    async with gateway(engine.url, stream_granularity="auto") as client:
        found = await chunks(client, max_thinking_tokens=8, stream_options={"include_usage": True}, **fields)
    for index in range(fields.get("n", 1)):
        own = [chunk for chunk in found if chunk["choices"] and chunk["choices"][0]["index"] == index]
        assert "".join(texts(own, "reasoning")) == THOUGHT
        assert texts(own, "reasoning") == texts(own, "reasoning_content")
        assert "".join(texts(own, "content")) == "42."
        endings = [chunk["choices"][0] for chunk in own if chunk["choices"][0].get("finish_reason")]
        assert [ending["thinking_budget"]["thinking_tokens"] for ending in endings] == [8]
        if fields.get("return_token_ids"):
            # The end token's id comes with the finish, in a chunk of its own.
            assert sum(len(chunk["choices"][0].get("token_ids") or ()) for chunk in own) == 8 + 4
        if fields.get("logprobs"):
            assert sum(len((c["choices"][0].get("logprobs") or {}).get("content", ())) for c in own) == 8 + 4


async def test_what_came_before_an_error_of_the_engine_is_sent(engine: StandIn) -> None:
    engine.faults = Faults(error_after=3)
    async with gateway(engine.url, stream_granularity="auto") as client:
        found = await chunks(client)
    assert "".join(texts([chunk for chunk in found if "choices" in chunk], "reasoning")) == "t0 t1 t2 "
    assert "error" in found[-1]


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"stream_granularity": "token", "stream": False}, "stream_granularity"),
        ({"stream_granularity": "token", "stream_interval": 2}, "stream_interval"),
        ({"stream_granularity": "word"}, "stream_granularity"),
    ],
)
async def test_what_makes_no_sense_is_refused(
    client: httpx.AsyncClient, fields: dict[str, Any], param: str
) -> None:
    answer = await client.post(CHAT, json=ASK | fields)
    assert answer.status_code == 400
    assert answer.json()["error"]["param"] == param


def test_a_pace_gives_enough_updates_and_forgets_a_fast_time_sooner_than_a_slow_one() -> None:
    pace = Pace()
    assert pace.interval(0) == 1
    pace.note(100, 1.0)
    assert pace.interval(0) == 100 // UPDATES_PER_S
    assert pace.interval(CROWD) == 100 // CROWDED_UPDATES_PER_S
    pace.note(50, 1.0)
    assert pace.tokens_per_s == 75
    pace.note(175, 1.0)
    assert pace.tokens_per_s == 95
    pace.note(0, 1.0)
    pace.note(5, 0.0)
    assert pace.tokens_per_s == 95
    pace.tokens_per_s = 1e9
    assert pace.interval(0) == MOST_TOKENS


async def test_a_stream_teaches_the_pace(engine: StandIn) -> None:
    async with gateway(engine.url) as client:
        await chunks(client, max_thinking_tokens=5)
        assert client.pool.ready[0].pace.tokens_per_s > 0  # type: ignore[attr-defined]


async def test_a_burst_writes_once_after_everything_was_handed_on() -> None:
    done: list[str] = []

    async def flush() -> None:
        done.append("flush")

    async def write() -> None:
        done.append("write")

    burst = Burst()
    burst.write_at_close(write)
    burst.at_close(flush)
    async with burst:
        async with burst:
            assert burst.is_open
        assert done == ["flush"]
    assert done == ["flush", "flush", "write"]
    with pytest.raises(EngineDied):
        async with burst:
            raise EngineDied("gone")
    assert done[3:] == ["flush", "write"]
    with pytest.raises(RuntimeError):
        async with burst:
            raise RuntimeError
    assert len(done) == 5
    assert not burst.is_open


def test_only_text_of_one_kind_is_joined() -> None:
    def chunk(**choice: Any) -> dict[str, Any]:
        return {"choices": [{"index": 0, "delta": {"content": "a"}, **choice}]}

    last = chunk(token_ids=[1])
    assert joins(last, chunk(token_ids=[2, 3]))
    assert last["choices"][0] == {"index": 0, "delta": {"content": "aa"}, "token_ids": [1, 2, 3]}
    for other in (
        chunk(index=1),
        chunk(delta={"reasoning": "a"}),
        chunk(finish_reason="stop"),
        chunk(logprobs={"content": []})
        | {"choices": [{"index": 0, "delta": {"content": "a"}, "logprobs": {"x": 1}}]},
        chunk(delta={"tool_calls": [{}]}),
    ):
        assert not joins(last, other)
