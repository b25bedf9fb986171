"""What would end a vLLM engine on Model Runner V2 isn't sent to one: not for clients, and not by rounds."""

from __future__ import annotations

import json
import random
from collections.abc import AsyncIterator
from typing import Any

import httpx
import pytest

from server.budget.spec import BudgetError, ThinkingBudget
from server.gateway.errors import InvalidRequest
from server.gateway.rounds.completions import Ask
from server.gateway.rounds.completions_vllm import VllmCompletions
from tests.gateway.reward_stand_in import RewardStandIn, running_reward
from tests.gateway.serving import gateway
from tests.gateway.stand_in import StandIn
from tests.gateway.test_gateway_rounds import MESSAGES, native, random_fields
from tests.gateway.toy_engine import Toy, running
from tests.gateway.toy_native import ToyNative, running_native
from tests.gateway.with_keys import error_of
from tests.support.toy_markers import EOS, SPECIAL, UNKNOWN

CHAT = "/v1/chat/completions"
STOCK = "server.gateway.rounds.completions_vllm"


def bias(entries: int) -> dict[str, float]:
    return {str(token): -1 for token in range(entries)}


ROUTES: dict[str, dict[str, Any]] = {
    CHAT: {"messages": MESSAGES},
    "/v1/completions": {"prompt": "x"},
    "/v1/messages": {"messages": MESSAGES, "max_tokens": 100},
    "/v1/responses": {"input": "x"},
}


@pytest.mark.parametrize("path", ROUTES)
@pytest.mark.parametrize(
    ("at_most", "beyond", "says"),
    [
        ({"logit_bias": bias(1024)}, {"logit_bias": bias(1025)}, "at most 1024 entries. Given: 1025"),
        (
            {"allowed_token_ids": list(range(1024))},
            {"allowed_token_ids": list(range(1100))},
            "at most 1024 entries. Given: 1100",
        ),
        (
            {"stop_token_ids": list(range(120)), "min_tokens": 1},
            {"stop_token_ids": list(range(121)), "min_tokens": 1},
            "at most 120 entries with `min_tokens` above 0. Given: 121",
        ),
        (
            {"stop_token_ids": list(range(900)), "min_tokens": 0},
            {"stop_token_ids": list(range(900)), "min_tokens": 50},
            "at most 120 entries with `min_tokens` above 0. Given: 900",
        ),
    ],
    ids=["logit_bias", "allowed_token_ids", "stop_token_ids", "min_tokens"],
)
async def test_more_token_ids_than_an_engine_takes(
    client: httpx.AsyncClient,
    engine: StandIn,
    path: str,
    at_most: dict[str, Any],
    beyond: dict[str, Any],
    says: str,
) -> None:
    body = {"model": "tiny", **ROUTES[path]}
    assert (await client.post(path, json=body | at_most)).status_code == 200
    sent = len(engine.bodies), len(engine.passed)
    response = await client.post(path, json=body | beyond)
    param = next(iter(beyond))
    assert response.status_code == 400
    assert response.json()["error"]["message"].startswith(f"`{param}` must have {says}")
    assert response.json()["error"].get("param", param) == param
    assert (len(engine.bodies), len(engine.passed)) == sent


@pytest.mark.parametrize("least", ["5", True, 2.0])
async def test_what_vllm_would_take_for_a_number(client: httpx.AsyncClient, least: Any) -> None:
    body = {"prompt": "x", "stop_token_ids": list(range(121)), "min_tokens": least}
    response = await client.post("/v1/completions", json=body)
    assert (response.status_code, error_of(response)["param"]) == (400, "stop_token_ids")


class Recorder:
    """An engine that only keeps what it is asked."""

    def __init__(self) -> None:
        self.asked: list[dict[str, Any]] = []

    async def events(self, _path: str, body: bytes, _id: str | None) -> AsyncIterator[dict[str, Any]]:
        self.asked.append(json.loads(body))
        for _ in ():
            yield {}


async def sent(ask: Ask, **sampling: Any) -> dict[str, Any]:
    engine = Recorder()
    async for _ in VllmCompletions(engine, "m").generate([1], ask, sampling):  # type: ignore[arg-type]
        pass
    (body,) = engine.asked
    return body


