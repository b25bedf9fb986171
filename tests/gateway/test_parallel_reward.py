"""Votes that a reward model weighs, and its best branch."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import httpx
import pytest

from server.gateway.parallel.reward import split_steps
from server.gateway.settings import Settings, SettingsError, read_settings
from tests.gateway.reward_stand_in import RewardStandIn, running_reward
from tests.gateway.serving import eventually, gateway
from tests.gateway.stand_in import StandIn, running
from tests.gateway.test_gateway_chat import ASK, ask
from tests.gateway.test_parallel_vote import CHAT, SEED, says, vote
from tests.gateway.with_keys import error_of


@pytest.fixture
async def reward() -> AsyncIterator[RewardStandIn]:
    async with running_reward(RewardStandIn()) as started:
        yield started


@pytest.fixture
async def client(engine: StandIn, reward: RewardStandIn) -> AsyncIterator[httpx.AsyncClient]:
    async with gateway(engine.url, reward_url=reward.url, step_boundary=" ") as opened:
        yield opened


def by_answer(**scores: float) -> Any:
    """An opinion of answers, which are the last steps."""
    return lambda steps: scores.get(f"a{steps[-1]}", 0.5)


async def test_the_best_branch_speaks(
    client: httpx.AsyncClient, engine: StandIn, reward: RewardStandIn
) -> None:
    says(engine, "7", "7", "8", "9")
    reward.opinion = by_answer(a7=0.4, a8=0.9, a9=0.1)
    got = await ask(client, **vote(method="best_of", total=20))
    told = got["choices"][0]["parallel"]
    assert got["choices"][0]["message"]["content"] == told["answer"] == "8"
    assert (told["chosen"], told["decided_by"], told["votes"], told["weight"]) == (2, "score", 1, 0.9)
    assert [branch["score"] for branch in told["branches"]] == [0.4, 0.4, 0.9, 0.1]
    # Five thinking tokens of one word each, then the answer; the prompt as it was.
    assert reward.rated[0][:5] == ["t0", "t1", "t2", "t3", "t4"] and len(reward.rated[0]) == 6
    assert reward.messages[0] == ASK["messages"]
    assert told["reward"] == {"calls": 4, "tokens": reward.tokens}


async def test_a_heavy_few_outweigh_many(
    client: httpx.AsyncClient, engine: StandIn, reward: RewardStandIn
) -> None:
    says(engine, "7", "7", "7", "8")
    reward.opinion = by_answer(a7=0.2, a8=0.9)
    told = (await ask(client, **vote(method="weighted_vote")))["choices"][0]["parallel"]
    assert (told["answer"], told["votes"], told["decided_by"]) == ("8", 1, "weight")
    assert told["weight"] == pytest.approx(0.9)


async def test_a_weighted_vote_stops_when_it_is_decided(
    client: httpx.AsyncClient, engine: StandIn, reward: RewardStandIn
) -> None:
    says(engine, "7", "7", "7", "8")
    engine.held_seeds = frozenset({SEED + 3})
    reward.opinion = by_answer(a7=0.4)
    told = (await ask(client, **vote(method="weighted_vote")))["choices"][0]["parallel"]
    assert (told["answer"], told["cancelled"]) == ("7", 1)


async def test_the_best_of_all_waits_for_all(
    client: httpx.AsyncClient, engine: StandIn, reward: RewardStandIn
) -> None:
    says(engine, "7", "7", "7", "8")
    engine.held_seeds = frozenset({SEED + 3})
    asking = asyncio.create_task(ask(client, **vote(method="best_of")))
    await eventually(lambda: len(reward.rated) == 3 and engine.stalled == 1)
    reward.opinion = by_answer(a8=1.0)
    engine.release.set()
    assert (await asking)["choices"][0]["parallel"]["answer"] == "8"


async def test_without_a_reward_model_its_methods_are_refused(engine: StandIn) -> None:
    async with gateway(engine.url) as client:
        for method in ("weighted_vote", "best_of", "rebase"):
            response = await client.post(CHAT, json=ASK | vote(method=method))
            assert response.status_code == 400 and error_of(response)["param"] == "parallel.method"
            assert "--reward-url" in error_of(response)["message"]
    assert engine.bodies == []


async def test_a_reward_model_that_can_not_be_read_ends_the_request(
    client: httpx.AsyncClient, engine: StandIn, reward: RewardStandIn
) -> None:
    reward.pools_everywhere = True
    response = await client.post(CHAT, json=ASK | vote(method="best_of"))
    assert (response.status_code, error_of(response)["code"]) == (502, "engine_misbehaved")
    assert "step tag" in error_of(response)["message"]
    reward.pools_everywhere = False
    reward.refuse = (400, {"error": {"message": "too long", "code": 400}})
    response = await client.post(CHAT, json=ASK | vote(method="best_of"))
    assert response.status_code == 400 and "the reward model refused: too long" in response.text
    reward.refuse, reward.opinion = None, lambda steps: 1.5
    assert (await client.post(CHAT, json=ASK | vote(method="best_of"))).status_code == 502
    await eventually(lambda: engine.active == 0)


async def test_a_reward_model_that_is_away_is_a_503(engine: StandIn) -> None:
    async with gateway(engine.url, reward_url="http://127.0.0.1:9") as client:
        response = await client.post(CHAT, json=ASK | vote(method="best_of"))
        assert (response.status_code, error_of(response)["code"]) == (503, "engine_unavailable")
        assert (await client.post(CHAT, json=ASK | vote())).status_code == 200


async def test_a_reward_model_that_hangs_is_a_503_and_its_engine_is_well(reward: RewardStandIn) -> None:
    reward.stalls = True
    async with (
        running(StandIn(tokens_made=12)) as engine,
        gateway(engine.url, reward_url=reward.url, reward_timeout_s=0.8, stall_timeout_s=0.2) as client,
    ):
        response = await client.post(CHAT, json=ASK | vote(method="best_of"))
        assert (response.status_code, error_of(response)["code"]) == (503, "engine_unavailable")
        assert "within 0.8 s (reward_timeout_s)" in error_of(response)["message"]
        (one,) = client.pool.engines
        assert (one.status.state, one.status.reconnects) == ("ready", 0)
    await eventually(lambda: reward.active == 0)


async def test_a_client_that_leaves_stops_the_rating_too(
    client: httpx.AsyncClient, engine: StandIn, reward: RewardStandIn
) -> None:
    reward.stalls = True
    asking = asyncio.create_task(client.post(CHAT, json=ASK | vote(method="best_of")))
    await eventually(lambda: reward.active == 4)
    asking.cancel()
    await eventually(lambda: reward.active == 0)


async def test_what_a_reward_model_could_not_be_shown_is_refused(client: httpx.AsyncClient) -> None:
    fields = {"continue_final_message": True, "add_generation_prompt": False}
    response = await client.post(CHAT, json=ASK | vote(method="best_of") | fields)
    assert error_of(response)["param"] == "continue_final_message"


def test_steps_are_what_stands_between_boundaries() -> None:
    assert split_steps("a\n\n b\n\n\n\nc\n", "\n\n") == ["a", "b", "c"]
    assert split_steps(None, "\n") == split_steps(" \n ", "\n") == []


def test_settings_of_the_reward_model() -> None:
    assert Settings(step_boundary="\\n").step_boundary == "\n"
    assert Settings(reward_url="http://h:1/").reward_url == "http://h:1"
    for value in ("h:1", "http://h:1/v1"):
        with pytest.raises(SettingsError, match="reward_url"):
            read_settings({}, reward_url=value)
