"""Budgets through the whole server, with the openai SDK; every count is taken from token ids here."""

from __future__ import annotations

import asyncio
import itertools
import random
from dataclasses import dataclass
from typing import Any

import httpx
import orjson
import pytest
from openai import AsyncOpenAI, OpenAI

from server.budget.markers import MarkerIds
from tests.e2e.reference import Outcome, Reference, Settings, many
from tests.support.engines import Running
from training.evaluate.suite import held_out_questions

pytestmark = pytest.mark.engine

RASPBERRY = "How many r in raspberry?"
_MAXIMA = [0, 1, 2, 3, 4, 5, 10, 20, 33, 34, 35, 36, 50, 51, 52, 64, 80, 100, 120, 200]


@dataclass(frozen=True)
class Counted:
    """Kinds of tokens in one choice, told apart by markers alone."""

    thinking: int
    markers: int
    answer: int
    prompted: bool
    """The answer prompt follows the end marker: thinking was forced to end."""


def count(token_ids: list[int], ids: MarkerIds) -> Counted:
    end = next((i for i in range(len(token_ids)) if tuple(token_ids[i : i + len(ids.end)]) == ids.end), None)
    if end is None:
        return Counted(len(token_ids), 0, 0, prompted=False)
    rest = token_ids[end + len(ids.end) :]
    prompted = tuple(rest[: len(ids.answer_prompt)]) == ids.answer_prompt
    markers = len(ids.end) + (len(ids.answer_prompt) if prompted else 0)
    return Counted(end, markers, len(token_ids) - end - markers, prompted)


def questions(n: int) -> list[str]:
    return [RASPBERRY, *(question.text for question in held_out_questions(n - 1))]


def ask(question: str) -> list[Any]:
    return [{"role": "user", "content": question}]


@pytest.mark.parametrize("question", questions(6))
@pytest.mark.parametrize("waits", [0, 4])
def test_maximum_of_64_whole(
    client: OpenAI, served: Running, ids: MarkerIds, question: str, waits: int
) -> None:
    answer = client.chat.completions.create(
        model=served.model,
        messages=ask(question),
        extra_body={"max_thinking_tokens": 64, "num_waits": waits, "return_token_ids": True},
    )
    choice = answer.choices[0]
    counted = count(choice.token_ids, ids)  # type: ignore[attr-defined]
    assert counted.thinking <= 64
    assert choice.message.content
    assert answer.usage is not None
    assert answer.usage.completion_tokens_details is not None
    assert answer.usage.completion_tokens_details.reasoning_tokens == counted.thinking
    assert answer.usage.completion_tokens == counted.thinking + counted.markers + counted.answer
    receipt = choice.thinking_budget  # type: ignore[attr-defined]
    assert receipt["requested"]["max_thinking_tokens"] == 64
    assert (receipt["thinking_tokens"], receipt["marker_tokens"], receipt["answer_tokens"]) == (
        counted.thinking,
        counted.markers,
        counted.answer,
    )


@pytest.mark.parametrize("question", questions(6))
@pytest.mark.parametrize("waits", [0, 4])
def test_maximum_of_64_streamed(
    client: OpenAI, served: Running, ids: MarkerIds, question: str, waits: int
) -> None:
    token_ids: list[int] = []
    reasoning = content = ""
    receipts = []
    usage = None
    for chunk in client.chat.completions.create(
        model=served.model,
        messages=ask(question),
        stream=True,
        stream_options={"include_usage": True},
        extra_body={"max_thinking_tokens": 64, "num_waits": waits, "return_token_ids": True},
    ):
        usage = chunk.usage or usage
        for choice in chunk.choices:
            fields = choice.delta.model_dump()
            assert fields.get("reasoning") == fields.get("reasoning_content")
            reasoning += fields.get("reasoning") or ""
            content += choice.delta.content or ""
            token_ids += choice.model_dump().get("token_ids") or []
            if choice.finish_reason:
                receipts.append(choice.model_dump()["thinking_budget"])
    counted = count(token_ids, ids)
    assert counted.thinking <= 64
    assert content.strip()
    assert reasoning
    assert usage is not None
    assert usage.completion_tokens_details is not None
    assert usage.completion_tokens_details.reasoning_tokens == counted.thinking
    assert usage.completion_tokens == len(token_ids)
    assert [receipt["thinking_tokens"] for receipt in receipts] == [counted.thinking]


