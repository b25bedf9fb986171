"""A line per request, with its receipt and without what it says."""

from __future__ import annotations

import json
import subprocess
import sys
from typing import Any

import httpx
import pytest
import structlog
from structlog.testing import capture_logs

from server.logs import PlainText
from tests.gateway.serving import eventually, gateway
from tests.gateway.stand_in import Faults, StandIn
from tests.gateway.test_gateway_chat import ASK
from tests.gateway.test_observe_metrics import streamed, whole

CHAT = "/v1/chat/completions"
SECRET = "the-secret-of-the-prompt"
SAYS = [{"role": "user", "content": SECRET}]
TRACE = "4bf92f3577b34da6a3ce929d0e0e4736"


async def lines(logged: list[Any], count: int = 1) -> list[dict[str, Any]]:
    await eventually(lambda: len([line for line in logged if line["event"] == "request"]) >= count)
    return [dict(line) for line in logged if line["event"] == "request"]


@pytest.mark.parametrize("ask", [whole, streamed])
async def test_the_line_has_the_receipt(client: httpx.AsyncClient, ask: Any) -> None:
    with capture_logs() as logged:
        answer = await ask(client, max_thinking_tokens=5, n=2, messages=SAYS)
        (line,) = await lines(logged)
    receipts = [choice["thinking_budget"] for choice in answer["choices"]]
    told = sorted(line.pop("thinking_budgets"), key=str)
    assert told == sorted(receipts, key=str)
    assert line["prompt_tokens"] == answer["usage"]["prompt_tokens"]
    assert line["completion_tokens"] == answer["usage"]["completion_tokens"]
    assert (line["outcome"], line["status"], line["model"]) == ("ok", 200, "tiny")
    assert ("time_to_first_answer_token_s" in line) == (ask is streamed)


async def test_the_line_names_request_and_trace(client: httpx.AsyncClient) -> None:
    headers = {"x-request-id": "mine", "traceparent": f"00-{TRACE}-00f067aa0ba902b7-01"}
    with capture_logs() as logged:
        await client.post(CHAT, json=ASK, headers=headers)
        (line,) = await lines(logged)
    assert (line["request_id"], line["trace_id"]) == ("mine", TRACE)


async def test_nothing_that_was_said_is_logged(client: httpx.AsyncClient, engine: StandIn) -> None:
    asked: list[dict[str, Any]] = [
        {"messages": SAYS, "max_thinking_tokens": 5},
        {"messages": SAYS, "max_thinking_tokens": SECRET},
        {"messages": SECRET},
        {"messages": SAYS, SECRET: 1},
        {"messages": SAYS, "stop": SECRET, "user": SECRET},
    ]
    with capture_logs() as logged:
        for fields in asked:
            await client.post(CHAT, json=ASK | fields)
        engine.faults = Faults(refuse=(400, {"error": {"message": f"no {SECRET}", "code": 400}}))
        await client.post(CHAT, json=ASK | {"messages": SAYS})
        found = await lines(logged, len(asked) + 1)
    assert [line["outcome"] for line in found] == ["ok", *["invalid"] * 3, "ok", "invalid"]
    assert found[1]["error"] == {"type": "BudgetError", "param": "max_thinking_tokens"}
    assert SECRET not in str([{**line, "error": None} for line in found])
    assert "t0" not in str(found) and "42" not in str([line.get("outputs") for line in found])


@pytest.mark.parametrize("ask", [whole, streamed])
async def test_what_was_said_is_logged_if_asked(engine: StandIn, ask: Any) -> None:
    async with gateway(engine.url, log_content="on") as client:
        with capture_logs() as logged:
            await ask(client, max_thinking_tokens=2, messages=SAYS)
            (line,) = await lines(logged)
    assert line["messages"] == SAYS
    assert line["outputs"] == ["t0 t1 42."]


async def test_a_broken_stream_is_a_warning_with_what_came_of_it(
    client: httpx.AsyncClient, engine: StandIn
) -> None:
    engine.faults = Faults(die_after=3)
    with capture_logs() as logged:
        await streamed(client, max_thinking_tokens=6)
        (line,) = await lines(logged)
    assert (line["outcome"], line["log_level"], line["error"]) == (
        "engine_error",
        "warning",
        {"type": "EngineDied"},
    )


async def test_there_is_no_line_when_they_are_off(engine: StandIn) -> None:
    async with gateway(engine.url, log_requests="off") as client:
        with capture_logs() as logged:
            await whole(client, max_thinking_tokens=2)
    assert [line for line in logged if line["event"] == "request"] == []


LOGGING = f"""
import logging, structlog
from server.logs import configure_logging
configure_logging(FORMAT)
structlog.get_logger("s1").info("request", receipt={{"waits": 2}}, text="two\\nlines")
logging.getLogger("uvicorn.error").warning("theirs %d", 1)
def fail(prompt):
    raise ValueError("broken")
try:
    fail({SECRET!r})
except ValueError:
    structlog.get_logger("s1").exception("request failed")
"""


def written(format: str) -> str:
    program = LOGGING.replace("FORMAT", repr(format)).replace(repr(SECRET), "'-'.join(['the', 'prompt'])")
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout == ""
    return done.stderr


def test_json_lines_are_json_whoever_writes_them() -> None:
    own, theirs, failed = (json.loads(line) for line in written("json").splitlines())
    assert (own["event"], own["receipt"], own["text"]) == ("request", {"waits": 2}, "two\nlines")
    assert (theirs["event"], theirs["level"], theirs["logger"]) == ("theirs 1", "warning", "uvicorn.error")
    assert failed["exception"][0]["exc_value"] == "broken"


def test_plain_lines_are_as_structlog_writes_them() -> None:
    console = structlog.dev.ConsoleRenderer(colors=False)
    head = {"timestamp": "2026-01-01T00:00:00Z", "level": "info", "event": "request"}
    for fields in (
        {"b": "two words", "a": 1, "c": {"q": [1]}, "none": None, "plain": "x/y:z", "f": 0.5},
        {
            "line": "a\nb",
            "quote": 'say "no"',
            "equals": "a=b",
            "empty": "",
            "event": "of more than thirty characters",
        },
        {"level": "warning"},
        {},
        {"logger": "named"},
    ):
        ours, theirs = ({**head, **fields} for _ in range(2))
        assert PlainText(console)(None, "info", ours) == console(None, "info", theirs)


@pytest.mark.parametrize("format", ["text", "json"])
def test_tracebacks_do_not_show_what_variables_hold(format: str) -> None:
    text = written(format)
    assert "ValueError" in text
    assert "the-prompt" not in text
