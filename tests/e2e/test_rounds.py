"""Budget forcing in rounds before stock vLLM: token for token what the plugin does."""

from __future__ import annotations

import asyncio
import itertools
import json
import time
from contextlib import closing
from typing import Any

import httpx
import pytest

from server.budget.markers import MarkerIds
from server.gateway.engines.engine import Engine
from server.gateway.rounds.completions import Ask
from server.gateway.rounds.completions_vllm import VllmCompletions
from server.gateway.settings import Settings
from tests.support.engines import Running, metric, sse_events
from training.evaluate.suite import held_out_questions

pytestmark = pytest.mark.engine

_SAMPLING: list[dict[str, Any]] = [{}, {"repetition_penalty": 1.15}, {"logit_bias": {"198": -1.5, "13": 1.0}}]


def bodies(count: int) -> list[dict[str, Any]]:
    """Greedy requests over the edges of maximum, waits, minimum and landing, some with stop strings."""
    edges = itertools.cycle(itertools.product([0, 1, 2, 3, 17, 40, 150, 300], [0, 1, 2, 4], [0, 20, 100]))
    found = []
    for i, question in enumerate(held_out_questions(count)):
        maximum, waits, minimum = next(edges)
        fields: dict[str, Any] = {
            "max_thinking_tokens": maximum,
            "num_waits": waits,
            "min_thinking_tokens": min(minimum, maximum),
        }
        if i % 7 == 3:
            fields["landing_tokens"] = maximum // 2
        if i % 11 == 5:
            fields["stop"] = ["Wait", "Answer"][i % 2]
        found.append(
            {
                "messages": [{"role": "user", "content": question.text}],
                "temperature": 0,
                "max_completion_tokens": [400, 120, 40][i % 3],
                "return_token_ids": True,
                **fields,
                **_SAMPLING[i % len(_SAMPLING)],
            }
        )
    return found


async def answers(url: str, model: str, asked: list[dict[str, Any]]) -> list[dict[str, Any]]:
    gate = asyncio.Semaphore(16)
    async with httpx.AsyncClient(timeout=300) as client:

        async def one(body: dict[str, Any]) -> dict[str, Any]:
            async with gate:
                response = await client.post(f"{url}/v1/chat/completions", json={"model": model, **body})
            return {"status": response.status_code, **response.json()}

        return await asyncio.gather(*map(one, asked))


def told(answer: dict[str, Any]) -> dict[str, Any]:
    """All that a client learns, but for ids and times."""
    if answer["status"] != 200:
        return {"status": answer["status"], "param": answer["error"]["param"]}
    (choice,) = answer["choices"]
    message = choice["message"]
    names = ("token_ids", "finish_reason", "stop_reason", "thinking_budget")
    return {
        **{name: choice[name] for name in names},
        **{name: message[name] for name in ("content", "reasoning", "reasoning_content")},
        "prompt_token_ids": answer["prompt_token_ids"],
        "usage": {name: value for name, value in answer["usage"].items() if value is not None},
    }


async def test_greedy_rounds_equal_the_plugin(rounds: Running, served: Running) -> None:
    """Where stop strings, landings and small rooms meet; `test_exactness.py` has the plain budgets."""
    asked = bodies(96)
    by_rounds = await answers(rounds.url, rounds.model, asked)
    native = await answers(served.url, served.model, asked)
    assert sum(answer["status"] == 200 for answer in native) > 75
    for body, ours, theirs in zip(asked, by_rounds, native, strict=True):
        assert told(ours) == told(theirs), body


def test_the_engine_is_known_to_need_rounds(rounds: Running, ids: MarkerIds) -> None:
    (engine,) = rounds.get("/ready")["engines"]
    assert engine["enforcement"] == "rounds"
    assert engine["family"] == ids.family.name
    (card,) = rounds.get("/v1/models")["data"]
    assert card["thinking"]["enforcement"] == "rounds"


