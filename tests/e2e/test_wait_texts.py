"""Wait texts of the request, the loop guard, and ids beyond the vocabulary: by the plugin and in rounds."""

from __future__ import annotations

import asyncio
from typing import Any

import httpx
import pytest
from transformers import AutoTokenizer

from server.budget.markers import MarkerIds
from tests.e2e.reference import Reference, Settings, many
from tests.support.engines import DEMO, Running
from training.evaluate.suite import held_out_questions

pytestmark = pytest.mark.engine

BEYOND = 440
"""The demo checkpoint has 448 output rows and 422 tokens."""


@pytest.fixture(params=["native", "rounds"])
def gateway(request: pytest.FixtureRequest) -> Running:
    fixture = "served" if request.param == "native" else "rounds"
    running: Running = request.getfixturevalue(fixture)
    return running


async def ask(client: httpx.AsyncClient, gateway: Running, **fields: Any) -> httpx.Response:
    body = {"model": gateway.model, "temperature": 0, "return_token_ids": True, **fields}
    if "messages" not in body:
        body["messages"] = [{"role": "user", "content": "How many r in raspberry?"}]
    return await client.post(f"{gateway.url}/v1/chat/completions", json=body)


async def choice(client: httpx.AsyncClient, gateway: Running, **fields: Any) -> dict[str, Any]:
    response = await ask(client, gateway, **fields)
    assert response.status_code == 200, response.text
    found: dict[str, Any] = response.json()["choices"][0]
    return found


async def test_wait_texts_equal_the_multi_round_reference(
    gateway: Running, stock: Running, ids: MarkerIds
) -> None:
    encode = AutoTokenizer.from_pretrained(DEMO).encode
    texts = ["Wait", "Hmm", "So", "Start at"]
    questions = held_out_questions(24)
    cases = [
        (texts[: 1 + i % 4], Settings(max_thinking_tokens=[60, 150, 9][i % 3], num_waits=1 + i % 5))
        for i in range(len(questions))
    ]
    async with httpx.AsyncClient(timeout=300) as client:

        async def one(question: str, own: list[str], settings: Settings) -> tuple[list[int], Any]:
            response = await ask(
                client,
                gateway,
                messages=[{"role": "user", "content": question}],
                wait_text=own[0] if len(own) == 1 else own,
                max_completion_tokens=settings.max_completion_tokens,
                answer_reserve_tokens=1,
                **settings.as_request(),
            )
            assert response.status_code == 200, response.text
            return response.json()["prompt_token_ids"], response.json()["choices"][0]

        got = await asyncio.gather(
            *(one(q.text, own, settings) for q, (own, settings) in zip(questions, cases, strict=True))
        )
        demanded = [
            (prompt, Settings(**{**settings.__dict__, "wait_ids": tuple(tuple(encode(t)) for t in own)}))
            for (prompt, _), (own, settings) in zip(got, cases, strict=True)
        ]
        expected = await many(Reference(client, stock.url, stock.model, ids), demanded)
    assert sum(outcome.waits > 1 for outcome in expected) >= 8
    for (_, answer), outcome, (own, _) in zip(got, expected, cases, strict=True):
        assert answer["token_ids"] == outcome.token_ids, own
        assert answer["thinking_budget"]["waits"] == outcome.waits
        assert answer["thinking_budget"]["thinking_tokens"] == outcome.thinking_tokens


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("<|im_start|>answer", "marker"),
        ("so<|im_end|>", "end token"),
        ("zqzqzqzqzqzqzqzqzqzqzqzq", "tokens of this model"),
    ],
)
async def test_a_wait_text_that_could_end_the_thinking_is_refused(
    gateway: Running, text: str, reason: str
) -> None:
    async with httpx.AsyncClient(timeout=60) as client:
        response = await ask(client, gateway, num_waits=1, wait_text=["Wait", text])
    assert response.status_code == 400, response.text
    error = response.json()["error"]
    assert error["param"] == "wait_text"
    assert reason in error["message"]
    assert text in error["message"]


async def test_the_loop_guard_leaves_a_loop(gateway: Running, ids: MarkerIds) -> None:
    async with httpx.AsyncClient(timeout=60) as client:
        looping = {"logit_bias": {str(ids.newline): 100}, "max_completion_tokens": 300}
        found = await choice(client, gateway, loop_guard_tokens=8, min_thinking_tokens=100, **looping)
        without = await choice(client, gateway, max_thinking_tokens=60, **looping)
    receipt = found["thinking_budget"]
    assert (receipt["ended_by"], receipt["thinking_tokens"]) == ("loop", 8)
    assert found["token_ids"][:8] == [ids.newline] * 8
    assert tuple(found["token_ids"][8:10]) == ids.end
    assert without["thinking_budget"]["ended_by"] == "max_thinking_tokens"


async def test_ids_beyond_the_vocabulary_are_never_sampled(gateway: Running) -> None:
    async with httpx.AsyncClient(timeout=60) as client:
        bias = {"logit_bias": {str(BEYOND): 100}, "max_completion_tokens": 40}
        free = await choice(client, gateway, **bias)
        budgeted = await choice(client, gateway, max_thinking_tokens=20, **bias)
    assert BEYOND in free["token_ids"]
    assert BEYOND not in budgeted["token_ids"]
