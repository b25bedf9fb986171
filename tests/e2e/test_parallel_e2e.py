"""Majority votes before a real engine: what they cost, when they end, and that nothing is left behind."""

from __future__ import annotations

import asyncio
from typing import Any

import httpx
import pytest
from openai import OpenAI

from tests.e2e.test_faults import until
from tests.support.engines import Running, metric

pytestmark = pytest.mark.engine

WIDTH = 8
HARD = "Start at 4. a: +7 *3; b: -2 +9; c: *7 -4; d: +6 +8. Last digit?"
MADE = "vllm:generation_tokens_total"
_RUNNING = "vllm:num_requests_running"


def vote(client: OpenAI, model: str, *, seed: int, **parallel: Any) -> Any:
    return client.chat.completions.create(
        model=model,
        messages=[{"role": "user", "content": HARD}],
        seed=seed,
        temperature=0.7,
        max_completion_tokens=400,
        extra_body={"num_waits": 1, "parallel": {"method": "majority_vote", "width": WIDTH, **parallel}},
    )


def test_a_vote_costs_what_its_samples_cost(served: Running, client: OpenAI) -> None:
    ended_early = 0
    for seed in range(0, 4 * WIDTH, WIDTH):
        before = metric(served.engine_url, MADE)
        got = vote(client, served.model, seed=seed, total_thinking_tokens=WIDTH * 128)
        made = metric(served.engine_url, MADE) - before
        told = got.choices[0].parallel
        assert len(told["branches"]) == told["finished"] + told["cancelled"] == WIDTH
        assert told["thinking_tokens"] <= WIDTH * 128
        assert got.choices[0].message.content.strip() == told["answer"]
        ended_early += told["cancelled"]
        # A branch that is ended early may have a few steps more until the engine hears of it; never more than
        # its whole sample would have had. vLLM's metrics leave out what was sampled as the branch was ended.
        assert made <= 1.05 * samples(client, served.model, seed=seed)
        assert got.usage.completion_tokens <= 1.05 * made
        if not told["cancelled"]:
            assert got.usage.completion_tokens == made
        counted = [branch["thinking_budget"] for branch in told["branches"]]
        assert all(receipt is not None for receipt in counted)
        assert got.usage.completion_tokens_details.reasoning_tokens == told["thinking_tokens"]
        if told["votes"] > WIDTH // 2:
            assert told["decided_by"] == "majority"


def samples(client: OpenAI, model: str, *, seed: int) -> int:
    """Completion tokens of the same samples without a vote."""
    alone = client.chat.completions.create(
        model=model,
        messages=[{"role": "user", "content": HARD}],
        seed=seed,
        temperature=0.7,
        n=WIDTH,
        max_completion_tokens=400,
        extra_body={"num_waits": 1, "max_thinking_tokens": 128},
    )
    assert alone.usage is not None
    return alone.usage.completion_tokens


def test_the_samples_are_those_of_the_choices_of_one_request(served: Running, client: OpenAI) -> None:
    got = vote(client, served.model, seed=7, total_thinking_tokens=WIDTH * 128)
    alone = client.chat.completions.create(
        model=served.model,
        messages=[{"role": "user", "content": HARD}],
        seed=7,
        temperature=0.7,
        n=WIDTH,
        max_completion_tokens=400,
        extra_body={"num_waits": 1, "max_thinking_tokens": 128},
    )
    answers = [choice.message.content.strip() for choice in alone.choices]
    told = got.choices[0].parallel["branches"]
    assert [b["answer"] for b in told if b["status"] == "finished"] == [
        answers[b["index"]] for b in told if b["status"] == "finished"
    ]


async def test_a_client_that_leaves_stops_every_branch(served: Running) -> None:
    body = {
        "model": served.model,
        "messages": [{"role": "user", "content": HARD}],
        "min_thinking_tokens": 1500,
        "parallel": {"method": "majority_vote", "width": WIDTH, "total_thinking_tokens": WIDTH * 1500},
    }
    async with httpx.AsyncClient(base_url=served.url, timeout=120) as http:
        for _ in range(5):
            asking = asyncio.create_task(http.post("/v1/chat/completions", json=body))
            await until(lambda: running(served) > 1 or asking.done(), timeout_s=60, what="branches run")  # noqa: B023
            if not asking.done():
                break
            # A quick engine was through before anybody looked.
            assert asking.result().status_code == 200, asking.result().text
        asking.cancel()
        await until(lambda: running(served) == 0, timeout_s=20, what="no branch is left")
        ready = (await http.get("/ready")).json()
        assert ready["engines"][0]["state"] == "ready"


def running(served: Running) -> float:
    return metric(served.engine_url, _RUNNING)


def test_a_stream_shows_progress_and_ends_with_the_receipt(served: Running, client: OpenAI) -> None:
    stream = client.chat.completions.create(
        model=served.model,
        messages=[{"role": "user", "content": HARD}],
        stream=True,
        extra_body={"parallel": {"method": "majority_vote", "width": 4, "total_thinking_tokens": 256}},
    )
    chunks = list(stream)
    progress = [chunk.parallel_progress for chunk in chunks if hasattr(chunk, "parallel_progress")]
    told = chunks[-1].choices[0].parallel
    assert len(progress) == told["finished"] >= 2
    text = "".join(chunk.choices[0].delta.content or "" for chunk in chunks)
    assert text.strip() == (told["answer"] or text.strip()) and text


def test_rounds_vote_too(rounds: Running) -> None:
    with OpenAI(base_url=f"{rounds.url}/v1", api_key="none", max_retries=0, timeout=120) as sdk:
        got = vote(sdk, rounds.model, seed=3, total_thinking_tokens=WIDTH * 64)
    told = got.choices[0].parallel
    assert told["finished"] + told["cancelled"] == WIDTH and told["thinking_tokens"] <= WIDTH * 64
    assert got.usage.completion_tokens > told["thinking_tokens"]
