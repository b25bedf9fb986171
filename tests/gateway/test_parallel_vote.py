"""One request, several branches, one answer: through the gateway, before an engine that can be scripted."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from typing import Any

import httpx
import openai
import pytest

from tests.gateway.serving import eventually, gateway
from tests.gateway.stand_in import PROMPT_TOKENS, Faults, StandIn, running
from tests.gateway.test_gateway_chat import ASK, ask
from tests.gateway.with_keys import KeysForTests, error_of

CHAT = "/v1/chat/completions"
SEED = 100


def vote(
    width: int = 4, total: int | None = 64, method: str = "majority_vote", **fields: Any
) -> dict[str, Any]:
    parallel: dict[str, Any] = {"method": method, "width": width, **fields}
    return {"seed": SEED, "parallel": parallel | ({} if total is None else {"total_thinking_tokens": total})}


def says(engine: StandIn, *answers: str) -> None:
    engine.answers = {SEED + index: answer for index, answer in enumerate(answers)}


async def test_the_most_frequent_answer_is_given_with_a_receipt_per_branch(
    sdk: openai.AsyncOpenAI, engine: StandIn
) -> None:
    says(engine, "7", "0.5", "\\boxed{\\frac12}", "1/2")
    engine.held_seeds = frozenset()
    fields = vote(total=22)
    got = await sdk.chat.completions.create(**ASK, seed=SEED, extra_body={"parallel": fields["parallel"]})
    choice = got.choices[0]
    assert len(got.choices) == 1 and choice.index == 0
    told = choice.parallel
    assert told["chosen"] == 1 and choice.message.content == "0.5"
    assert (told["votes"], told["decided_by"]) == (3, "majority")
    assert [branch["answer"] for branch in told["branches"]] == ["7", "0.5", "\\frac12", "1/2"]
    shares = [branch["thinking_budget"]["effective"]["max"] for branch in told["branches"]]
    assert shares == [5, 5, 5, 5]
    receipts = [branch["thinking_budget"] for branch in told["branches"]]
    assert all(
        receipt["requested_as"] == {"max_thinking_tokens": "parallel.total_thinking_tokens"}
        for receipt in receipts
    )
    assert choice.thinking_budget == receipts[1]
    spent = sum(r["thinking_tokens"] + r["marker_tokens"] + r["answer_tokens"] for r in receipts)
    assert got.usage.completion_tokens == spent
    assert got.usage.total_tokens == PROMPT_TOKENS + spent
    assert got.usage.completion_tokens_details.reasoning_tokens == told["thinking_tokens"] == 20 <= 22
    assert [body["vllm_xargs"]["max_thinking_tokens"] for body in engine.bodies] == [5] * 4
    assert sorted(body["seed"] for body in engine.bodies) == [SEED, SEED + 1, SEED + 2, SEED + 3]


async def test_a_decided_vote_ends_the_branches_that_no_longer_matter(
    client: httpx.AsyncClient, engine: StandIn
) -> None:
    says(engine, "7", "7", "7", "8", "8")
    engine.held_seeds = frozenset({SEED + 3, SEED + 4})
    engine.faults.tokens_in_stall = 3
    got = await ask(client, **vote(width=5))
    told = got["choices"][0]["parallel"]
    assert (told["finished"], told["cancelled"], told["answer"]) == (3, 2, "7")
    assert [branch["status"] for branch in told["branches"]] == ["finished"] * 3 + ["cancelled"] * 2
    assert engine.active == 0 and engine.cancelled == 2
    # What the two had cost when they were ended is in the sum.
    assert [branch["thinking_budget"]["thinking_tokens"] for branch in told["branches"][3:]] == [3, 3]
    finished = [branch["thinking_budget"] for branch in told["branches"][:3]]
    spent = sum(r["thinking_tokens"] + r["marker_tokens"] + r["answer_tokens"] for r in finished)
    assert got["usage"]["completion_tokens"] == spent + 2 * 3


async def test_an_undecided_vote_waits(client: httpx.AsyncClient, engine: StandIn) -> None:
    says(engine, "7", "8", "8")
    engine.held_seeds = frozenset({SEED + 1})
    before = len(engine.bodies)
    asking = asyncio.create_task(client.post(CHAT, json=ASK | vote(width=3)))
    await eventually(lambda: len(engine.bodies) == before + 3 and engine.active == engine.stalled == 1)
    engine.release.set()
    told = (await asking).json()["choices"][0]["parallel"]
    assert (told["answer"], told["chosen"], told["finished"]) == ("8", 1, 3)


async def test_branches_without_an_answer_and_ties(client: httpx.AsyncClient, engine: StandIn) -> None:
    long = "no answer here. " * 20
    says(engine, long, "b then", long, "9")
    # The last of them could still make a tie, which it would win: it is waited for.
    engine.held_seeds = frozenset({SEED + 1})
    before = len(engine.bodies)
    asking = asyncio.create_task(ask(client, **vote()))
    await eventually(lambda: len(engine.bodies) == before + 4 and engine.active == engine.stalled == 1)
    engine.release.set()
    told = (await asking)["choices"][0]["parallel"]
    assert (told["chosen"], told["decided_by"], told["votes"]) == (1, "tie_lowest_index", 1)
    says(engine, long, long, long, long)
    got = (await ask(client, **vote()))["choices"][0]
    assert (got["parallel"]["decided_by"], got["parallel"]["answer"]) == ("no_answer", None)
    assert got["message"]["content"] == long


@pytest.mark.parametrize("stream", [True, False])
async def test_a_client_that_leaves_ends_all_branches(
    client: httpx.AsyncClient, engine: StandIn, stream: bool
) -> None:
    engine.held_seeds = frozenset(range(SEED, SEED + 8))
    asking = asyncio.create_task(client.post(CHAT, json=ASK | vote(width=8) | {"stream": stream}))
    await eventually(lambda: engine.active == 8)
    asking.cancel()
    await eventually(lambda: engine.active == 0, within_s=1)
    assert engine.cancelled == 8
    await eventually(lambda: client.pool.engines[0].outstanding == 0)


async def test_a_branch_that_fails_ends_the_others(client: httpx.AsyncClient, engine: StandIn) -> None:
    engine.held_seeds = frozenset({SEED + 1, SEED + 2, SEED + 3})
    engine.faults = Faults(refuse=None, garbage_after=None, no_receipt=True)
    response = await client.post(CHAT, json=ASK | vote())
    assert (response.status_code, error_of(response)["code"]) == (502, "receipt_missing")
    await eventually(lambda: engine.active == 0)


async def test_a_cancelled_branch_that_nobody_can_account_for_is_told_as_such(
    client: httpx.AsyncClient, engine: StandIn
) -> None:
    says(engine, "7", "7", "8")
    engine.held_seeds = frozenset({SEED + 2})
    original = engine.account
    engine.account = lambda generation, tokens: tokens and original(generation, tokens)  # type: ignore[method-assign,assignment]
    told = (await ask(client, **vote(width=3)))["choices"][0]["parallel"]
    assert told["branches"][2] == {"index": 2, "status": "cancelled", "answer": None, "thinking_budget": None}


async def test_a_stream_tells_of_progress_and_then_the_answer(
    sdk: openai.AsyncOpenAI, engine: StandIn
) -> None:
    says(engine, "7", "8", "8", "8")
    engine.held_seeds = frozenset({SEED})
    stream = await sdk.chat.completions.create(
        **ASK,
        seed=SEED,
        stream=True,
        stream_options={"include_usage": True},
        extra_body={"parallel": vote()["parallel"]},
    )
    chunks = [chunk async for chunk in stream]
    progress = [chunk.parallel_progress for chunk in chunks if hasattr(chunk, "parallel_progress")]
    assert [event["finished"] for event in progress] == [1, 2, 3]
    assert {event["answer"] for event in progress} == {"8"} and progress[-1]["width"] == 4
    assert chunks[0].choices[0].delta.role == "assistant"
    text = "".join(chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices)
    thinking = "".join(
        getattr(chunk.choices[0].delta, "reasoning", None) or "" for chunk in chunks if chunk.choices
    )
    assert text == "8" and thinking.startswith("t0 ")
    ending = chunks[-2].choices[0]
    assert ending.finish_reason == "stop" and ending.parallel["cancelled"] == 1
    assert ending.thinking_budget["thinking_tokens"] == 8
    assert chunks[-1].choices == [] and chunks[-1].usage.completion_tokens_details.reasoning_tokens >= 24
    assert len({chunk.id for chunk in chunks}) == 1


async def test_hidden_thinking_stays_hidden(client: httpx.AsyncClient, engine: StandIn) -> None:
    got = await ask(client, **vote(), include_reasoning=False)
    assert got["choices"][0]["message"]["reasoning"] is None
    assert got["choices"][0]["message"]["reasoning_content"] is None
    response = await client.post(CHAT, json=ASK | vote() | {"include_reasoning": False, "stream": True})
    assert '"reasoning"' not in response.text and "t0 " not in response.text


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"n": 2}, "n"),
        ({"logprobs": True}, "logprobs"),
        ({"logprobs": True, "top_logprobs": 2}, "logprobs"),
        ({"tools": [{"type": "function", "function": {"name": "f"}}]}, "tools"),
        ({"response_format": {"type": "json_object"}}, "response_format"),
        ({"structured_outputs": {"choice": ["a"]}}, "structured_outputs"),
        ({"use_beam_search": True}, "use_beam_search"),
        ({"return_token_ids": True}, "return_token_ids"),
        ({"prompt_logprobs": 1}, "prompt_logprobs"),
        ({"stream_interval": 4}, "stream_interval"),
        ({"vllm_xargs": {"mine": 1}}, "vllm_xargs"),
        ({"temperature": 0}, "temperature"),
        (
            {"stream": True, "stream_options": {"continuous_usage_stats": True}},
            "stream_options.continuous_usage_stats",
        ),
        ({"max_thinking_tokens": 8}, "parallel.total_thinking_tokens"),
        ({"reasoning_effort": "low"}, "parallel.total_thinking_tokens"),
        ({"thinking": {"type": "enabled", "budget_tokens": 2048}}, "parallel.total_thinking_tokens"),
        ({"min_thinking_tokens": 17}, "min_thinking_tokens"),
    ],
)
async def test_what_contradicts_it_is_refused_by_name(
    client: httpx.AsyncClient, engine: StandIn, fields: dict[str, Any], param: str
) -> None:
    response = await client.post(CHAT, json=ASK | vote() | fields)
    assert response.status_code == 400, response.text
    assert error_of(response)["param"] == param
    assert engine.bodies == []


@pytest.mark.parametrize(
    ("parallel", "param"),
    [
        ({"width": 4, "total_thinking_tokens": 64}, "parallel.method"),
        ({"method": "vote", "width": 4}, "parallel.method"),
        ({"method": "majority_vote"}, "parallel.width"),
        ({"method": "majority_vote", "width": 0}, "parallel.width"),
        ({"method": "majority_vote", "width": 65}, "parallel.width"),
        ({"method": "majority_vote", "width": True}, "parallel.width"),
        (
            {"method": "majority_vote", "width": 4, "total_thinking_tokens": 3},
            "parallel.total_thinking_tokens",
        ),
        (
            {"method": "majority_vote", "width": 4, "total_thinking_tokens": 0},
            "parallel.total_thinking_tokens",
        ),
        ({"method": "majority_vote", "width": 4}, "parallel.total_thinking_tokens"),
        ({"method": "majority_vote", "width": 4, "total": 64}, "parallel.total"),
        ({"method": "majority_vote", "width": 4, "balance_temperature": 0.1}, "parallel.balance_temperature"),
        ({"method": "majority_vote", "width": 4, "max_depth": 3}, "parallel.max_depth"),
        ("majority_vote", "parallel"),
    ],
)
async def test_a_malformed_field_is_refused_by_name(
    client: httpx.AsyncClient, engine: StandIn, parallel: Any, param: str
) -> None:
    response = await client.post(CHAT, json=ASK | {"parallel": parallel})
    assert response.status_code == 400, response.text
    assert error_of(response)["param"] == param
    assert engine.bodies == []


async def test_fields_that_ask_for_nothing_are_no_contradiction(client: httpx.AsyncClient) -> None:
    got = await ask(client, **vote(), n=1, logprobs=False, response_format={"type": "text"}, temperature=0.7)
    assert got["choices"][0]["parallel"]["finished"] >= 2


async def test_a_maximum_per_branch_does_instead_of_a_total(client: httpx.AsyncClient) -> None:
    got = await ask(client, **vote(total=None), max_thinking_tokens=6, num_waits=1)
    branches = got["choices"][0]["parallel"]["branches"]
    told = [branch["thinking_budget"] for branch in branches if branch["status"] == "finished"]
    assert all(receipt["effective"] == {"min": 0, "max": 6, "num_waits": 1} for receipt in told)


async def test_the_policy_caps_each_branch(engine: StandIn, tmp_path: Path) -> None:
    policy = tmp_path / "policy.yaml"
    policy.write_text("server: {cap: {max_thinking_tokens: 3}}\n")
    async with gateway(engine.url, policy_file=policy) as client:
        response = await client.post(CHAT, json=ASK | vote())
        assert response.headers["x-thinking-budget-max"] == "3"
        receipt = response.json()["choices"][0]["thinking_budget"]
        assert receipt["effective"]["max"] == 3 and receipt["clamped_by"] == ["policy:server"]
        # A cap is a budget: the branches share it without asking for one.
        assert (await client.post(CHAT, json=ASK | vote(total=None))).status_code == 200


async def test_a_key_reserves_all_branches_and_pays_what_they_used(engine: StandIn, tmp_path: Path) -> None:
    keys = KeysForTests(tmp_path / "keys.json")
    headers = keys.add("ann", quotas={"thinking_tokens_per_day": 100})
    async with gateway(engine.url, keys_file=keys.path) as client:
        client.headers.update(headers)
        response = await client.post(CHAT, json=ASK | vote(width=4, total=104))
        assert (response.status_code, error_of(response)["code"]) == (429, "request_too_large")
        says(engine, "7", "7", "8", "8")
        engine.held_seeds = frozenset({SEED + 2, SEED + 3})
        engine.faults.tokens_in_stall = 5
        response = await client.post(CHAT, json=ASK | vote(width=4, total=100))
        assert response.json()["choices"][0]["parallel"]["cancelled"] == 2
        told = await client.post(CHAT, json=ASK | {"max_thinking_tokens": 0})
        # Eight by each of the two that finished, five by each of the two that were ended.
        assert told.headers["x-ratelimit-remaining-thinking-tokens"] == str(100 - 2 * 8 - 2 * 5)


async def test_room_for_all_branches_is_waited_for(tmp_path: Path) -> None:
    async with running(StandIn(kv_blocks=200)) as engine, gateway(engine.url, admission="on") as client:
        engine.held_seeds = frozenset(range(SEED, SEED + 4))
        body = ASK | vote(total=400) | {"max_completion_tokens": 300}
        first = asyncio.create_task(client.post(CHAT, json=body))
        await eventually(lambda: engine.active == 4)
        assert client.pool.engines[0].committed_tokens >= 4 * 300
        engine.release.set()
        assert (await first).status_code == 200
        assert client.pool.engines[0].committed_tokens == 0


async def test_the_other_apis_do_not_take_it_silently(client: httpx.AsyncClient) -> None:
    for path, body in (
        ("/v1/messages", {"model": "tiny", "max_tokens": 64, "messages": ASK["messages"]}),
        ("/v1/responses", {"model": "tiny", "input": "6 * 7?"}),
    ):
        response = await client.post(path, json=body | {"parallel": vote()["parallel"]})
        assert response.status_code == 400 and "parallel" in json.dumps(response.json())
