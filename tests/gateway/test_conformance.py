"""What `s1 conformance` finds out about servers that hold, ignore and refuse."""

from __future__ import annotations

import asyncio
import json

import pytest
from typer.testing import CliRunner

from server.cli import app
from server.commands.conformance import Finding, Server, Unreachable, examine
from tests.gateway.serving import gateway
from tests.gateway.stand_in import Faults, StandIn, running
from tests.gateway.toy_engine import Toy
from tests.gateway.toy_llamacpp import running_llamacpp


def verdicts(findings: list[Finding]) -> dict[tuple[str, str], str]:
    return {(found.dialect, found.asked): found.verdict for found in findings}


def examined(url: str) -> list[Finding]:
    with Server(url, model=None, api_key=None, timeout_s=20) as server:
        return examine(server)


async def test_our_own_server_holds_or_refuses() -> None:
    async with running(StandIn()) as engine, gateway(engine.url) as client:
        found = verdicts(await asyncio.to_thread(examined, f"{client.base_url}/v1"))
    assert found == {
        ("-", "no budget"): "natural",
        ("s1", '{"max_thinking_tokens":4}'): "held",
        ("s1", '{"max_thinking_tokens":0}'): "held",
        ("s1", '{"min_thinking_tokens":32}'): "held",
        ("s1", '{"num_waits":2}'): "held",
        ("s1", '{"max_thinking_tokens":-1}'): "refused",
        ("s1", '{"max_thinking_tokens":1,"min_thinking_tokens":2}'): "refused",
        ("vLLM", '{"thinking_token_budget":4}'): "held",
        ("vLLM", '{"thinking_token_budget":-7}'): "refused",
        ("SGLang", '{"custom_params":{"thinking_budget":4}}'): "held",
        ("llama.cpp", '{"reasoning_budget_tokens":4}'): "held",
        ("llama.cpp", '{"thinking_budget_tokens":4}'): "held",
        ("llama.cpp", '{"reasoning_budget_tokens":-7}'): "refused",
    }


async def test_an_engine_that_takes_everything_is_shown_to_ignore_it() -> None:
    """The stand-in reads budgets from `vllm_xargs` alone, so that every field at the root is ignored."""
    async with running(StandIn()) as engine:
        findings = await asyncio.to_thread(examined, engine.url)
    assert {found.verdict for found in findings[1:]} == {"ignored"}
    assert "8 thinking tokens (by usage); 8 without" in findings[1].evidence


async def test_where_thinking_is_not_told_apart_only_changes_are_judged() -> None:
    """llama.cpp's toy under a name of ours: it answers every request alike, without any reasoning."""
    async with running_llamacpp(Toy(tells_apart=False)) as toy:
        findings = await asyncio.to_thread(examined, toy.url)
    found = verdicts(findings)
    assert found["s1", '{"max_thinking_tokens":2}'] == "no effect"
    assert found["s1", '{"min_thinking_tokens":29}'] == "ignored"
    assert found["s1", '{"num_waits":2}'] == "ignored"
    assert found["llama.cpp", '{"thinking_budget_tokens":2}'] == "no effect"
    assert findings[0].evidence == "5 tokens; the server doesn't tell thinking and answer apart"


async def test_without_any_count_nothing_is_claimed() -> None:
    async with running(StandIn(faults=Faults(no_reasoning_details=True))) as engine:
        findings = await asyncio.to_thread(examined, engine.url)
    assert "by words" in findings[0].evidence


def test_a_server_that_is_not_there() -> None:
    with pytest.raises(Unreachable):
        examined("http://127.0.0.1:9")
    done = CliRunner().invoke(app, ["conformance", "http://127.0.0.1:9"])
    assert done.exit_code == 1


@pytest.mark.parametrize("given", [["http://[::"], ["http://127.0.0.1:9", "--api-key", "schlüssel→"]])
def test_an_address_or_key_that_cannot_be_used_is_told(given: list[str]) -> None:
    done = CliRunner().invoke(app, ["conformance", *given])
    assert done.exit_code == 1
    assert done.output.startswith("s1: URL or --api-key can't be used: ") and done.output.count("\n") == 1


async def test_the_command_prints_json_and_a_table() -> None:
    async with running(StandIn()) as engine:
        shown = await asyncio.to_thread(CliRunner().invoke, app, ["conformance", engine.url, "--json"])
        assert shown.exit_code == 0
        assert json.loads(shown.stdout)["findings"][1]["verdict"] == "ignored"
        shown = await asyncio.to_thread(CliRunner().invoke, app, ["conformance", engine.url])
        assert shown.exit_code == 0
        assert "ignored" in shown.stdout
