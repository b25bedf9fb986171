"""Whole chat completions, through the real OpenAI SDK and plain HTTP."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import httpx
import openai
import pytest

from tests.gateway.serving import gateway
from tests.gateway.stand_in import NATURAL_THINKING, PROMPT_TOKENS, Faults, StandIn

ASK: dict[str, Any] = {"model": "tiny", "messages": [{"role": "user", "content": "6 * 7?"}]}


async def ask(client: httpx.AsyncClient, **fields: Any) -> dict[str, Any]:
    response = await client.post("/v1/chat/completions", json=ASK | fields)
    assert response.status_code == 200, response.text
    return response.json()


async def test_the_sdk_gets_answer_reasoning_receipt_and_usage(sdk: openai.AsyncOpenAI) -> None:
    got = await sdk.chat.completions.create(**ASK, extra_body={"max_thinking_tokens": 5})
    choice = got.choices[0]
    assert choice.message.content == "42."
    assert choice.message.reasoning == choice.message.reasoning_content == "t0 t1 t2 t3 t4 "
    assert choice.thinking_budget == {
        "requested": {"max_thinking_tokens": 5},
        "effective": {"min": 0, "max": 5, "num_waits": 0},
        "thinking_tokens": 5,
        "answer_tokens": 4,
        "marker_tokens": 8,
        "waits": 0,
        "ended_by": "max_thinking_tokens",
        "clamped_by": [],
    }
    assert got.usage.completion_tokens == 5 + 4 + 8
    assert got.usage.completion_tokens_details.reasoning_tokens == 5
    assert got.id.startswith("chatcmpl-")


async def test_waits_are_told_by_the_engine(client: httpx.AsyncClient) -> None:
    got = await ask(client, num_waits=2)
    receipt = got["choices"][0]["thinking_budget"]
    assert receipt["waits"] == 2
    assert receipt["ended_by"] == "model"
    assert got["choices"][0]["message"]["reasoning"].count("Wait") == 2


async def test_a_request_without_budget_carries_no_xargs_and_is_still_counted(
    client: httpx.AsyncClient, engine: StandIn
) -> None:
    got = await ask(client)
    assert "vllm_xargs" not in engine.bodies[-1]
    assert got["choices"][0]["thinking_budget"] == {
        "requested": {},
        "effective": None,
        "thinking_tokens": NATURAL_THINKING,
        "waits": 0,
        "ended_by": "model",
        "clamped_by": [],
    }


async def test_thinking_that_nothing_counted_gets_no_receipt(
    client: httpx.AsyncClient, engine: StandIn
) -> None:
    engine.faults = Faults(no_reasoning_details=True)
    assert (await ask(client))["choices"][0]["thinking_budget"] is None


async def test_the_client_json_is_forwarded_as_it_came(client: httpx.AsyncClient, engine: StandIn) -> None:
    own = {"temperature": 0.5, "bad_words": ["x"], "vllm_xargs": {"mine": 1}, "top_p": None, "user": "me"}
    await ask(client, **own, num_waits=1, max_tokens=100)
    body = engine.bodies[-1]
    receipt_id = body["vllm_xargs"].pop("receipt_id")
    assert len(receipt_id) == 32
    assert body == ASK | {
        "temperature": 0.5,
        "bad_words": ["x"],
        "user": "me",
        "max_tokens": 100,
        "vllm_xargs": {"mine": 1, "num_waits": 1},
        "include_reasoning": True,
    }


@pytest.mark.parametrize(
    "constraint",
    [
        {"response_format": {"type": "json_object"}},
        {"structured_outputs": {"choice": ["a"]}},
        {"tools": [{"type": "function", "function": {"name": "f"}}]},
    ],
    ids=lambda constraint: next(iter(constraint)),
)
async def test_no_answer_prompt_is_forced_before_a_grammar(
    client: httpx.AsyncClient, engine: StandIn, constraint: dict[str, Any]
) -> None:
    await ask(client, max_thinking_tokens=3, **constraint)
    assert engine.bodies[-1]["vllm_xargs"]["answer_prompt"] == 0
    await ask(client, max_thinking_tokens=3, response_format={"type": "text"})
    assert "answer_prompt" not in engine.bodies[-1]["vllm_xargs"]
    await ask(client, **constraint)
    assert "vllm_xargs" not in engine.bodies[-1]


async def test_vllms_own_name_of_a_maximum_is_an_alias(client: httpx.AsyncClient, engine: StandIn) -> None:
    got = await ask(client, thinking_token_budget=4)
    assert got["choices"][0]["thinking_budget"]["requested"] == {"max_thinking_tokens": 4}
    assert "thinking_token_budget" not in engine.bodies[-1]
    got = await ask(client, thinking_token_budget=-1)
    assert got["choices"][0]["thinking_budget"]["requested"] == {}
    assert "thinking_token_budget" not in engine.bodies[-1]


async def test_n_choices_have_their_own_receipts_and_the_prompt_counts_once(
    client: httpx.AsyncClient, engine: StandIn
) -> None:
    got = await ask(client, n=3, max_thinking_tokens=4, seed=7)
    assert [choice["index"] for choice in got["choices"]] == [0, 1, 2]
    assert [choice["thinking_budget"]["thinking_tokens"] for choice in got["choices"]] == [4, 4, 4]
    each = 4 + 8 + 4
    assert got["usage"]["prompt_tokens"] == PROMPT_TOKENS
    assert got["usage"]["completion_tokens"] == 3 * each
    assert got["usage"]["total_tokens"] == PROMPT_TOKENS + 3 * each
    assert got["usage"]["completion_tokens_details"]["reasoning_tokens"] == 12
    assert "metrics" not in got
    assert sorted(body["seed"] for body in engine.bodies) == [7, 8, 9]
    assert all("n" not in body for body in engine.bodies)
    assert len({body["vllm_xargs"]["receipt_id"] for body in engine.bodies}) == 3
    assert len(set(engine.request_ids)) == 3


async def test_one_failing_choice_cancels_the_others(client: httpx.AsyncClient, engine: StandIn) -> None:
    engine.faults = Faults(only_seed=8, refuse=(400, {"error": {"message": "no `seed` 8", "param": "seed"}}))
    response = await client.post("/v1/chat/completions", json=ASK | {"n": 3, "seed": 7})
    assert response.status_code == 400
    assert response.json()["error"]["param"] == "seed"


async def test_a_beam_search_is_one_engine_request(client: httpx.AsyncClient, engine: StandIn) -> None:
    got = await ask(client, n=2, use_beam_search=True)
    assert len(engine.bodies) == 1
    assert engine.bodies[0]["n"] == 2
    assert [choice["index"] for choice in got["choices"]] == [0, 1]
    # Its usage is of both choices together; a receipt would have to guess.
    assert [choice["thinking_budget"] for choice in got["choices"]] == [None, None]


async def test_hidden_reasoning_is_gone_everywhere(client: httpx.AsyncClient, engine: StandIn) -> None:
    got = await ask(client, include_reasoning=False, max_thinking_tokens=4)
    assert engine.bodies[-1]["include_reasoning"] is True
    choice = got["choices"][0]
    assert choice["message"]["reasoning"] is choice["message"]["reasoning_content"] is None
    assert choice["logprobs"] is choice["token_ids"] is None
    assert "t0" not in str(got)
    assert choice["message"]["content"] == "42."
    assert choice["thinking_budget"]["thinking_tokens"] == 4


async def test_logprobs_and_token_ids_are_passed_on(client: httpx.AsyncClient) -> None:
    choice = (await ask(client, logprobs=True, return_token_ids=True))["choices"][0]
    assert len(choice["logprobs"]["content"]) == len(choice["token_ids"]) == NATURAL_THINKING + 4


async def test_whoever_gets_token_ids_is_told_where_the_parts_are(client: httpx.AsyncClient) -> None:
    fields = {"max_thinking_tokens": 100, "num_waits": 1}
    receipt = (await ask(client, return_token_ids=True, **fields))["choices"][0]["thinking_budget"]
    assert receipt["positions"] == {
        "thinking_begin": 0,
        "thinking_end": receipt["thinking_tokens"],
        "answer_begin": receipt["thinking_tokens"] + receipt["marker_tokens"],
        "waits": [NATURAL_THINKING],
    }
    assert receipt["thinking_tokens"] > NATURAL_THINKING
    assert "positions" not in (await ask(client, **fields))["choices"][0]["thinking_budget"]


async def test_length_is_told_when_the_answer_is_cut(client: httpx.AsyncClient) -> None:
    got = await ask(client, max_completion_tokens=10, max_thinking_tokens=100)
    choice = got["choices"][0]
    assert choice["finish_reason"] == "length"
    assert choice["thinking_budget"]["clamped_by"] == ["max_completion_tokens"]
    assert choice["message"]["content"]
    assert got["usage"]["completion_tokens"] == 10


async def test_the_model_may_be_left_out_when_there_is_one(
    client: httpx.AsyncClient, engine: StandIn
) -> None:
    response = await client.post("/v1/chat/completions", json={"messages": ASK["messages"]})
    assert response.json()["model"] == "tiny"
    assert engine.bodies[-1]["model"] == "tiny"


async def test_request_ids_are_echoed_forwarded_and_made(client: httpx.AsyncClient, engine: StandIn) -> None:
    given = await client.post("/v1/chat/completions", json=ASK, headers={"x-request-id": "abc-1"})
    assert given.headers["x-request-id"] == "abc-1"
    assert given.json()["id"] == "chatcmpl-abc-1"
    assert engine.request_ids[-1] == "abc-1"
    insane = await client.post("/v1/chat/completions", json=ASK, headers={"x-request-id": "a b\tc"})
    assert len(insane.headers["x-request-id"]) == 32
    in_body = await client.post("/v1/chat/completions", json=ASK | {"request_id": "from-body"})
    assert in_body.headers["x-request-id"] == "from-body"
    assert engine.request_ids[-1] == "from-body"
    assert "request_id" not in engine.bodies[-1]
    assert (await client.get("/nowhere")).headers["x-request-id"]


async def test_a_body_within_the_limit_is_read_whole(engine: StandIn) -> None:
    async with gateway(engine.url, max_body_bytes=2048) as client:
        assert (await client.post("/v1/chat/completions", json=ASK | {"user": "x" * 1500})).status_code == 200
        response = await client.post("/v1/chat/completions", json=ASK | {"user": "x" * 3000})
        assert response.status_code == 413
        assert response.json()["error"]["param"] == "body"
        assert "2048" in response.json()["error"]["message"]

        async def unannounced():
            for _ in range(30):
                yield b" " * 100

        response = await client.post(
            "/v1/chat/completions", content=unannounced(), headers={"content-type": "application/json"}
        )
        assert response.status_code == 413


@pytest.mark.parametrize("stream", [False, True], ids=["whole", "stream"])
async def test_a_receipt_that_comes_along_is_not_asked_for(
    client: httpx.AsyncClient, engine: StandIn, stream: bool
) -> None:
    response = await client.post(
        "/v1/chat/completions", json=ASK | {"max_thinking_tokens": 5, "n": 3, "stream": stream}
    )
    assert response.text.count('"thinking_tokens":5') == 3
    assert engine.receipts_asked == 0
    # It is between engine and gateway.
    assert "s1_receipt" not in response.text


@pytest.mark.parametrize("stream", [False, True], ids=["whole", "stream"])
@pytest.mark.parametrize(
    "along",
    [
        lambda _: None,
        lambda receipt: replace(receipt, receipt_id="another's", thinking_end=1),
        lambda receipt: replace(receipt, output_tokens=receipt.output_tokens - 1, thinking_end=1),
    ],
    ids=["none", "another choice's", "of too few tokens"],
)
async def test_without_one_that_covers_the_choice_it_is_asked_for(
    client: httpx.AsyncClient, engine: StandIn, stream: bool, along: Any
) -> None:
    engine.receipt_along = along
    response = await client.post(
        "/v1/chat/completions", json=ASK | {"max_thinking_tokens": 5, "stream": stream}
    )
    assert response.text.count('"thinking_tokens":5') == 1
    assert engine.receipts_asked == 1


@pytest.mark.parametrize("stream", [False, True], ids=["whole", "stream"])
async def test_one_that_cant_be_read_is_asked_for(
    client: httpx.AsyncClient, engine: StandIn, stream: bool
) -> None:
    engine.receipt_along = lambda _: Unreadable()  # type: ignore[assignment,return-value]
    response = await client.post(
        "/v1/chat/completions", json=ASK | {"max_thinking_tokens": 5, "stream": stream}
    )
    assert response.text.count('"thinking_tokens":5') == 1
    assert engine.receipts_asked == 1


class Unreadable:
    def to_json(self) -> dict[str, Any]:
        return {"of": "another version"}


async def test_an_answer_without_budget_asks_for_no_receipt(
    client: httpx.AsyncClient, engine: StandIn
) -> None:
    await ask(client)
    assert engine.receipts_wanted == [""]
