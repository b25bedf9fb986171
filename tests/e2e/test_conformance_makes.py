"""`s1 conformance` before three servers of the same model: three tables, each of them true."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.support.engines import Running, gateway_only
from tests.support.llamacpp import llamacpp

pytestmark = pytest.mark.engine


@pytest.fixture(scope="module")
def other_make(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    with llamacpp(tmp_path_factory.mktemp("llamacpp")) as running:
        yield running


def _printed(url: str, *options: str) -> str:
    done = subprocess.run(
        [sys.executable, "-m", "server.cli", "conformance", url, *options],
        capture_output=True,
        text=True,
        timeout=240,
        env={**os.environ, "COLUMNS": "200"},
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def _verdicts(url: str) -> dict[str, str]:
    findings: list[dict[str, Any]] = json.loads(_printed(url, "--json"))["findings"]
    return {f"{found['dialect']} {_without_values(found['asked'])}": found["verdict"] for found in findings}


def _without_values(asked: str) -> str:
    """The tested budgets depend on the natural length: only zero and what is wrong are told apart."""
    if not asked.startswith("{"):
        return asked
    fields = json.loads(asked)
    if "custom_params" in fields:
        fields = fields["custom_params"]
    signs = {name: "0" if value == 0 else "-" if value < 0 else "+" for name, value in fields.items()}
    return " ".join(f"{name}{sign}" for name, sign in signs.items())


OURS = {
    "- no budget": "natural",
    "s1 max_thinking_tokens+": "held",
    "s1 max_thinking_tokens0": "held",
    "s1 min_thinking_tokens+": "held",
    "s1 num_waits+": "held",
    "s1 max_thinking_tokens-": "refused",
    "s1 max_thinking_tokens+ min_thinking_tokens+": "refused",
    "vLLM thinking_token_budget+": "held",
    "vLLM thinking_token_budget-": "refused",
    "SGLang thinking_budget+": "held",
    "llama.cpp reasoning_budget_tokens+": "held",
    "llama.cpp thinking_budget_tokens+": "held",
    "llama.cpp reasoning_budget_tokens-": "refused",
}
# Started without a reasoning parser it refuses its own budget, and takes what it doesn't know.
STOCK_VLLM = {
    "- no budget": "natural",
    "s1 max_thinking_tokens+": "no effect",
    "s1 max_thinking_tokens0": "no effect",
    "s1 min_thinking_tokens+": "ignored",
    "s1 num_waits+": "ignored",
    "s1 max_thinking_tokens-": "ignored",
    "s1 max_thinking_tokens+ min_thinking_tokens+": "ignored",
    "vLLM thinking_token_budget+": "refused",
    "vLLM thinking_token_budget-": "refused",
    "SGLang thinking_budget+": "no effect",
    "llama.cpp reasoning_budget_tokens+": "no effect",
    "llama.cpp thinking_budget_tokens+": "no effect",
    "llama.cpp reasoning_budget_tokens-": "ignored",
}
# It can't tell s1's markers from a template that never renders reasoning, so its own budget has no effect.
LLAMA_CPP = STOCK_VLLM | {
    "vLLM thinking_token_budget+": "no effect",
    "vLLM thinking_token_budget-": "ignored",
    "llama.cpp reasoning_budget_tokens-": "refused",
}


def test_our_server_holds_or_refuses(served: Running) -> None:
    assert _verdicts(served.url) == OURS


def test_stock_vllm(stock: Running) -> None:
    assert _verdicts(stock.url) == STOCK_VLLM


def test_llamacpp(other_make: Running) -> None:
    assert _verdicts(other_make.url) == LLAMA_CPP


def test_rounds_hold_what_the_plugin_holds(rounds: Running, other_make: Running, tmp_path: Path) -> None:
    """Before either of the others, though without a budget neither tells the thinking apart."""
    assert _verdicts(rounds.url) == OURS
    with gateway_only(tmp_path, other_make.url) as before_llamacpp:
        assert _verdicts(before_llamacpp.url) == OURS


def test_the_table_says_what_was_seen(other_make: Running, served: Running) -> None:
    table = _printed(other_make.url)
    assert "the server doesn't tell thinking and answer apart" in table
    assert "Value must be between -1" in table
    table = _printed(served.url)
    assert "receipt: 2 waits" in table
    assert "Given: -7" in table