@pytest.mark.parametrize("hidden", [False, True])
def test_streams_say_what_whole_answers_say(rounds: Running, hidden: bool) -> None:
    with httpx.Client(timeout=120) as client:
        for body in bodies(24):
            whole = client.post(f"{rounds.url}/v1/chat/completions", json={"model": rounds.model, **body})
            if whole.status_code != 200:
                continue
            (choice,) = whole.json()["choices"]
            asked = {**body, "stream": True, "stream_options": {"include_usage": True}}
            if hidden:
                # Ids would spell out what is hidden, and are refused.
                asked = {**asked, "include_reasoning": False, "return_token_ids": False}
            with client.stream(
                "POST", f"{rounds.url}/v1/chat/completions", json={"model": rounds.model, **asked}
            ) as response:
                chunks = list(sse_events(response.iter_lines()))
            parts = [part for chunk in chunks for part in chunk["choices"]]
            text = {
                kind: "".join(part["delta"].get(kind) or "" for part in parts)
                for kind in ("reasoning", "content")
            }
            assert text["content"] == (choice["message"]["content"] or "")
            assert text["reasoning"] == ("" if hidden else choice["message"]["reasoning"] or "")
            assert parts[-1]["finish_reason"] == choice["finish_reason"]
            # Positions in token ids are for who is shown the ids.
            shown = {name: value for name, value in choice["thinking_budget"].items() if name != "positions"}
            assert parts[-1]["thinking_budget"] == (shown if hidden else choice["thinking_budget"])
            assert chunks[-1]["usage"] == whole.json()["usage"]


async def test_sampled_choices_keep_their_budgets(rounds: Running) -> None:
    asked = [
        {
            "messages": [{"role": "user", "content": question.text}],
            "temperature": 1.0,
            "n": 3,
            "seed": index,
            "max_thinking_tokens": 30 + index,
            "num_waits": 2,
            "max_completion_tokens": 200,
        }
        for index, question in enumerate(held_out_questions(12))
    ]
    got = await answers(rounds.url, rounds.model, asked)
    again = await answers(rounds.url, rounds.model, asked)
    for body, first, second in zip(asked, got, again, strict=True):
        assert (first["status"], second["status"]) == (200, 200), (first, second)
        for choice, repeated in zip(first["choices"], second["choices"], strict=True):
            assert choice["thinking_budget"]["thinking_tokens"] <= body["max_thinking_tokens"]
            assert choice["message"]["content"]
            assert choice["message"] == repeated["message"]


@pytest.mark.parametrize("stream", [False, True])
def test_a_client_that_leaves_stops_the_engine(rounds: Running, stock: Running, stream: bool) -> None:
    body = {
        "model": rounds.model,
        "messages": [{"role": "user", "content": "How many r in raspberry?"}],
        "min_thinking_tokens": 1900,
        "stream": stream,
    }
    with httpx.Client(timeout=60) as client:
        if stream:
            with client.stream("POST", f"{rounds.url}/v1/chat/completions", json=body) as response:
                next(response.iter_lines())
        else:
            with pytest.raises(httpx.ReadTimeout):
                client.post(f"{rounds.url}/v1/chat/completions", json=body, timeout=0.5)
    _until_idle(stock)
    (engine,) = rounds.get("/ready")["engines"]
    assert engine["outstanding"] == 0


def _until_idle(engine: Running) -> None:
    deadline = time.monotonic() + 10
    while metric(engine.url, "vllm:num_requests_running") > 0:
        assert time.monotonic() < deadline, "the engine still generates for nobody"
        time.sleep(0.05)


def test_what_rounds_cannot_honour_is_refused(rounds: Running) -> None:
    body = {
        "model": rounds.model,
        "messages": [{"role": "user", "content": "2 + 2?"}],
        "max_thinking_tokens": 9,
        "response_format": {"type": "json_object"},
    }
    response = httpx.post(f"{rounds.url}/v1/chat/completions", json=body, timeout=60)
    assert (response.status_code, response.json()["error"]["param"]) == (400, "response_format")
    assert "rounds" in json.dumps(response.json())


async def test_more_masked_stops_than_fit(stock: Running) -> None:
    """By the engine itself: what comes is the likeliest of the few tokens that may come."""
    with closing(Engine(stock.url, Settings())) as engine:
        completions = VllmCompletions(engine, stock.model)

        async def first(ask: Ask, **sampling: Any) -> list[int]:
            prompt = await completions.encode("2 + 2 = 4")
            parts = completions.generate(prompt, ask, {"temperature": 0, **sampling})
            return [token async for part in parts for token in part.token_ids]

        free = Ask(1, frozenset(), masked=False)
        likeliest = await first(free)
        others = frozenset(range(400, 415)) - set(likeliest)
        alone = await first(free, **completions.only(sorted(others)))
        ask = Ask(1, frozenset(range(418)) - others, masked=True, banned=frozenset(range(418, 448)))
        assert await first(ask) == alone