async def test_more_masked_stops_than_fit_are_biased_away() -> None:
    ask = Ask(1, frozenset(range(300)), masked=True, banned=frozenset({900, 901}))
    body = await sent(ask, logit_bias={"5000": 3, "299": 100})
    assert body["min_tokens"] == 1
    assert body["max_tokens"] == 1
    assert body["stop_token_ids"] == list(range(120))
    lowest = dict.fromkeys(map(str, [*range(120, 300), 900, 901]), -100)
    assert body["logit_bias"] == {"5000": 3, **lowest}


async def test_stops_that_fit_stay_stops() -> None:
    body = await sent(Ask(7, frozenset(range(120)), masked=True))
    assert (body["min_tokens"], body["max_tokens"], len(body["stop_token_ids"])) == (1, 7, 120)
    assert "logit_bias" not in body
    body = await sent(Ask(7, frozenset(range(2000)), masked=False))
    assert (body["min_tokens"], body["max_tokens"], len(body["stop_token_ids"])) == (0, 7, 2000)
    assert "logit_bias" not in body


async def test_a_mask_by_bias_is_for_one_token() -> None:
    assert (await sent(Ask(7, frozenset(range(121)), masked=True)))["max_tokens"] == 1


async def test_banned_tokens_take_what_is_left() -> None:
    padding = frozenset(range(5000, 6000))
    body = await sent(
        Ask(1, frozenset(range(220)), masked=True, banned=padding), logit_bias={"5999": 9, "8": 1}
    )
    assert len(body["logit_bias"]) == 1024
    assert all(body["logit_bias"][str(token)] == -100 for token in (*range(120, 220), 5000, 5999))
    assert body["logit_bias"]["8"] == 1
    whole = await sent(Ask(50, frozenset({2}), masked=False, banned=frozenset(range(3000))))
    assert len(whole["logit_bias"]) == 1024


async def test_too_many_masked_stops() -> None:
    stops = frozenset(range(220))
    own = {str(token): 1 for token in range(10_000, 10_924)}
    assert len((await sent(Ask(1, stops, masked=True), logit_bias=own))["logit_bias"]) == 1024
    own["9999"] = 1
    with pytest.raises(InvalidRequest, match=r"at most 924 entries .* 220 .*Given: 925") as refused:
        await sent(Ask(1, stops, masked=True), logit_bias=own)
    assert refused.value.param == "logit_bias"
    with pytest.raises(InvalidRequest, match="keep 1144 tokens from being sampled next, and 1145") as refused:
        await sent(Ask(1, frozenset(range(1145)), masked=True))
    assert refused.value.param is None
    assert len((await sent(Ask(1, frozenset(range(1144)), masked=True)))["logit_bias"]) == 1024


def limit(patch: pytest.MonkeyPatch, *, stops: int, entries: int) -> None:
    """vLLM's limits for a vocabulary of 40 tokens."""
    patch.setattr(f"{STOCK}.MAX_MASKED_STOPS", stops)
    patch.setattr(f"{STOCK}.MAX_LOGIT_BIAS", entries)


def check_limits(bodies: list[dict[str, Any]], *, stops: int, entries: int) -> None:
    assert bodies
    for body in bodies:
        assert not body["min_tokens"] or len(body["stop_token_ids"]) <= stops
        assert len(body.get("logit_bias", {})) <= entries


async def test_rounds_equal_the_machine_within_the_limits(monkeypatch: pytest.MonkeyPatch) -> None:
    limit(monkeypatch, stops=1, entries=5)
    rng = random.Random(3)
    compared = 0
    async with running(Toy()) as toy, gateway(toy.url, refresh_interval_s=5) as client:
        for seed in range(150):
            toy.seed, toy.ends = seed, rng.choice([0.02, 0.15, 0.5, 1.0])
            fields = random_fields(rng)
            body = {"model": "toy-s1", "messages": MESSAGES, "return_token_ids": True, **fields}
            response = await client.post(CHAT, json=body)
            try:
                budget = ThinkingBudget.from_fields(fields)
                output, finish, settled = native(toy, budget, fields.get("max_completion_tokens"))
            except BudgetError:
                continue
            if response.status_code == 400:
                continue
            (choice,) = response.json()["choices"]
            assert (choice["token_ids"], choice["finish_reason"]) == (output, finish), fields
            assert choice["thinking_budget"] == settled
            compared += 1
        check_limits(toy.bodies, stops=1, entries=5)
        begun = {str(token): -100 for token in (EOS, SPECIAL, UNKNOWN)}
        assert any(body.get("logit_bias") == begun for body in toy.bodies)
    assert compared > 90


