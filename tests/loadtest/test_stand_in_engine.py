"""The stand-in engine: vLLM's wire form, budgets by the rules, and faults when asked for."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from typing import Any

import httpx
import pytest
import typer

from loadtest.stand_in import read_faults, running
from loadtest.stand_in_engine import Options
from loadtest.stand_in_script import THINK_END_IDS, WAIT_ID, Script, generate
from server.budget.spec import BudgetError
from tests.gateway.serving import gateway


@pytest.fixture(scope="module")
def url() -> Iterator[str]:
    with running(Options(Script(thinking=12, after_wait=4, answer=6))) as urls:
        yield urls[0]


@pytest.fixture(scope="module")
def faulty() -> Iterator[str]:
    with running(Options(faults={"error": 0.5, "end_early": 0.5})) as urls:
        yield urls[0]


def events(text: str) -> list[dict[str, Any]]:
    lines = [line.removeprefix("data: ") for line in text.splitlines() if line.startswith("data: ")]
    assert lines[-1] == "[DONE]"
    return [json.loads(line) for line in lines[:-1]]


def ask(url: str, **fields: Any) -> httpx.Response:
    body = {"model": "stand-in", "messages": [{"role": "user", "content": "?"}], **fields}
    return httpx.post(f"{url}/v1/chat/completions", json=body)


def test_a_stream_has_every_token_once_at_any_interval(url: str) -> None:
    texts = set()
    for interval in (1, 3, 100):
        answer = ask(url, stream=True, stream_interval=interval, stream_options={"include_usage": True})
        chunks = events(answer.text)
        deltas = [chunk["choices"][0]["delta"] for chunk in chunks if chunk["choices"]]
        texts.add(
            "".join(d.get("reasoning", "") for d in deltas)
            + "|"
            + "".join(d.get("content", "") for d in deltas)
        )
        assert chunks[-1]["usage"]["completion_tokens"] == 12 + 2 + 6
    assert texts == {"".join(f" t{i}" for i in range(12)) + "|" + "".join(f" a{i}" for i in range(14, 19))}


def test_streamed_and_whole_answers_agree(url: str) -> None:
    fields = {"return_token_ids": True, "vllm_xargs": {"receipt_id": "r", "max_thinking_tokens": 5}}
    whole = ask(url, **fields).json()["choices"][0]
    chunks = events(ask(url, stream=True, **fields).text)
    choices = [chunk["choices"][0] for chunk in chunks]
    assert sum((choice.get("token_ids", []) for choice in choices), []) == whole["token_ids"]
    assert "".join(choice["delta"].get("content", "") for choice in choices) == whole["message"]["content"]
    assert choices[-1]["finish_reason"] == whole["finish_reason"] == "stop"
    assert whole["token_ids"][5:7] == list(THINK_END_IDS)


@pytest.mark.parametrize("maximum", [0, 1, 5, 12, 13, 30])
@pytest.mark.parametrize("minimum", [0, 7])
@pytest.mark.parametrize("waits", [0, 1, 3])
def test_its_budgets_are_those_of_the_rules(maximum: int, minimum: int, waits: int) -> None:
    script = Script(thinking=12, after_wait=4, answer=6)
    xargs = {
        "receipt_id": "r",
        "max_thinking_tokens": maximum,
        "min_thinking_tokens": min(minimum, maximum),
        "num_waits": waits,
    }
    output = generate({"vllm_xargs": xargs}, script, prompt_tokens=9)
    assert output.thinking <= maximum
    ended_by_model = output.receipt is not None and output.receipt.ended_by == "model"
    assert ended_by_model == (output.thinking < maximum)
    if ended_by_model:
        assert len(output.waits) >= waits
        assert output.thinking >= min(minimum, maximum)
    assert [i for i in range(output.tokens) if output.token_id(i) == WAIT_ID] == list(output.waits)


def test_a_budget_without_room_is_refused() -> None:
    with pytest.raises(BudgetError):
        generate({"max_tokens": 3, "vllm_xargs": {"receipt_id": "r"}}, Script(), prompt_tokens=9)


async def test_the_gateway_takes_it_for_an_engine_that_enforces(url: str) -> None:
    async with gateway(url) as client:
        assert client.pool.ready[0].status.enforcement == "native"  # type: ignore[attr-defined]
        body = {
            "model": "stand-in",
            "messages": [{"role": "user", "content": "?"}],
            "max_thinking_tokens": 40,
            "num_waits": 2,
        }
        answer = (await client.post("/v1/chat/completions", json=body)).json()
        receipt = answer["choices"][0]["thinking_budget"]
        assert (receipt["thinking_tokens"], receipt["waits"], receipt["ended_by"]) == (22, 2, "model")
        assert answer["choices"][0]["message"]["reasoning"].count("Wait") == 2
        lines = (await client.post("/v1/chat/completions", json=body | {"stream": True})).text
        assert events(lines)[-1]["choices"][0]["thinking_budget"]["thinking_tokens"] == 22


def test_faults_come_when_asked_for(faulty: str) -> None:
    seen = {
        "error" if '"error"' in text else "end_early" if "[DONE]" not in text else "none"
        for text in (ask(faulty, stream=True).text for _ in range(20))
    }
    assert seen == {"error", "end_early"}


def test_a_client_that_leaves_frees_its_place() -> None:
    with running(Options(itl_s=30)) as urls:
        with httpx.stream("POST", f"{urls[0]}/v1/chat/completions", json={"stream": True}) as answer:
            parts = answer.iter_bytes()
            assert next(parts)
            assert _metric(urls[0], "vllm:num_requests_running") == 1
        deadline = time.monotonic() + 20
        while _metric(urls[0], "stand_in:cancelled_total") == 0:
            assert time.monotonic() < deadline
        assert _metric(urls[0], "vllm:num_requests_running") == 0


def _metric(url: str, name: str) -> float:
    lines = httpx.get(f"{url}/metrics").text.splitlines()
    return next(float(line.rsplit(" ", 1)[1]) for line in lines if line.startswith(name))


@pytest.mark.parametrize("given", ["nonsense=0.1", "die=2", "die=", "die"])
def test_an_unknown_fault_is_refused(given: str) -> None:
    with pytest.raises(typer.BadParameter, match="--fault"):
        read_faults([given])
