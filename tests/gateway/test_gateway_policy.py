"""The policy in force: clamps on receipts and headers, refusals, and a reload that no stream notices."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import subprocess
import sys
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest

from server.engine.supervisor import free_port
from tests.gateway.serving import eventually, gateway
from tests.gateway.stand_in import Faults, StandIn, running
from tests.gateway.test_gateway_chat import ASK

PATH = "/v1/chat/completions"
STREAMS = 100


@asynccontextmanager
async def ruled(tmp_path: Path, policy: str) -> AsyncIterator[tuple[httpx.AsyncClient, StandIn]]:
    """A gateway with a policy, before the stand-in."""
    file = tmp_path / "policy.yaml"
    file.write_text(policy)
    async with running(StandIn()) as engine, gateway(engine.url, policy_file=file) as client:
        yield client, engine


async def answered(client: httpx.AsyncClient, **fields: Any) -> tuple[dict[str, Any], httpx.Headers]:
    response = await client.post(PATH, json=ASK | fields)
    assert response.status_code == 200, response.text
    return response.json()["choices"][0]["thinking_budget"], response.headers


def budget_headers(headers: httpx.Headers) -> dict[str, str]:
    prefix = "x-thinking-budget-"
    return {name.removeprefix(prefix): value for name, value in headers.items() if name.startswith(prefix)}


LADDER = """
server:
  cap: {max_thinking_tokens: 6, num_waits: 1}
models:
  tiny:
    cap: {max_thinking_tokens: 4}
    effort: {high: 3, low: 10%}
