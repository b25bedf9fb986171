"""Which engine a request goes to: outstanding tokens first, then who holds the beginning of its prompt."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from server.gateway.engines import balance
from server.gateway.engines.balance import Balance, Prefix, least_busy
from server.gateway.engines.engine import Engine
from server.gateway.settings import Settings
from tests.gateway.serving import eventually, gateway
from tests.gateway.stand_in import Faults, StandIn, running
from tests.gateway.test_gateway_chat import ASK

LONG = "We walk along the river and count the stones. " * 60


def prefix(*texts: str, **fields: Any) -> Prefix:
    return Prefix("m", {"messages": [{"role": "user", "content": text} for text in texts], **fields})


@pytest.fixture
def engines() -> list[Engine]:
    return [Engine(f"http://{name}", Settings()) for name in "abc"]


def test_a_longer_conversation_begins_with_the_shorter_one() -> None:
    one, two, other = prefix(LONG), prefix(LONG, "And then?"), prefix("Why? " + LONG)
    assert len(one.blocks) >= 5
    assert two.blocks[: len(one.blocks)] == one.blocks
    assert not set(other.blocks) & set(one.blocks)
    assert prefix("Hello").blocks == ()


@pytest.mark.parametrize(
    "fields",
    [
        {"cache_salt": "x"},
        {"tools": [{"type": "function"}]},
        {"chat_template_kwargs": {"enable_thinking": True}},
    ],
    ids=lambda fields: next(iter(fields)),
)
def test_what_changes_the_prompt_from_its_beginning_keeps_it_apart(fields: dict[str, Any]) -> None:
    assert not set(prefix(LONG, **fields).blocks) & set(prefix(LONG).blocks)
    assert not set(Prefix("other", prefix(LONG)._fields).blocks) & set(prefix(LONG).blocks)


def test_a_huge_prompt_is_read_from_its_beginning_only() -> None:
    assert prefix(LONG * 1000, "x").blocks == prefix(LONG * 1000, "y").blocks


async def test_least_outstanding_tokens(engines: list[Engine]) -> None:
    first, second, third = engines
    first.committed_tokens, second.committed_tokens, third.committed_tokens = 900, 100, 200
    second.outstanding = 50  # many small ones are less than a few big ones
    assert least_busy(engines) is second
    second.committed_tokens = third.committed_tokens
    assert least_busy(engines) is third
    third.status.enforcement = "rounds"
    assert least_busy(engines) is second


async def test_a_conversation_goes_back_to_its_engine_until_that_is_busier(engines: list[Engine]) -> None:
    first, second, third = engines
    remembering = Balance()
    first.committed_tokens = third.committed_tokens = 10
    assert remembering.choose(engines, tokens=100, prefix=prefix(LONG)) is second
    first.committed_tokens, second.committed_tokens, third.committed_tokens = 0, 100, 50
    assert remembering.choose(engines, tokens=100, prefix=prefix(LONG, "more")) is second
    second.committed_tokens = 101
    assert remembering.choose(engines, tokens=100, prefix=prefix(LONG, "more")) is first


async def test_where_all_are_busy_a_quarter_more_is_as_good_as_equal(engines: list[Engine]) -> None:
    first, second, third = engines
    remembering = Balance()
    first.committed_tokens = third.committed_tokens = 10
    assert remembering.choose(engines, tokens=1, prefix=prefix(LONG)) is second
    first.committed_tokens, second.committed_tokens, third.committed_tokens = 5000, 1250, 1000
    assert remembering.choose(engines, tokens=1, prefix=prefix(LONG, "more")) is second
    second.committed_tokens = 1251
    assert remembering.choose(engines, tokens=1, prefix=prefix(LONG, "more")) is third


async def test_the_longest_beginning_wins(engines: list[Engine]) -> None:
    first, second, _ = engines
    remembering = Balance()
    assert remembering.choose(engines, tokens=100, prefix=prefix(LONG)) is first
    first.committed_tokens = 300
    assert remembering.choose(engines, tokens=100, prefix=prefix(LONG, LONG)) is second
    first.committed_tokens = 0
    assert remembering.choose(engines, tokens=100, prefix=prefix(LONG, LONG, "?")) is second
    assert remembering.choose(engines, tokens=100, prefix=prefix(LONG, "?")) is first


async def test_an_engine_that_was_away_holds_nothing(engines: list[Engine]) -> None:
    first, second, _ = engines
    remembering = Balance()
    assert remembering.choose(engines, tokens=100, prefix=prefix(LONG)) is first
    first.committed_tokens = 50
    assert remembering.choose(engines, tokens=100, prefix=prefix(LONG)) is first
    first.status.reconnects += 1
    assert remembering.choose(engines, tokens=100, prefix=prefix(LONG)) is second


async def test_prompts_are_forgotten(engines: list[Engine], monkeypatch: pytest.MonkeyPatch) -> None:
    first = engines[0]
    remembering = Balance()
    old, new = prefix(LONG), prefix("Something else. " + LONG)
    monkeypatch.setattr(balance, "_BLOCKS_REMEMBERED", len(new.blocks) + 1)
    assert remembering.choose(engines, tokens=100, prefix=old) is first
    assert remembering.choose(engines, tokens=100, prefix=new) is first
    first.committed_tokens = 50
    # The beginning of the old one is what is left of it.
    assert [remembering._blocks_held(each, first) for each in (old, new)] == [1, len(new.blocks)]
    assert len(remembering._holders) == len(new.blocks) + 1


async def test_conversations_stay_and_load_is_spread() -> None:
    one, two = StandIn(), StandIn()
    async with running(one), running(two), gateway(one.url, two.url) as client:

        async def say(*texts: str) -> None:
            messages = [{"role": "user", "content": text} for text in texts]
            response = await client.post("/v1/chat/completions", json=ASK | {"messages": messages})
            assert response.status_code == 200

        one.faults = Faults(stall_after=0)
        blocked = asyncio.create_task(say("Busy. " + LONG))
        await eventually(lambda: one.active == 1)
        await say("Alice. " + LONG)
        assert len(two.bodies) == 1
        one.release.set()
        await blocked
        one.faults = Faults()
        for turn in range(3):
            await say("Alice. " + LONG, *["and?"] * turn)
            await say("Busy. " + LONG, *["and?"] * turn)
        assert (len(one.bodies), len(two.bodies)) == (4, 4)
