"""Forcing by rounds against the budget machine itself, over a toy model; then what clients see of it."""

from __future__ import annotations

import json
import random
from collections.abc import AsyncIterator
from dataclasses import replace
from typing import Any

import httpx
import pytest

from server.budget.machine import BudgetMachine
from server.budget.markers import wait_ids
from server.budget.receipt import positions, receipt
from server.budget.spec import BUDGET_FIELDS, BudgetError, RoomLimit, ThinkingBudget, resolve
from tests.gateway.serving import eventually, gateway
from tests.gateway.toy_engine import MAX_MODEL_LEN, Toy, encode, running, running_agreeable, text_of
from tests.gateway.toy_llamacpp import running_llamacpp
from tests.support.toy_markers import ANSWER, EOS, TURN, toy_markers

IDS = toy_markers()
MESSAGES = [{"role": "user", "content": "6 * 7?"}]


MAKES = {"vllm": running, "llamacpp": running_llamacpp}


@pytest.fixture(params=MAKES)
async def toy(request: pytest.FixtureRequest) -> AsyncIterator[Toy]:
    async with MAKES[request.param](Toy()) as started:
        yield started


@pytest.fixture
async def client(toy: Toy) -> AsyncIterator[httpx.AsyncClient]:
    async with gateway(toy.url, refresh_interval_s=5) as opened:
        yield opened


def native(toy: Toy, budget: ThinkingBudget, room: int | None) -> tuple[list[int], str, dict[str, Any]]:
    """One uninterrupted generation with the rules applied after every sample: what the plugin does."""
    prompt = toy.prompt
    context = MAX_MODEL_LEN - len(prompt)
    limited_by: RoomLimit = "context" if room is None or room >= context else "max_completion_tokens"
    room = min(room or context, context)
    opened = IDS.opened(prompt)
    effective = resolve(
        budget,
        room=room,
        limited_by=limited_by,
        opening_tokens=0 if opened else len(IDS.start),
        exit_tokens=IDS.exit_tokens(),
    )
    if budget.wait_text is not None:
        own = wait_ids(budget.wait_text, encode, reserved=IDS.reserved, think_end=IDS.family.think_end)
        effective = replace(effective, wait_ids=own)
    machine = BudgetMachine(IDS, effective, opened=opened)
    output: list[int] = []
    finish = "length"
    while len(output) < room:
        output.append(machine.commit(toy.next([*prompt, *output], masked=machine.masked)))
        if output[-1] == EOS:
            finish = "stop"
            break
    recorded = machine.receipt("x")
    settled = receipt(budget, recorded, delivered_tokens=len(output), finish_reason=finish)
    return output, finish, settled | {"positions": positions(recorded, delivered_tokens=len(output))}


def split(output: list[int], *, opened: bool) -> tuple[str | None, str | None]:
    shown = output[:-1] if output[-1] == EOS else output
    return split_text(text_of(shown), opened=opened)


def split_text(text: str, *, opened: bool) -> tuple[str | None, str | None]:
    text = text.removeprefix("" if opened else "<|im_start|>think")
    reasoning, _, rest = text.partition("<|im_start|>answer")
    content = "" if "\nFinal Answer:".startswith(rest) else rest.removeprefix("\nFinal Answer:").lstrip()
    return reasoning or None, content or None


def random_fields(rng: random.Random) -> dict[str, Any]:
    maximum = rng.choice([None, 0, 1, 2, 3, 5, 8, 20, 60, 300])
    limit = 300 if maximum is None else maximum
    fields = {
        "max_thinking_tokens": maximum,
        "min_thinking_tokens": rng.choice([None, 0, rng.randint(0, limit), limit]),
        "num_waits": rng.choice([None, 0, 1, 2, 4]),
        "landing_tokens": rng.choice([None, None, min(limit, rng.choice([1, 3, 10]))]),
        "answer_reserve_tokens": rng.choice([None, 1, 10]),
        "loop_guard_tokens": rng.choice([None, None, 8, 12]),
        "max_completion_tokens": rng.choice([None, 8, 20, 50, 120]),
    }
    given = {name: value for name, value in fields.items() if value is not None}
    if given.get("num_waits") or given.get("min_thinking_tokens"):
        given |= rng.choice([{}, {"wait_text": "w30,"}, {"wait_text": ["Wait-tail", "w31,w32,", "."]}])
    return given if given.keys() & set(BUDGET_FIELDS) else {"num_waits": 1, **given}