async def test_receipts_equal_the_reference_in_varied_cases(
    aclient: AsyncOpenAI, served: Running, stock: Running, ids: MarkerIds
) -> None:
    """Waits, ends and counts of 200 choices: budgets 0, 1, 2, around natural lengths, EOS as end token."""
    eos_instead = {"logit_bias": {str(ids.end[0]): -100, str(ids.eos_token): 5}}
    grid = itertools.product(_MAXIMA, [0, 1, 2, 4], [{}, eos_instead])
    cases = [
        (
            question,
            Settings(maximum, min(minimum, maximum), waits, max_completion_tokens=350, sampling=sampling),
        )
        for (maximum, waits, sampling), question, minimum in zip(
            grid, itertools.cycle(questions(30)), itertools.cycle([0, 0, 100]), strict=False
        )
    ]
    gate = asyncio.Semaphore(24)

    async def one(question: str, settings: Settings, n: int) -> Any:
        async with gate:
            return await aclient.chat.completions.create(
                model=served.model,
                messages=ask(question),
                temperature=0,
                n=n,
                max_completion_tokens=settings.max_completion_tokens,
                extra_body={
                    **settings.as_request(),
                    **settings.sampling,
                    "answer_reserve_tokens": 1,
                    "return_token_ids": True,
                },
            )

    answers = await asyncio.gather(*(one(q, s, 3 if i % 8 == 0 else 1) for i, (q, s) in enumerate(cases)))
    async with httpx.AsyncClient(timeout=300) as http:
        reference = Reference(http, stock.url, stock.model, ids)
        prompts = [(answer.prompt_token_ids, case[1]) for answer, case in zip(answers, cases, strict=True)]
        demanded = await many(reference, prompts)
    compared = 0
    for case, answer, outcome in zip(cases, answers, demanded, strict=True):
        for choice in answer.choices:
            _check_choice(case, choice, outcome)
            compared += 1
        reasoning_tokens = answer.usage.completion_tokens_details.reasoning_tokens
        assert reasoning_tokens == outcome.thinking_tokens * len(answer.choices)
    assert compared >= 200


def _check_choice(case: tuple[str, Settings], choice: Any, outcome: Outcome) -> None:
    receipt = choice.thinking_budget
    assert choice.token_ids == outcome.token_ids, case
    assert receipt["thinking_tokens"] == outcome.thinking_tokens <= case[1].max_thinking_tokens, case
    assert receipt["waits"] == outcome.waits, case
    assert receipt["ended_by"] == outcome.ended_by, case
    assert choice.message.content, case


async def test_rules_hold_when_sampling(aclient: AsyncOpenAI, served: Running, ids: MarkerIds) -> None:
    """100 sampled requests with every field at random: what ids alone can show."""
    rng = random.Random(3)
    gate = asyncio.Semaphore(32)
    texts = questions(40)

    async def one() -> None:
        maximum, reserve = rng.choice([0, 1, 2, 30, 90, 5000]), rng.choice([1, 16, 64])
        limit = rng.choice([90, 200, 400])
        body = {
            "max_thinking_tokens": maximum,
            "num_waits": rng.choice([0, 1, 3]),
            "answer_reserve_tokens": reserve,
            "landing_tokens": min(maximum, rng.choice([0, 20])),
            "return_token_ids": True,
        }
        async with gate:
            answer = await aclient.chat.completions.create(
                model=served.model,
                messages=ask(rng.choice(texts)),
                temperature=rng.choice([0.5, 1.0]),
                n=rng.choice([1, 3]),
                max_completion_tokens=limit,
                extra_body=body,
            )
        for choice in answer.choices:
            counted = count(choice.token_ids, ids)  # type: ignore[attr-defined]
            receipt = choice.thinking_budget  # type: ignore[attr-defined]
            fits = limit - len(ids.end) - len(ids.answer_prompt) - reserve
            assert receipt["effective"]["max"] == min(maximum, fits)
            assert receipt["clamped_by"] == (["max_completion_tokens"] if maximum > fits else [])
            assert counted.thinking == receipt["thinking_tokens"] <= min(maximum, fits)
            assert counted.prompted == (receipt["ended_by"] == "max_thinking_tokens")
            assert choice.message.content

    await asyncio.gather(*(one() for _ in range(100)))


