"""Token for token: the sampler's forcing, the gateway's rounds, and s1's procedure on a stock engine."""

from __future__ import annotations

import asyncio
import itertools
import random
from typing import Any

import httpx
import pytest

from server.budget.markers import MarkerIds
from tests.e2e.reference import Reference, Settings, many
from tests.support.engines import Running, metric
from training.evaluate.suite import held_out_questions

pytestmark = pytest.mark.engine

_SAMPLING: list[dict[str, Any]] = [
    {},
    {"repetition_penalty": 1.15},
    {"logit_bias": {"198": -1.5, "13": 1.0}},
    {"repetition_penalty": 1.05, "logit_bias": {"198": 0.5}},
]


_MAXIMA = (0, 1, 2, 3, 17, 40, 64, 150)


def _cases(
    count: int,
    *,
    max_completion_tokens: int,
    maxima: tuple[int, ...] = _MAXIMA,
    minima: tuple[int, ...] = (0, 20, 100),
) -> list[tuple[str, Settings]]:
    grid = itertools.cycle(itertools.product(maxima, [0, 1, 2, 4], minima))
    questions = [question.text for question in held_out_questions(count)]
    random.Random(7).shuffle(questions)
    settings = [
        Settings(
            max_thinking_tokens=maximum,
            min_thinking_tokens=min(minimum, maximum),
            num_waits=waits,
            max_completion_tokens=max_completion_tokens,
            sampling=_SAMPLING[i % len(_SAMPLING)],
        )
        for i, (maximum, waits, minimum) in enumerate(itertools.islice(grid, count))
    ]
    return list(zip(questions, settings, strict=True))


async def _native(
    client: httpx.AsyncClient, url: str, model: str, question: str, settings: Settings | None
) -> tuple[list[int], list[int]]:
    """Prompt ids and output ids of one chat request; without settings it has no budget."""
    body: dict[str, Any] = {
        "model": model,
        "messages": [{"role": "user", "content": question}],
        "temperature": 0,
        "max_completion_tokens": settings.max_completion_tokens if settings else 200,
        "return_token_ids": True,
    }
    if settings is not None:
        arguments = {**settings.as_request(), "answer_reserve_tokens": 1}
        body |= settings.sampling | {"vllm_xargs": arguments}
    response = await client.post(f"{url}/v1/chat/completions", json=body)
    assert response.status_code == 200, response.text
    answer = response.json()
    return answer["prompt_token_ids"], answer["choices"][0]["token_ids"]


async def _by_rounds(
    client: httpx.AsyncClient, rounds: Running, cases: list[tuple[str, Settings]], at_once: int
) -> list[list[int]]:
    """Output ids of the gateway before a stock engine."""
    gate = asyncio.Semaphore(at_once)

    async def one(question: str, settings: Settings) -> list[int]:
        body = {
            "model": rounds.model,
            "messages": [{"role": "user", "content": question}],
            "temperature": 0,
            "max_completion_tokens": settings.max_completion_tokens,
            "answer_reserve_tokens": 1,
            "return_token_ids": True,
            **settings.as_request(),
            **settings.sampling,
        }
        async with gate:
            response = await client.post(f"{rounds.url}/v1/chat/completions", json=body)
        assert response.status_code == 200, response.text
        ids: list[int] = response.json()["choices"][0]["token_ids"]
        return ids

    return await asyncio.gather(*(one(question, settings) for question, settings in cases))


async def _compare(
    engine: Running,
    url: str,
    stock: Running,
    ids: MarkerIds,
    cases: list[tuple[str, Settings]],
    at_once: int,
    rounds: Running | None = None,
) -> int:
    """Run all cases mixed with unbudgeted requests, and by rounds if given; returns their number."""
    gate = asyncio.Semaphore(at_once)
    async with httpx.AsyncClient(timeout=300) as client:

        async def one(question: str, settings: Settings | None) -> tuple[list[int], list[int]]:
            async with gate:
                return await _native(client, url, engine.model, question, settings)

        mixed = [one(q, s if i % 2 == 0 else None) for q, s in cases for i in range(2)]
        native = (await asyncio.gather(*mixed))[::2]
        by_rounds = await _by_rounds(client, rounds, cases, at_once) if rounds else [None] * len(cases)
        reference = Reference(client, stock.url, stock.model, ids)
        demanded = await many(
            reference, [(prompt, case[1]) for (prompt, _), case in zip(native, cases, strict=True)]
        )
    for (question, settings), (_, got), round_by_round, expected in zip(
        cases, native, by_rounds, demanded, strict=True
    ):
        what = f"{question} {settings}"
        assert got == expected.token_ids, f"{what}\n got      {got}\n expected {expected}"
        assert round_by_round in (None, expected.token_ids), f"{what}\n rounds   {round_by_round}"
    return len(cases)


async def test_greedy_plugin_rounds_and_reference_agree(
    served: Running, rounds: Running, stock: Running, ids: MarkerIds
) -> None:
    """Mixed batches, chunked prefill, repetition penalty and logit bias."""
    cases = _cases(300, max_completion_tokens=300)
    assert await _compare(served, served.engine_url, stock, ids, cases, at_once=48, rounds=rounds) == 300


async def test_greedy_equals_the_reference_under_preemption(
    tight: Running, stock: Running, ids: MarkerIds
) -> None:
    cases = _cases(96, max_completion_tokens=260, maxima=(150, 170, 200), minima=(0, 140))
    before = metric(tight.url, "vllm:num_preemptions_total")
    await _compare(tight, tight.url, stock, ids, cases, at_once=32)
    assert metric(tight.url, "vllm:num_preemptions_total") > before


async def test_without_a_budget_the_plugin_changes_nothing(served: Running, stock: Running) -> None:
    questions = [question.text for question in held_out_questions(60)]
    async with httpx.AsyncClient(timeout=300) as client:

        async def both(question: str) -> None:
            ours = await _native(client, served.engine_url, served.model, question, None)
            theirs = await _native(client, stock.url, stock.model, question, None)
            assert ours == theirs

        await asyncio.gather(*map(both, questions))


@pytest.mark.parametrize("sampling", [{"top_p": 0.9}, {"top_k": 5}, {"min_p": 0.05}, {}])
async def test_seeded_requests_survive_chunked_prefill_and_preemption(
    tight: Running, sampling: dict[str, Any]
) -> None:
    """vLLM 0.32 on a CPU would end the engine when it discards a seeded sample. Same seed, same tokens."""
    question = held_out_questions(12)

    async def ask(client: httpx.AsyncClient, text: str, seed: int) -> list[int]:
        body = {
            "model": tight.model,
            "messages": [{"role": "user", "content": text}],
            "seed": seed,
            "temperature": 1.0,
            "max_completion_tokens": 200,
            "return_token_ids": True,
            "vllm_xargs": {"num_waits": 2, "max_thinking_tokens": 120},
            **sampling,
        }
        response = await client.post(f"{tight.url}/v1/chat/completions", json=body)
        assert response.status_code == 200, response.text
        ids: list[int] = response.json()["choices"][0]["token_ids"]
        return ids

    async with httpx.AsyncClient(timeout=300) as client:
        crowded = await asyncio.gather(*(ask(client, q.text, i) for i, q in enumerate(question)))
        alone = [await ask(client, q.text, i) for i, q in enumerate(question)]
    assert crowded == alone