@pytest.mark.parametrize("opens_thinking", [True, False])
async def test_rounds_equal_the_machine_over_random_budgets(
    client: httpx.AsyncClient, toy: Toy, opens_thinking: bool
) -> None:
    toy.opens_thinking = opens_thinking
    rng = random.Random(5)
    compared = refused = waited = looped = 0
    for seed in range(400):
        toy.seed, toy.ends, toy.period = seed, rng.choice([0.02, 0.15, 0.5, 1.0]), rng.choice([0, 0, 1, 3])
        fields = random_fields(rng)
        budget = ThinkingBudget.from_fields(fields)
        body = {"model": "toy-s1", "messages": MESSAGES, "return_token_ids": True, **fields}
        response = await client.post("/v1/chat/completions", json=body)
        try:
            output, finish, settled = native(toy, budget, fields.get("max_completion_tokens"))
        except BudgetError as error:
            assert response.status_code == 400, (fields, response.text)
            assert response.json()["error"]["param"] == error.param
            refused += 1
            continue
        if response.status_code == 400:
            # The route knows no prompt, and like the engine's admission reckons with a forced start marker.
            assert response.json()["error"]["param"] in ("max_completion_tokens", "answer_reserve_tokens")
            refused += 1
            continue
        got = response.json()
        (choice,) = got["choices"]
        assert choice["token_ids"] == output, fields
        assert choice["finish_reason"] == finish
        assert choice["thinking_budget"] == settled, fields
        message = choice["message"]
        assert (message["reasoning"], message["content"]) == split(output, opened=opens_thinking)
        assert got["usage"]["completion_tokens"] == len(output)
        assert got["usage"]["prompt_tokens"] == len(toy.prompt)
        assert got["usage"]["completion_tokens_details"]["reasoning_tokens"] == settled["thinking_tokens"]
        compared += 1
        waited += settled["waits"] > 0
        looped += settled["ended_by"] == "loop"
    assert looped > 10
    assert compared > 250
    assert refused > 5
    assert waited > 60


async def stream(client: httpx.AsyncClient, **fields: Any) -> list[dict[str, Any]]:
    body = {"model": "toy-s1", "messages": MESSAGES, "stream": True, **fields}
    response = await client.post("/v1/chat/completions", json=body)
    assert response.status_code == 200, response.text
    lines = [line.removeprefix("data: ") for line in response.text.split("\n") if line]
    assert lines[-1] == "[DONE]"
    return [json.loads(line) for line in lines[:-1]]


async def test_streams_say_what_whole_answers_say(client: httpx.AsyncClient, toy: Toy) -> None:
    rng = random.Random(6)
    for seed in range(100):
        toy.seed, toy.ends = seed, rng.choice([0.02, 0.15, 0.5])
        fields = {**random_fields(rng), "max_completion_tokens": rng.choice([60, 120])}
        fields |= rng.choice([{}, {"stop": rng.choice(["Wait", "w1", ",w3", ".w", "Final", "answer"])}])
        body = {"model": "toy-s1", "messages": MESSAGES, "return_token_ids": True, **fields}
        response = await client.post("/v1/chat/completions", json=body)
        assert response.status_code == 200, response.text
        (whole,) = response.json()["choices"]
        chunks = await stream(client, return_token_ids=True, stream_options={"include_usage": True}, **fields)
        choices = [choice for chunk in chunks for choice in chunk["choices"]]
        for kind in ("reasoning", "content"):
            text = "".join(choice["delta"].get(kind) or "" for choice in choices)
            assert text == (whole["message"][kind] or ""), (fields, kind)
        assert [i for choice in choices for i in choice.get("token_ids") or []] == whole["token_ids"], fields
        assert choices[-1]["thinking_budget"] == whole["thinking_budget"]
        assert choices[-1]["finish_reason"] == whole["finish_reason"]
        assert choices[-1].get("stop_reason") == whole.get("stop_reason")
        assert chunks[-1]["usage"] == response.json()["usage"]


async def test_stop_strings_end_where_an_uninterrupted_generation_would(
    client: httpx.AsyncClient, toy: Toy
) -> None:
    """Also inside thinking, inside what is forced, and across the edge of two rounds."""
    rng = random.Random(9)
    stopped = 0
    for seed in range(150):
        toy.seed = seed
        stop = rng.choice(["Wait", "w2", "Final", "\nF", ",Wait", "Waitw", "answer", "> ", ":w", ","])
        fields = {"max_thinking_tokens": rng.choice([3, 10, 30]), "num_waits": 2, "max_completion_tokens": 80}
        output, _, _ = native(toy, ThinkingBudget.from_fields(fields), 80)
        body = {"model": "toy-s1", "messages": MESSAGES, "return_token_ids": True, "stop": stop, **fields}
        (choice,) = (await client.post("/v1/chat/completions", json=body)).json()["choices"]
        shown = output[:-1] if output[-1] == EOS else output
        completed = next((n for n in range(1, len(shown) + 1) if stop in text_of(shown[:n])), None)
        assert choice["token_ids"] == (output if completed is None else output[:completed]), (stop, fields)
        if completed is not None:
            stopped += 1
            assert (choice["finish_reason"], choice["stop_reason"]) == ("stop", stop)
            cut = text_of(shown[:completed])
            assert (choice["message"]["reasoning"], choice["message"]["content"]) == split_text(
                cut[: cut.find(stop)], opened=True
            )
        assert choice["thinking_budget"]["answer_tokens"] + choice["thinking_budget"][
            "marker_tokens"
        ] + choice["thinking_budget"]["thinking_tokens"] == len(choice["token_ids"])
    assert stopped > 60


