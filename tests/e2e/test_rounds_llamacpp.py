"""Budget forcing in rounds before an engine of another make: llama.cpp's own server, without our plugin.

Its answers needn't be vLLM's to the last bit; what must hold is every rule of docs/budget.md, on the receipt
and on the token ids themselves.
"""

from __future__ import annotations

import asyncio
import itertools
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from openai import OpenAI
from transformers import AutoTokenizer

from server.budget.markers import MarkerIds
from tests.e2e.budget_rules import assert_rules_hold
from tests.support.engines import DEMO, Running, gateway_only, sse_events
from tests.support.llamacpp import llamacpp, slots
from training.evaluate.suite import held_out_questions

pytestmark = pytest.mark.engine

_EDGES = list(itertools.product([0, 1, 2, 3, 17, 40, 150, 300], [0, 1, 2, 4], [0, 20, 100]))
_SAMPLING: list[dict[str, Any]] = [
    {"temperature": 0},
    {"temperature": 0, "repetition_penalty": 1.15},
    {"temperature": 1.0, "seed": 5, "top_p": 0.9},
    {"temperature": 0, "logit_bias": {"198": -1.5, "13": 1.0}},
    # Halves of a character: its server withholds the ids of unfinished ones.
    {"temperature": 1.0, "seed": 6, "top_k": 0, "min_p": 0, "top_p": 1, "logit_bias": {"127": 9, "102": 9}},
]


@pytest.fixture(scope="module")
def engine(logs: Path) -> Iterator[Running]:
    with llamacpp(logs) as running:
        yield running


