"""`GET /s1/requests`, and what `s1 top` makes of it."""

from __future__ import annotations

import asyncio
import io
import os
import subprocess
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest
from rich.console import Console
from typer.testing import CliRunner

from server.cli import app
from server.commands.top import Meters, TopError, _running, _screen, meter
from tests.gateway.serving import eventually, gateway
from tests.gateway.stand_in import Faults, StandIn
from tests.gateway.test_gateway_chat import ASK
from tests.gateway.with_keys import KeysForTests

CHAT = "/v1/chat/completions"
SECRET = "the-secret-of-the-prompt"


@asynccontextmanager
async def thinking(client: httpx.AsyncClient, **fields: Any) -> AsyncIterator[None]:
    """A stream that has thought three tokens and stalls."""
    body = ASK | {"stream": True, "max_thinking_tokens": 6, "messages": [{"role": "user", "content": SECRET}]}
    async with client.stream("POST", CHAT, json=body | fields) as response:
        # Left early, the iterator would close the connection.
        lines = response.aiter_lines()
        while '"t2 "' not in await anext(lines):
            pass
        yield


async def top(client: httpx.AsyncClient, *options: str, once: bool = True, columns: int = 160) -> Any:
    url = str(client.base_url)
    arguments = ["top", url, *(["--once"] if once else []), *options]
    return await asyncio.to_thread(CliRunner().invoke, app, arguments, env={"COLUMNS": str(columns)})


async def test_running_requests_are_told_without_what_they_say(engine: StandIn) -> None:
    engine.faults = Faults(stall_after=3)
    async with gateway(engine.url) as client:
        assert (await client.get("/s1/requests")).json()["data"] == []
        async with thinking(client, num_waits=1):
            response = await client.get("/s1/requests")
        assert SECRET not in response.text
        (told,) = response.json()["data"]
        assert told["id"] == f"chatcmpl-{told['request_id']}"
        assert (told["model"], told["engine"], told["phase"]) == ("tiny", engine.url, "thinking")
        assert told["stream"] is True and told["age_s"] > 0
        (choice,) = told["choices"]
        assert choice.pop("idle_s") >= 0
        assert choice == {
            "index": 0,
            "thinking_tokens": 3,
            "answer_tokens": 0,
            "max_thinking_tokens": 6,
            "min_thinking_tokens": None,
            "num_waits": 1,
            "ended": False,
        }
        engine.release.set()
        pool = client.pool.engines[0]
        await eventually(lambda: not pool.outstanding)
        assert (await client.get("/s1/requests")).json()["data"] == []


async def test_a_whole_answer_is_generating(engine: StandIn) -> None:
    engine.faults = Faults(stall_after=0)
    async with gateway(engine.url) as client:
        asking = asyncio.create_task(client.post(CHAT, json=ASK | {"max_thinking_tokens": 4}))
        await eventually(lambda: engine.stalled)
        (told,) = (await client.get("/s1/requests")).json()["data"]
        assert told["phase"] == "generating"
        engine.release.set()
        assert (await asking).status_code == 200


async def test_top_shows_meters(engine: StandIn) -> None:
    engine.faults = Faults(stall_after=3)
    async with gateway(engine.url) as client, thinking(client):
        done = await top(client)
        assert done.exit_code == 0, done.output
        assert "1 thinking" in done.output
        assert "3/6" in done.output and "tiny" in done.output
        assert "█" * 12 + "░" * 12 in done.output
        assert SECRET not in done.output


async def test_running_requests_are_for_admins(engine: StandIn, tmp_path: Path) -> None:
    keys = KeysForTests(tmp_path / "keys.json")
    ann, root = keys.add("ann"), keys.add("root", admin=True)
    engine.faults = Faults(stall_after=3)
    async with gateway(engine.url, keys_file=keys.path) as client:
        for path in ("/s1/requests", "/s1/scrape_targets"):
            assert (await client.get(path)).status_code == 401
            assert (await client.get(path, headers=ann)).status_code == 403
            assert (await client.get(path, headers=root)).status_code == 200
        done = await top(client, "--api-key", keys.secrets["ann"])
        assert done.exit_code == 1 and "admin key" in done.output
        client.headers.update(ann)
        async with thinking(client):
            done = await top(client, "--api-key", keys.secrets["root"])
        assert done.exit_code == 0 and "ann" in done.output


async def test_the_address_that_clients_use_will_do(engine: StandIn) -> None:
    async with gateway(engine.url) as client:
        done = await asyncio.to_thread(CliRunner().invoke, app, ["top", f"{client.base_url}/v1", "--once"])
    assert done.exit_code == 0 and "nothing runs" in done.output