def test_a_budget_beyond_the_context_is_clamped_to_it(client: OpenAI, served: Running) -> None:
    answer = client.chat.completions.create(
        model=served.model,
        messages=ask(RASPBERRY),
        temperature=0,
        extra_body={"max_thinking_tokens": 100_000, "num_waits": 1},
    )
    receipt = answer.choices[0].thinking_budget  # type: ignore[attr-defined]
    assert receipt["clamped_by"] == ["context"]
    assert receipt["effective"]["max"] < 2048
    assert receipt["waits"] == 1


@pytest.mark.parametrize("stream", [False, True])
def test_thinking_that_the_prompt_leaves_closed_is_opened(
    client: OpenAI, served: Running, ids: MarkerIds, stream: bool
) -> None:
    """Without the template's opening the start marker is forced, counted as marker and never shown."""
    arguments: dict[str, Any] = {
        "model": served.model,
        "messages": ask(RASPBERRY),
        "temperature": 0,
        "extra_body": {"max_thinking_tokens": 30, "add_generation_prompt": False, "return_token_ids": True},
    }
    if stream:
        chunks = [c.choices[0] for c in client.chat.completions.create(**arguments, stream=True) if c.choices]
        token_ids = [token for chunk in chunks for token in chunk.model_dump().get("token_ids") or []]
        reasoning = "".join(chunk.delta.model_dump().get("reasoning") or "" for chunk in chunks)
        receipt = chunks[-1].model_dump()["thinking_budget"]
    else:
        choice = client.chat.completions.create(**arguments).choices[0].model_dump()
        token_ids, receipt = choice["token_ids"], choice["thinking_budget"]
        reasoning = choice["message"]["reasoning"]
    assert tuple(token_ids[: len(ids.start)]) == ids.start
    counted = count(token_ids[len(ids.start) :], ids)
    assert counted.thinking == receipt["thinking_tokens"] <= 30
    assert receipt["marker_tokens"] == counted.markers + len(ids.start)
    assert "<|im_start|>" not in reasoning


def test_minimum_makes_the_model_go_on(client: OpenAI, served: Running, ids: MarkerIds) -> None:
    answer = client.chat.completions.create(
        model=served.model,
        messages=ask(RASPBERRY),
        temperature=0,
        extra_body={"min_thinking_tokens": 100, "return_token_ids": True},
    )
    choice = answer.choices[0]
    assert count(choice.token_ids, ids).thinking >= 100  # type: ignore[attr-defined]
    assert choice.thinking_budget["waits"] >= 1  # type: ignore[attr-defined]
    assert choice.thinking_budget["ended_by"] == "model"  # type: ignore[attr-defined]


@pytest.mark.parametrize("stream", [False, True])
def test_stop_string_inside_thinking(client: OpenAI, served: Running, stream: bool) -> None:
    """The receipt counts what was delivered, though the engine ran further."""
    arguments: dict[str, Any] = {
        "model": served.model,
        "messages": ask(RASPBERRY),
        "temperature": 0,
        "stop": "Wait",
        "extra_body": {"num_waits": 3, "return_token_ids": True},
    }
    if stream:
        chunks = [c for c in client.chat.completions.create(**arguments, stream=True) if c.choices]
        token_ids = [t for c in chunks for t in c.choices[0].model_dump().get("token_ids") or []]
        receipt = chunks[-1].choices[0].model_dump()["thinking_budget"]
    else:
        answer = client.chat.completions.create(**arguments)
        token_ids = answer.choices[0].token_ids
        receipt = answer.choices[0].thinking_budget
    assert receipt["ended_by"] == "stop"
    assert receipt["thinking_tokens"] == len(token_ids)