async def test_a_clients_own_bias_is_refused_before_it_thinks(monkeypatch: pytest.MonkeyPatch) -> None:
    limit(monkeypatch, stops=1, entries=4)
    async with running(Toy()) as toy, gateway(toy.url, refresh_interval_s=5) as client:
        body = {
            "model": "toy-s1",
            "messages": MESSAGES,
            "max_thinking_tokens": 8,
            "max_completion_tokens": 30,
        }
        toy.bodies.clear()
        response = await client.post(CHAT, json=body | {"logit_bias": {"10": 1, "11": 1, "12": 1}})
        assert (response.status_code, error_of(response)["param"]) == (400, "logit_bias")
        assert "at most 2 entries" in error_of(response)["message"]
        assert toy.bodies == []


@pytest.mark.parametrize(
    ("toy", "entries", "reason"),
    [
        (Toy(), 1, "3 of this model's may not begin an answer"),
        (Toy(drafts=True), 1000, "not yet supported with speculative decoding"),
    ],
    ids=["too-many", "drafts"],
)
async def test_the_probe_finds_that_an_answer_can_not_begin(
    monkeypatch: pytest.MonkeyPatch, toy: Toy, entries: int, reason: str
) -> None:
    limit(monkeypatch, stops=1, entries=entries)
    async with running(toy), gateway(toy.url) as client:
        (engine,) = (await client.get("/ready")).json()["engines"]
        assert engine["enforcement"] == "none"
        assert reason in engine["reason"]
        body = {"model": "toy-s1", "messages": MESSAGES, "num_waits": 1}
        assert reason in error_of(await client.post(CHAT, json=body))["message"]


async def test_thinking_on_keeps_the_limits(monkeypatch: pytest.MonkeyPatch) -> None:
    limit(monkeypatch, stops=1, entries=5)
    async with running_native(ToyNative()) as toy, gateway(toy.url, refresh_interval_s=5) as client:
        body = {"model": toy.name, "messages": MESSAGES, "max_thinking_tokens": 20}
        id = (await client.post(CHAT, json=body)).json()["id"]
        response = await client.post(f"{CHAT}/{id}/think_more", json={"max_thinking_tokens": 9})
        assert response.status_code == 200, response.text
        assert any(str(EOS) in body["logit_bias"] for body in toy.bodies)
        check_limits(toy.bodies, stops=1, entries=5)
        monkeypatch.setattr(f"{STOCK}.MAX_LOGIT_BIAS", 1)
        response = await client.post(f"{CHAT}/{id}/think_more", json={})
        assert response.status_code == 400
        assert "may not begin an answer" in error_of(response)["message"]


async def test_a_search_keeps_the_limits(monkeypatch: pytest.MonkeyPatch) -> None:
    """REBASE asks by itself: the answer's turn tokens are masked, padding is banned."""
    async with (
        running(Toy()) as toy,
        running_reward(RewardStandIn(lambda steps: 0.5)) as reward,
        gateway(toy.url, reward_url=reward.url, step_boundary="\n", refresh_interval_s=5) as client,
    ):
        limit(monkeypatch, stops=1, entries=3)
        toy.bodies.clear()
        parallel = {"method": "rebase", "width": 3, "total_thinking_tokens": 60}
        body = {
            "model": "toy-s1",
            "messages": MESSAGES,
            "parallel": parallel,
            "logit_bias": {"10": 1, "11": 2},
        }
        assert (await client.post(CHAT, json=body)).status_code == 200
        check_limits(toy.bodies, stops=1, entries=3)