@pytest.mark.parametrize("given", [["http://[::"], ["http://127.0.0.1:9", "--api-key", "schlüssel→"]])
def test_an_address_or_key_that_cannot_be_used_is_told(given: list[str]) -> None:
    done = CliRunner().invoke(app, ["top", *given])
    assert done.exit_code == 1
    assert done.output.startswith("s1: URL or --api-key can't be used: ") and done.output.count("\n") == 1


def test_what_is_wrong_is_not_coloured_in_its_middle() -> None:
    colours = {"FORCE_COLOR": "1", "TERM": "xterm-256color"}
    done = CliRunner().invoke(app, ["top", "http://127.0.0.1:9"], env=colours, color=True)
    assert "no answer from http://127.0.0.1:9" in done.output


async def test_top_says_plainly_what_is_wrong(engine: StandIn) -> None:
    async with gateway(engine.url, observe="off") as client:
        done = await top(client)
        assert done.exit_code == 1 and "observes no requests" in done.output
    done = await top(client)
    assert done.exit_code == 1 and "no answer from" in done.output


def test_meters_are_bounded_and_rates_are_between_two_looks() -> None:
    def running(thinking: int) -> list[dict[str, Any]]:
        return [{"id": "a", "choices": [{"thinking_tokens": thinking, "answer_tokens": 0}]}]

    meters = Meters()
    assert meters.rates(running(10), 1.0) == {}
    assert meters.rates(running(40), 3.0) == {("a", 0): 15.0}
    assert meters.rates([], 4.0) == {}
    for most, used, shown in ((None, 9, "no maximum"), (0, 0, "0/0"), (10, 12, "12/10"), (10, 5, "5/10")):
        bar = meter({"max_thinking_tokens": most, "thinking_tokens": used}).plain
        assert bar.endswith(shown)
        assert bar.count("█") + bar.count("░") == (0 if most is None else 24)


def shown(running: list[dict[str, Any]], width: int) -> list[str]:
    written = io.StringIO()
    Console(file=written, width=width).print(_screen(running, "http://x", rates={}, width=width))
    return written.getvalue().splitlines()


def request(**fields: Any) -> dict[str, Any]:
    choice = {"thinking_tokens": 1234, "answer_tokens": 5678, "max_thinking_tokens": 8192}
    own = {"id": "chatcmpl-0123456789abcdef0123456789abcdef", "model": "s1.1-7B-tiny-reasoner", "key": "ann"}
    return own | {"phase": "answering", "age_s": 1234, "stream": True, "choices": [choice]} | fields


def test_a_narrow_terminal_cuts_names_and_never_figures() -> None:
    for width in (80, 100, 200):
        line = shown([request()], width)[-1]
        assert len(line) <= width
        for figure in ("answering", "1234 s", " 1234/8192 ", " 1234 ", " 5678 "):
            assert figure in line
        assert line.startswith("chatcm")
    assert shown([request()], 200)[-1].startswith(
        "chatcmpl-0123456789abcdef0123456789abcdef s1.1-7B-tiny-reasoner ann"
    )


def test_names_are_no_markup() -> None:
    line = shown([request(model="[bold]m[/bold]", key="[/nothing]")], 200)[-1]
    assert "[bold]m[/bold]" in line and "[/nothing]" in line


@pytest.mark.parametrize("body", [b"<html>", b"[]", b'{"observing": true}', b"null"])
def test_a_page_that_is_not_ours_is_told(body: bytes) -> None:
    transport = httpx.MockTransport(lambda asked: httpx.Response(200, content=body))
    with (
        httpx.Client(base_url="http://x", transport=transport) as client,
        pytest.raises(TopError, match="http://x/s1/requests is not this project's"),
    ):
        _running(client)


async def test_where_output_is_no_terminal_it_is_printed_once(engine: StandIn) -> None:
    engine.faults = Faults(stall_after=3)
    async with gateway(engine.url) as client, thinking(client):
        done = await top(client, once=False, columns=80)
    assert done.exit_code == 0 and "3/6" in done.output and "thinking" in done.output


async def test_a_terminal_without_a_screen_gets_it_printed_once(engine: StandIn) -> None:
    async with gateway(engine.url) as client:
        done = await asyncio.to_thread(
            subprocess.run,
            [sys.executable, "-m", "server.cli", "top", str(client.base_url)],
            env=os.environ | {"FORCE_COLOR": "1", "TERM": "dumb"},
            capture_output=True,
            text=True,
            timeout=60,
        )
    assert done.returncode == 0 and "nothing runs" in done.stdout