def test_landing_ends_at_a_line(client: OpenAI, served: Running) -> None:
    """With landing, thinking ends before the maximum, at the end of a line."""
    cut, landed = (
        client.chat.completions.create(
            model=served.model,
            messages=ask("Start at 4. a: +7 *3; b: -2 +9; c: +1 *7; d: -3 +4. Last digit?"),
            temperature=0,
            extra_body={"max_thinking_tokens": 40, "num_waits": 4, "landing_tokens": landing},
        ).choices[0]
        for landing in (0, 30)
    )
    assert cut.thinking_budget["thinking_tokens"] == 40  # type: ignore[attr-defined]
    assert landed.thinking_budget["thinking_tokens"] < 40  # type: ignore[attr-defined]
    assert landed.message.reasoning.endswith("\n")  # type: ignore[attr-defined]
    assert not landed.message.reasoning.endswith("\n\n")  # type: ignore[attr-defined]


async def test_two_thousand_answers_none_empty(aclient: AsyncOpenAI, served: Running) -> None:
    rng = random.Random(11)
    texts = questions(200)
    gate = asyncio.Semaphore(64)

    async def one() -> str | None:
        async with gate:
            answer = await aclient.chat.completions.create(
                model=served.model,
                messages=ask(rng.choice(texts)),
                temperature=rng.choice([0.0, 0.3, 0.7, 1.0]),
                max_completion_tokens=400,
                extra_body={"max_thinking_tokens": rng.randint(0, 256), "num_waits": rng.choice([0, 0, 1])},
            )
        return answer.choices[0].message.content

    contents = await asyncio.gather(*(one() for _ in range(2000)))
    assert [content for content in contents if not content or not content.strip()] == []
    assert not any("<|im_" in content for content in contents if content)


@pytest.mark.parametrize("stream", [False, True], ids=["whole", "stream"])
async def test_the_engine_sends_receipts_along_with_its_answers(served: Running, stream: bool) -> None:
    """What spares the gateway a second request for every choice."""

    async def ask(engine: httpx.AsyncClient, number: int) -> tuple[dict[str, Any], dict[str, Any]]:
        """Usage and receipt."""
        receipt_id = f"along-{stream}-{number}"
        body: dict[str, Any] = {
            "model": served.model,
            "messages": [{"role": "user", "content": RASPBERRY}],
            "max_completion_tokens": 60 + number,
            "vllm_xargs": {"max_thinking_tokens": 10 + number, "receipt_id": receipt_id},
        }
        if stream:
            body |= {"stream": True, "stream_options": {"include_usage": True}}
        headers = {"x-s1-receipt": receipt_id}
        response = await engine.post("/v1/chat/completions", json=body, headers=headers)
        assert response.status_code == httpx.codes.OK, response.text
        if not stream:
            answer = response.json()
            return answer["usage"], answer["s1_receipt"]
        *_, usage, receipt, done = [event.removeprefix("data: ") for event in response.text.split("\n\n")][
            :-1
        ]
        assert done == "[DONE]"
        return orjson.loads(usage)["usage"], orjson.loads(receipt)["s1_receipt"]

    async with httpx.AsyncClient(base_url=served.engine_url, timeout=120) as engine:
        told = await asyncio.gather(*(ask(engine, number) for number in range(16)))
    for number, (usage, receipt) in enumerate(told):
        assert receipt["receipt_id"] == f"along-{stream}-{number}"
        assert receipt["output_tokens"] >= usage["completion_tokens"]
        counted = usage["completion_tokens_details"]["reasoning_tokens"]
        assert receipt["thinking_end"] - receipt["thinking_begin"] == counted <= 10 + number