@pytest.fixture(scope="module")
def gateway(engine: Running, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    with gateway_only(tmp_path_factory.mktemp("llamacpp"), engine.url) as running:
        running.model = engine.model
        yield running


@pytest.fixture(scope="module")
def http() -> Iterator[httpx.Client]:
    with httpx.Client(timeout=120) as client:
        yield client


def _bodies() -> list[dict[str, Any]]:
    """Every edge of maximum, waits and minimum once, with what else bears on budgets taken in turn."""
    bodies = []
    for i, (maximum, waits, minimum) in enumerate(_EDGES):
        body = {
            "messages": [{"role": "user", "content": held_out_questions(len(_EDGES))[i].text}],
            "max_thinking_tokens": maximum,
            "num_waits": waits,
            "min_thinking_tokens": min(minimum, maximum),
            "max_completion_tokens": [400, 120, 40][i % 3],
            "return_token_ids": True,
            **_SAMPLING[i % len(_SAMPLING)],
        }
        if i % 7 == 3:
            body["landing_tokens"] = maximum // 2
        if i % 11 == 5:
            body["stop"] = ["Wait", "Answer"][i % 2]
        if i % 5 == 2 and (waits or body["min_thinking_tokens"]):
            body["wait_text"] = ["Wait", ", check again"]
        if i % 6 == 1:
            body["loop_guard_tokens"] = 24
        bodies.append(body)
    return bodies


def _asked(gateway: Running, http: httpx.Client, body: dict[str, Any]) -> httpx.Response:
    return http.post(f"{gateway.url}/v1/chat/completions", json={"model": gateway.model, **body})


def test_the_engine_is_known_by_what_it_answers(gateway: Running, ids: MarkerIds) -> None:
    (engine,) = gateway.get("/ready")["engines"]
    assert (engine["enforcement"], engine["family"]) == ("rounds", ids.family.name)
    assert "llama.cpp's API" in engine["reason"]
    (card,) = gateway.get("/v1/models")["data"]
    assert (card["thinking"]["enforcement"], card["max_model_len"]) == ("rounds", 2048)


def test_every_rule_holds_at_every_edge(gateway: Running, http: httpx.Client, ids: MarkerIds) -> None:
    tokenizer = AutoTokenizer.from_pretrained(DEMO)
    held = refused = 0
    for body in _bodies():
        response = _asked(gateway, http, body)
        if response.status_code == 400:
            param = response.json()["error"]["param"]
            assert param in ("max_completion_tokens", "answer_reserve_tokens"), (body, response.text)
            refused += 1
            continue
        assert response.status_code == 200, response.text
        answer = response.json()
        rendered = tokenizer.apply_chat_template(
            body["messages"], add_generation_prompt=True, return_dict=False, tokenize=True
        )
        assert answer["prompt_token_ids"] == rendered
        assert_rules_hold(body, answer, ids, context=2048)
        held += 1
    assert held >= 80, (held, refused)


def test_greedy_answers_are_mostly_those_of_rounds_before_vllm(
    gateway: Running, rounds: Running, http: httpx.Client
) -> None:
    """Two engines' arithmetic differs in the last bits: where two tokens are all but tied, they part."""
    same = compared = 0
    for body in _bodies():
        if body["temperature"] == 0:
            here, there = (_asked(running, http, body) for running in (gateway, rounds))
            assert here.status_code == there.status_code, (here.text, there.text)
            if here.status_code == 200:
                compared += 1
                ours, theirs = here.json(), there.json()
                assert ours["prompt_token_ids"] == theirs["prompt_token_ids"]
                same += ours["choices"][0]["token_ids"] == theirs["choices"][0]["token_ids"]
    assert compared >= 45
    assert same >= 0.95 * compared, (same, compared)


def test_a_budget_may_fill_the_whole_context(gateway: Running, http: httpx.Client, ids: MarkerIds) -> None:
    body = {
        "messages": [{"role": "user", "content": "How many r in raspberry?"}],
        "temperature": 0,
        "min_thinking_tokens": 4000,
        "answer_reserve_tokens": 1,
        "return_token_ids": True,
    }
    answer = _asked(gateway, http, body).json()
    assert_rules_hold(body, answer, ids, context=2048)
    assert answer["usage"]["total_tokens"] == 2048
    assert answer["choices"][0]["thinking_budget"]["clamped_by"] == ["context"]


def test_ids_beyond_the_vocabulary_are_never_sampled(gateway: Running, http: httpx.Client) -> None:
    """The demo checkpoint has 448 output rows and 418 tokens."""
    body = {
        "messages": [{"role": "user", "content": "How many r in raspberry?"}],
        "temperature": 0,
        "max_thinking_tokens": 40,
        "logit_bias": {"440": 100},
        "return_token_ids": True,
    }
    (choice,) = _asked(gateway, http, body).json()["choices"]
    assert max(choice["token_ids"]) < 418


def test_streams_say_what_whole_answers_say(gateway: Running, http: httpx.Client) -> None:
    compared = 0
    for body in _bodies()[::3]:
        whole = _asked(gateway, http, body)
        if whole.status_code != 200:
            continue
        (choice,) = whole.json()["choices"]
        asked = {"model": gateway.model, **body, "stream": True, "stream_options": {"include_usage": True}}
        with http.stream("POST", f"{gateway.url}/v1/chat/completions", json=asked) as response:
            chunks = list(sse_events(response.iter_lines()))
        parts = [part for chunk in chunks for part in chunk["choices"]]
        for kind in ("reasoning", "content"):
            text = "".join(part["delta"].get(kind) or "" for part in parts)
            assert text == (choice["message"][kind] or ""), (body, kind)
        assert [i for part in parts for i in part.get("token_ids") or []] == choice["token_ids"], body
        assert parts[-1]["thinking_budget"] == choice["thinking_budget"]
        assert parts[-1]["finish_reason"] == choice["finish_reason"]
        assert chunks[-1]["usage"] == whole.json()["usage"]
        compared += 1
    assert compared >= 24


def test_choices_have_their_own_budgets_and_seeds(
    gateway: Running, http: httpx.Client, ids: MarkerIds
) -> None:
    body = {
        "messages": [{"role": "user", "content": "How many r in raspberry?"}],
        "temperature": 1.0,
        "n": 3,
        "seed": -7,
        "max_thinking_tokens": 60,
        "num_waits": 2,
        "return_token_ids": True,
    }
    first, second = (_asked(gateway, http, body).json() for _ in range(2))
    assert [choice["message"] for choice in first["choices"]] == [
        choice["message"] for choice in second["choices"]
    ]
    assert len({choice["message"]["reasoning"] for choice in first["choices"]}) > 1
    for choice in first["choices"]:
        assert_rules_hold(body, first | {"choices": [choice], "usage": None}, ids, context=2048)


@pytest.mark.parametrize("stream", [False, True])
async def test_a_client_that_leaves_stops_the_engine(gateway: Running, engine: Running, stream: bool) -> None:
    body = {
        "model": gateway.model,
        "messages": [{"role": "user", "content": "How many r in raspberry?"}],
        "max_completion_tokens": 1900,
        # Twice as many as it has slots, and never an end token: seconds of work for this quick engine.
        "n": 16,
        "logit_bias": {"416": -100, "417": -100, "415": -100},
        "num_waits": 1,
        "stream": stream,
    }
    before = max(slot.get("id_task", -1) for slot in slots(engine.url))
    async with httpx.AsyncClient(timeout=60) as client:
        leaving = asyncio.create_task(client.post(f"{gateway.url}/v1/chat/completions", json=body))
        await _until(lambda: _generates(engine), "the engine never began")
        leaving.cancel()
        await asyncio.gather(leaving, return_exceptions=True)
    await _until(lambda: not _generates(engine), "the engine still generates for nobody")
    given_up = [slot for slot in slots(engine.url) if slot.get("id_task", -1) > before]
    assert any(slot["next_token"][0]["has_next_token"] for slot in given_up), "they ended by themselves"
    await _until(lambda: gateway.get("/ready")["engines"][0]["outstanding"] == 0, "it counts as outstanding")


def _generates(engine: Running) -> bool:
    return any(slot["is_processing"] for slot in slots(engine.url))


async def _until(condition: Callable[[], bool], otherwise: str) -> None:
    deadline = time.monotonic() + 10
    while not await asyncio.to_thread(condition):
        assert time.monotonic() < deadline, otherwise


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"max_thinking_tokens": 9, "response_format": {"type": "json_object"}}, "response_format"),
        ({"max_thinking_tokens": 9, "presence_penalty": 0.5}, "presence_penalty"),
        # vLLM's rounds honour these, and its server has no such thing.
        ({"max_thinking_tokens": 9, "chat_template": "{{ messages }}"}, "chat_template"),
        ({"max_thinking_tokens": 9, "cache_salt": "x"}, "cache_salt"),
        # Without a budget its own chat route answers, which ignores what it doesn't know.
        ({"repetition_penalty": 1.1}, "repetition_penalty"),
        ({"min_tokens": 5}, "min_tokens"),
        ({"return_token_ids": True}, "return_token_ids"),
        ({"include_reasoning": False}, "include_reasoning"),
    ],
    ids=str,
)
def test_what_it_cannot_honour_is_refused_by_name(
    gateway: Running, http: httpx.Client, fields: dict[str, Any], param: str
) -> None:
    body = {"messages": [{"role": "user", "content": "2 + 2?"}], **fields}
    response = _asked(gateway, http, body)
    assert (response.status_code, response.json()["error"]["param"]) == (400, param)
    assert "llama.cpp" in response.json()["error"]["message"]


def test_requests_without_a_budget_are_its_own(gateway: Running, engine: Running) -> None:
    messages: Any = [{"role": "user", "content": "How many r in raspberry?"}]
    asked: dict[str, Any] = {"model": gateway.model, "messages": messages, "temperature": 0}
    texts = []
    for url in (gateway.url, engine.url):
        with OpenAI(base_url=f"{url}/v1", api_key="none", max_retries=0, timeout=60) as client:
            whole = client.chat.completions.create(**asked)
            with client.chat.completions.create(**asked, stream=True) as stream:
                parts = [chunk.choices[0].delta.content or "" for chunk in stream if chunk.choices]
            assert whole.usage is not None
            texts.append((whole.choices[0].message.content, "".join(parts), whole.usage.completion_tokens))
    assert texts[0] == texts[1]
    assert texts[0][0] == texts[0][1] != ""