"""


@pytest.mark.parametrize("stream", [False, True], ids=["whole", "stream"])
async def test_what_was_clamped_is_told(tmp_path: Path, stream: bool) -> None:
    async with ruled(tmp_path, LADDER) as (client, engine):
        asked = {"max_thinking_tokens": 5, "num_waits": 3, "stream": stream}
        response = await client.post(PATH, json=ASK | asked)
        last = response.text.split("data: ")[-2] if stream else response.text
        receipt = json.loads(last)["choices"][0]["thinking_budget"]
        assert receipt["requested"] == {"max_thinking_tokens": 5, "num_waits": 3}
        assert receipt["effective"] == {"min": 0, "max": 4, "num_waits": 1}
        assert receipt["thinking_tokens"] == 4
        assert receipt["clamped_by"] == ["policy:server", "policy:model"]
        assert budget_headers(response.headers) == {
            "max": "4",
            "min": "0",
            "num-waits": "1",
            "clamped-by": "policy:server, policy:model",
        }
        assert engine.bodies[-1]["vllm_xargs"].items() >= {("max_thinking_tokens", 4), ("num_waits", 1)}


async def test_a_cap_holds_for_requests_without_a_budget(tmp_path: Path) -> None:
    async with ruled(tmp_path, LADDER) as (client, engine):
        receipt, headers = await answered(client)
        assert receipt["thinking_tokens"] == receipt["effective"]["max"] == 4
        assert receipt["requested"] == {}
        assert receipt["clamped_by"] == []
        assert budget_headers(headers) == {"max": "4", "min": "0", "num-waits": "0"}
        receipt, headers = await answered(client, thinking_token_budget=-1)
        assert receipt["clamped_by"] == ["policy:model"]
        assert receipt["effective"]["max"] == 4


async def test_the_room_clamps_further_and_only_the_receipt_knows(tmp_path: Path) -> None:
    async with ruled(tmp_path, LADDER) as (client, engine):
        receipt, headers = await answered(client, max_thinking_tokens=9, max_completion_tokens=12)
        assert receipt["effective"]["max"] == 1
        assert receipt["clamped_by"] == ["policy:model", "max_completion_tokens"]
        assert headers["x-thinking-budget-max"] == "4"
        # Nothing was asked for, so nothing was taken.
        receipt, _ = await answered(client, max_completion_tokens=12)
        assert (receipt["effective"]["max"], receipt["clamped_by"]) == (1, [])


async def test_a_request_too_small_for_any_budget_is_served_if_it_cannot_exceed_the_cap(
    tmp_path: Path,
) -> None:
    async with ruled(tmp_path, LADDER) as (client, engine):
        receipt, headers = await answered(client, max_tokens=3)
        assert receipt["effective"] is None
        assert budget_headers(headers) == {}
        response = await client.post(PATH, json=ASK | {"max_tokens": 5})
        assert response.status_code == 400
        assert response.json()["error"]["param"] == "max_tokens"


async def test_efforts_are_the_models(tmp_path: Path) -> None:
    async with ruled(tmp_path, LADDER) as (client, engine):
        for effort, room, left, clamped in (
            ("high", 100, 3, []),
            ("low", 20, 2, []),
            ("low", 100, 4, ["policy:model"]),
        ):
            receipt, _ = await answered(client, reasoning_effort=effort, max_completion_tokens=room)
            assert (receipt["effective"]["max"], receipt["clamped_by"]) == (left, clamped)


async def test_an_effort_leaves_the_answer_what_the_policy_reserves(tmp_path: Path) -> None:
    async with ruled(tmp_path, "server: {default: {answer_reserve_tokens: 90}}") as (client, engine):
        receipt, _ = await answered(client, reasoning_effort="max", max_completion_tokens=100)
        assert (receipt["effective"]["max"], receipt["clamped_by"]) == (2, [])


async def test_a_policys_reserve_never_makes_a_request_fail(tmp_path: Path) -> None:
    policy = "server: {default: {answer_reserve_tokens: 90, num_waits: 1}}"
    async with ruled(tmp_path, policy) as (client, engine):
        for room, reserve in ((98, 90), (97, None), (20, None)):
            for fields in ({}, {"max_thinking_tokens": 3}, {"reasoning_effort": "low"}):
                await answered(client, max_completion_tokens=room, **fields)
                assert engine.bodies[-1]["vllm_xargs"].get("answer_reserve_tokens") == reserve, fields
        receipt, _ = await answered(client, max_completion_tokens=20, reasoning_effort="low")
        assert receipt["effective"]["max"] == 4
        receipt, _ = await answered(client, max_completion_tokens=3)
        assert receipt["effective"] is None
        refused = await client.post(PATH, json=ASK | {"max_tokens": 20, "answer_reserve_tokens": 50})
        assert refused.json()["error"]["param"] == "answer_reserve_tokens"


async def test_defaults_fill_what_is_left_out(tmp_path: Path) -> None:
    policy = "server: {default: {max_thinking_tokens: 20, num_waits: 2}, floor: {min_thinking_tokens: 9}}"
    async with ruled(tmp_path, policy) as (client, engine):
        receipt, headers = await answered(client)
        assert receipt["effective"] == {"min": 9, "max": 20, "num_waits": 2}
        assert (receipt["waits"], receipt["requested"], receipt["clamped_by"]) == (2, {}, [])
        receipt, _ = await answered(client, num_waits=0, min_thinking_tokens=3)
        assert receipt["effective"] == {"min": 9, "max": 20, "num_waits": 0}
        assert receipt["clamped_by"] == ["policy:server"]
        receipt, _ = await answered(client, enable_thinking=False)
        assert (receipt["thinking_tokens"], receipt["effective"]["max"]) == (0, 0)


async def test_strict_refuses_by_the_clients_own_name(tmp_path: Path) -> None:
    async with ruled(tmp_path, "server: {strict: true, cap: {max_thinking_tokens: 6}}") as (client, engine):
        for fields, param in (
            ({"max_thinking_tokens": 7}, "max_thinking_tokens"),
            ({"reasoning": {"max_tokens": 7}}, "reasoning.max_tokens"),
        ):
            error = (await client.post(PATH, json=ASK | fields)).json()["error"]
            assert error["param"] == param
            assert error["message"] == (
                f"`{param}` must be <= 6, the policy's limit for this server (policy:server). Given: 7"
            )
        receipt, _ = await answered(client, max_thinking_tokens=6)
        assert receipt["clamped_by"] == []
        receipt, _ = await answered(client, reasoning_effort="max")
        assert receipt["clamped_by"] == ["policy:server"]


async def test_a_beam_search_takes_no_budget_of_the_policys_either(tmp_path: Path) -> None:
    async with ruled(tmp_path, LADDER) as (client, engine):
        response = await client.post(PATH, json=ASK | {"use_beam_search": True, "n": 2})
        assert response.json()["error"]["param"] == "use_beam_search"
        assert "`max_thinking_tokens` (4)" in response.json()["error"]["message"]


# -- reload -------------------------------------------------------------------------------------------


@contextmanager
def served(tmp_path: Path, engine_url: str, policy: Path) -> Iterator[tuple[str, Any, Path]]:
    """`s1 serve --policy` as a process of its own, the only one that a signal can be sent to."""
    port = free_port()
    argv = [sys.executable, "-m", "server.cli", "serve", "--port", str(port), "--engine-url", engine_url]
    log = tmp_path / "serve.log"
    with log.open("wb") as output:
        process = subprocess.Popen(
            [*argv, "--policy", str(policy)], stdout=output, stderr=subprocess.STDOUT, env=dict(os.environ)
        )
    try:
        yield f"http://127.0.0.1:{port}", process, log
    finally:
        process.terminate()
        process.wait(20)


async def until_ready(client: httpx.AsyncClient, process: Any, log: Path) -> None:
    def told() -> str:
        return log.read_text()

    async with asyncio.timeout(60):
        while True:
            assert process.poll() is None, told()
            try:
                if (await client.get("/ready")).status_code == 200:
                    return
            except httpx.TransportError:
                pass
            await asyncio.sleep(0.05)


async def stream(client: httpx.AsyncClient) -> dict[str, Any]:
    """The receipt of one stream; fails if it ends early."""
    events = []
    body = ASK | {"stream": True, "max_thinking_tokens": 50}
    async with client.stream("POST", PATH, json=body) as response:
        assert response.status_code == 200
        async for line in response.aiter_lines():
            if line.startswith("data: "):
                events.append(line.removeprefix("data: "))
    assert events[-1] == "[DONE]"
    return json.loads(events[-2])["choices"][0]["thinking_budget"]


async def test_a_reload_under_open_streams_drops_none_and_a_broken_file_changes_nothing(
    tmp_path: Path,
) -> None:
    policy = tmp_path / "policy.yaml"
    policy.write_text("server: {cap: {max_thinking_tokens: 6}}")
    limits = httpx.Limits(max_connections=None)
    async with running(StandIn()) as engine:
        with served(tmp_path, engine.url, policy) as (url, process, log):
            async with httpx.AsyncClient(base_url=url, timeout=60, limits=limits) as client:
                await until_ready(client, process, log)
                engine.faults = Faults(stall_after=2)
                streams = [asyncio.create_task(stream(client)) for _ in range(STREAMS)]
                await eventually(lambda: engine.active == STREAMS)
                engine.faults = Faults()

                policy.write_text("server: {cap: {max_thinking_tokens: 3}}")
                process.send_signal(signal.SIGHUP)
                await eventually(lambda: "policy reloaded" in log.read_text())
                assert (await answered(client, max_thinking_tokens=50))[0]["effective"]["max"] == 3

                policy.write_text("server:\n  cap:\n    max_thinking_tokens: lots\n")
                process.send_signal(signal.SIGHUP)
                await eventually(lambda: "policy not reloaded" in log.read_text())
                text = log.read_text()
                assert f"{policy}:3: server.cap.max_thinking_tokens must be an integer. Given: 'lots'" in text
                assert (await client.get("/health")).status_code == 200
                assert (await client.get("/ready")).status_code == 200
                assert (await answered(client, max_thinking_tokens=50))[0]["effective"]["max"] == 3

                # Without a word to the process, too.
                policy.write_text("server: {cap: {max_thinking_tokens: 5}}")
                await eventually(lambda: log.read_text().count("changed=True") == 2)
                assert (await answered(client, max_thinking_tokens=50))[0]["effective"]["max"] == 5

                assert engine.active == STREAMS
                engine.release.set()
                receipts = await asyncio.gather(*streams)
        assert engine.cancelled == 0
    # Those that had begun kept the policy they began with.
    assert [receipt["effective"]["max"] for receipt in receipts] == [6] * STREAMS
    assert {receipt["thinking_tokens"] for receipt in receipts} == {6}


def test_a_broken_policy_stops_the_start(tmp_path: Path) -> None:
    policy = tmp_path / "policy.yaml"
    policy.write_text("server: {caps: {}}")
    argv = [sys.executable, "-m", "server.cli", "serve", "--engine-url", "http://127.0.0.1:9"]
    environment = {**os.environ, "S1_GATEWAY_POLICY_FILE": str(policy)}
    done = subprocess.run(argv, capture_output=True, text=True, timeout=60, env=environment)
    assert done.returncode == 2
    assert f"{policy}:1: server.caps is not a field that is known here" in done.stderr