async def test_the_engine_is_ready_for_rounds(client: httpx.AsyncClient) -> None:
    (engine,) = (await client.get("/ready")).json()["engines"]
    assert engine["enforcement"] == "rounds"
    assert engine["family"] == "s1"
    assert engine["fields"] == list(BUDGET_FIELDS)
    (card,) = (await client.get("/v1/models")).json()["data"]
    assert card["thinking"]["enforcement"] == "rounds"
    (learnt,) = client.pool.engines  # type: ignore[attr-defined]
    ids = learnt.status.rounds.ids
    assert (ids.start, ids.end, ids.wait, ids.newline) == (IDS.start, IDS.end, IDS.wait, IDS.newline)
    assert (ids.eos, ids.special, ids.blank) == (IDS.eos, IDS.special, IDS.blank)
    assert ids.unknown == IDS.unknown
    assert (ids.answer_prompt, ids.line_end, ids.sentence_end) == (
        IDS.answer_prompt,
        IDS.line_end,
        IDS.sentence_end,
    )


@pytest.mark.parametrize(
    ("toy", "reason"),
    [
        (Toy(missing=frozenset({"/tokenize"})), "no /tokenize"),
        (Toy(missing=frozenset({"/detokenize"})), "no /detokenize"),
        (Toy(missing=frozenset({"/v1/completions"})), "no /v1/completions"),
        (Toy(ignores=frozenset({"return_token_ids"})), "token ids"),
        (Toy(ignores=frozenset({"stop_token_ids"})), "stop_token_ids"),
        (Toy(ignores=frozenset({"min_tokens"})), "can't mask a stop token"),
        (Toy(ignores=frozenset({"max_tokens"})), "exactly as many tokens as asked"),
        (Toy(ignores=frozenset({"prompt"})), "1 tokens of a prompt of"),
        (Toy(ignores=frozenset({"allowed_token_ids"})), "allowed_token_ids"),
    ],
    ids=str,
)
async def test_an_engine_that_lacks_something_is_refused_by_name(toy: Toy, reason: str) -> None:
    async with running(toy), gateway(toy.url) as client:
        (engine,) = (await client.get("/ready")).json()["engines"]
        assert engine["enforcement"] == "none"
        assert reason in engine["reason"]
        body = {"model": "toy-s1", "messages": MESSAGES, "num_waits": 1}
        error = (await client.post("/v1/chat/completions", json=body)).json()["error"]
        assert error["param"] == "num_waits"
        assert reason in error["message"]


async def test_a_probe_that_failed_is_repeated() -> None:
    async with running(Toy(ignores=frozenset({"min_tokens"}))) as toy, gateway(toy.url) as client:
        (engine,) = client.pool.engines  # type: ignore[attr-defined]
        assert engine.status.enforcement == "none"
        toy.ignores = frozenset()
        await eventually(lambda: engine.status.enforcement == "rounds")


async def test_a_server_that_agrees_to_everything_is_not_believed() -> None:
    async with running_agreeable() as url, gateway(url) as client:
        body = {"model": "agreeable", "messages": MESSAGES}
        assert (await client.post("/v1/chat/completions", json=body)).status_code == 200
        for fields in ({"max_thinking_tokens": 5}, {"num_waits": 1}, {"thinking_token_budget": 5}):
            response = await client.post("/v1/chat/completions", json=body | fields)
            assert response.status_code == 400, fields
            error = response.json()["error"]
            assert error["param"] == next(iter(fields))
            assert "as vLLM: " in error["message"]
            assert "as llama.cpp: " in error["message"]


