"""The demo checkpoint as a model of no known family: described by options, or served without budgets."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.support.engines import EXACT, Running, gateway_only, serving
from training.evaluate.suite import held_out_questions

pytestmark = pytest.mark.engine

DESCRIPTION = (
    "--think-start", "<|im_start|>think",
    "--think-end", "<|im_start|>answer",
    "--wait-text", "Wait",
    "--answer-prompt", r"\nFinal Answer:",
)  # fmt: skip
SO_ENDS = ("--think-start", "<|im_start|>think", "--think-end", "So ")
"""The demo model writes `So 3.` after each pass: an end marker of ordinary tokens."""


@pytest.fixture(scope="module")
def native(logs: Path) -> Iterator[Running]:
    with serving(logs, *EXACT, name="described", options=DESCRIPTION) as running:
        yield running


@pytest.fixture(scope="module")
def rounds(stock: Running, logs: Path) -> Iterator[Running]:
    with gateway_only(logs, stock.url, options=DESCRIPTION) as running:
        running.model = stock.model
        yield running


def ask(server: Running, question: str, **fields: Any) -> Any:
    body = {"model": server.model, "messages": [{"role": "user", "content": question}], "temperature": 0}
    response = httpx.post(f"{server.url}/v1/chat/completions", json={**body, **fields}, timeout=120)
    assert response.status_code == 200, response.text
    return response.json()["choices"][0]


def test_a_description_alone_holds_budgets_in_the_sampler_and_in_rounds(
    native: Running, rounds: Running
) -> None:
    for server, enforcement in ((native, "native"), (rounds, "rounds")):
        (engine,) = server.get("/ready")["engines"]
        assert (engine["enforcement"], engine["family"]) == (enforcement, "custom")
    cut = waited = 0
    for index, question in enumerate(held_out_questions(24)):
        budget = {"max_thinking_tokens": [3, 20, 60, 200][index % 4], "num_waits": index % 3}
        asked = {**budget, "max_completion_tokens": 300, "return_token_ids": True}
        in_sampler, in_rounds = (ask(server, question.text, **asked) for server in (native, rounds))
        assert in_sampler["token_ids"] == in_rounds["token_ids"]
        for name in ("reasoning", "content"):
            assert in_sampler["message"][name] == in_rounds["message"][name]
        receipt = in_sampler["thinking_budget"]
        assert receipt == in_rounds["thinking_budget"]
        assert receipt["thinking_tokens"] <= budget["max_thinking_tokens"]
        assert in_sampler["message"]["content"]
        assert "Final Answer" not in in_sampler["message"]["content"]
        cut += receipt["ended_by"] == "max_thinking_tokens"
        waited += receipt["waits"]
    assert cut
    assert waited


def test_an_end_marker_of_ordinary_tokens_is_taken_back_in_rounds(stock: Running, logs: Path) -> None:
    with gateway_only(logs, stock.url, options=SO_ENDS) as server:
        server.model = stock.model
        (engine,) = server.get("/ready")["engines"]
        assert engine["enforcement"] == "rounds", engine["reason"]
        for question in held_out_questions(8):
            plain = ask(server, question.text, max_completion_tokens=400, num_waits=0)
            assert plain["thinking_budget"]["ended_by"] == "model"
            assert "So " not in plain["message"]["reasoning"]
            waited = ask(server, question.text, max_completion_tokens=400, num_waits=2)
            assert waited["thinking_budget"]["waits"] == 2
            assert waited["message"]["reasoning"].startswith(plain["message"]["reasoning"] + "Wait")
            assert "So " not in waited["message"]["reasoning"]
            few = plain["thinking_budget"]["thinking_tokens"] - 2
            cut = ask(server, question.text, max_thinking_tokens=few)
            assert cut["thinking_budget"]["thinking_tokens"] == few
            assert cut["thinking_budget"]["ended_by"] == "max_thinking_tokens"


def test_the_sampler_refuses_such_a_marker_and_names_rounds(tmp_path: Path) -> None:
    argv = [sys.executable, "-m", "server.cli", "serve", "--port", "0", *SO_ENDS]
    argv += ["--log-file", str(tmp_path / "engine.log")]
    done = subprocess.run(argv, capture_output=True, text=True, timeout=240)
    assert done.returncode == 1
    said = " ".join(done.stderr.split())
    assert "s1: the end marker 'So ' begins with the ordinary token" in said
    assert "s1 serve --engine-url URL --think-start '<|im_start|>think' --think-end 'So '" in said


def test_without_a_family_budgets_are_refused_and_the_rest_is_served(stock: Running, logs: Path) -> None:
    with gateway_only(logs, stock.url, family="none") as server:
        (engine,) = server.get("/ready")["engines"]
        assert (engine["enforcement"], engine["state"]) == ("none", "ready")
        body = {"model": stock.model, "messages": [{"role": "user", "content": "2 + 3?"}]}
        url = f"{server.url}/v1/chat/completions"
        refused = httpx.post(url, json={**body, "max_thinking_tokens": 5}, timeout=60)
        assert (refused.status_code, refused.json()["error"]["param"]) == (400, "max_thinking_tokens")
        assert "--family none" in refused.json()["error"]["message"]
        assert httpx.post(url, json={**body, "max_tokens": 8}, timeout=60).status_code == 200