async def test_a_family_that_cannot_be_told_is_asked_for() -> None:
    async with running(Toy(opens_thinking=False, name="nameless")) as toy:
        async with gateway(toy.url) as client:
            (engine,) = (await client.get("/ready")).json()["engines"]
            assert engine["enforcement"] == "none"
            assert "--family {s1|" in engine["reason"]
            body = {"model": "nameless", "messages": MESSAGES, "max_thinking_tokens": 5}
            error = (await client.post("/v1/chat/completions", json=body)).json()["error"]
            assert "--family" in error["message"]
        async with gateway(toy.url, family="s1") as client:
            assert (await client.get("/ready")).json()["engines"][0]["enforcement"] == "rounds"
            assert (await client.post("/v1/chat/completions", json=body)).status_code == 200


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"tools": [{"type": "function", "function": {"name": "f"}}]}, "tools"),
        ({"response_format": {"type": "json_object"}}, "response_format"),
        ({"logprobs": True}, "logprobs"),
        ({"include_stop_str_in_output": True}, "include_stop_str_in_output"),
        ({"presence_penalty": 0.5}, "presence_penalty"),
        ({"stop_token_ids": [5]}, "stop_token_ids"),
        ({"structured_outputs": {"choice": ["a"]}}, "structured_outputs"),
        ({"documents": [{"text": "x"}]}, "documents"),
        ({"messages": [{"role": "user", "content": [{"type": "image_url"}]}]}, "messages[0].content"),
        (
            {"stream": True, "stream_options": {"continuous_usage_stats": True}},
            "stream_options.continuous_usage_stats",
        ),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
async def test_what_rounds_cannot_honour_is_refused_by_name(
    client: httpx.AsyncClient, fields: dict[str, Any], param: str
) -> None:
    body = {"model": "toy-s1", "messages": MESSAGES, "max_thinking_tokens": 5, **fields}
    response = await client.post("/v1/chat/completions", json=body)
    assert response.status_code == 400
    assert response.json()["error"]["param"] == param
    assert "enforcement: rounds" in response.json()["error"]["message"]


async def test_neutral_values_are_no_reason_to_refuse(client: httpx.AsyncClient) -> None:
    neutral = {"presence_penalty": 0, "logprobs": False, "response_format": {"type": "text"}, "min_tokens": 0}
    body = {"model": "toy-s1", "messages": MESSAGES, "max_thinking_tokens": 5, **neutral}
    assert (await client.post("/v1/chat/completions", json=body)).status_code == 200


async def test_n_choices_and_seeds(client: httpx.AsyncClient, toy: Toy) -> None:
    toy.ends = 0.5
    toy.bodies.clear()  # the probe's
    body = {"model": "toy-s1", "messages": MESSAGES, "num_waits": 2, "n": 3, "seed": 2**63 - 2}
    got = (await client.post("/v1/chat/completions", json=body | {"seed": 7})).json()
    assert [choice["index"] for choice in got["choices"]] == [0, 1, 2]
    assert got["usage"]["prompt_tokens"] == len(toy.prompt)
    seeds = [body["seed"] for body in toy.bodies]
    assert len(set(seeds)) == len(seeds) > 3
    first = sorted(seeds)
    toy.bodies.clear()
    await client.post("/v1/chat/completions", json=body | {"seed": 7})
    assert sorted(body["seed"] for body in toy.bodies) == first


async def test_a_client_that_leaves_cancels_the_round(client: httpx.AsyncClient, toy: Toy) -> None:
    toy.stall_after, toy.ends = 2, 0.0
    body = {"model": "toy-s1", "messages": MESSAGES, "max_thinking_tokens": 50}
    for streaming in (True, False):
        seen = toy.cancelled
        request = client.stream("POST", "/v1/chat/completions", json=body | {"stream": streaming})
        if streaming:
            async with request as response:
                async for _ in response.aiter_bytes():
                    break
        else:
            with pytest.raises(httpx.ReadTimeout):
                await client.post("/v1/chat/completions", json=body, timeout=0.3)
        await eventually(lambda seen=seen: toy.cancelled == seen + 1 and toy.active == 0)


async def test_an_error_of_the_engine_comes_through(client: httpx.AsyncClient, toy: Toy) -> None:
    toy.refuse = (400, {"error": {"message": "`min_p` is bad", "param": "min_p", "code": 400}})
    body = {"model": "toy-s1", "messages": MESSAGES, "max_thinking_tokens": 50, "min_p": 0.1}
    for streaming in (False, True):
        response = await client.post("/v1/chat/completions", json=body | {"stream": streaming})
        assert (response.status_code, response.json()["error"]["param"]) == (400, "min_p")


async def test_markers_in_an_answer_end_it(client: httpx.AsyncClient, toy: Toy) -> None:
    """s1's markers begin with the turn token: in an answer it becomes the end token."""
    toy.ends = 1.0
    body = {"model": "toy-s1", "messages": MESSAGES, "num_waits": 0, "return_token_ids": True}
    for seed in range(20):
        toy.seed = seed
        (choice,) = (await client.post("/v1/chat/completions", json=body)).json()["choices"]
        assert choice["token_ids"][-1] == EOS
        assert TURN not in choice["token_ids"][choice["token_ids"].index(ANSWER) :]
        assert (choice["finish_reason"], choice["stop_reason"]) == ("stop", None)
