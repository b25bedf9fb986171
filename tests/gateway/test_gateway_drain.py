"""SIGTERM under load, against the real process: nothing that was begun is lost, nothing new is let in."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import httpx

from server.engine.supervisor import free_port
from tests.gateway.serving import eventually
from tests.gateway.stand_in import Faults, StandIn, running
from tests.gateway.test_gateway_chat import ASK


@asynccontextmanager
async def gateway_process(engine_url: str, **settings: float) -> AsyncIterator[tuple[str, Any]]:
    port = free_port()
    argv = ["-m", "server.cli", "serve", "--port", str(port), "--engine-url", engine_url]
    environment = {**os.environ, **{f"S1_GATEWAY_{name.upper()}": str(v) for name, v in settings.items()}}
    process = await asyncio.create_subprocess_exec(sys.executable, *argv, env=environment)
    url = f"http://127.0.0.1:{port}"
    try:
        await ready(process, url)
        yield url, process
    finally:
        if process.returncode is None:
            process.kill()
        await process.wait()


async def ready(process: Any, url: str) -> None:
    async with asyncio.timeout(60), httpx.AsyncClient() as client:
        while process.returncode is None:
            try:
                if (await client.get(f"{url}/ready")).status_code == 200:
                    return
            except httpx.TransportError:
                await asyncio.sleep(0.05)
    raise AssertionError("the gateway ended before it was ready")


async def read_stream(client: httpx.AsyncClient, seed: int) -> list[dict[str, Any]]:
    body = ASK | {"stream": True, "seed": seed, "num_waits": 1}
    async with client.stream("POST", "/v1/chat/completions", json=body) as response:
        lines = [line.removeprefix("data: ") async for line in response.aiter_lines() if line]
    return [json.loads(line) for line in lines if line != "[DONE]"] + (
        [{"done": True}] if lines[-1] == "[DONE]" else []
    )


async def ask_whole(client: httpx.AsyncClient, seed: int) -> httpx.Response:
    return await client.post("/v1/chat/completions", json=ASK | {"seed": seed})


@asynccontextmanager
async def serving(faults: Faults, **settings: float) -> AsyncIterator[tuple[StandIn, httpx.AsyncClient, Any]]:
    """An engine, a client of a gateway process before it, and the process, which must end well."""
    async with (
        running(StandIn(faults=faults)) as engine,
        gateway_process(engine.url, **settings) as (url, process),
    ):
        async with httpx.AsyncClient(base_url=url, timeout=60) as client:
            yield engine, client, process
        assert await asyncio.wait_for(process.wait(), 30) == 0
        await eventually(lambda: engine.active == 0)


async def draining(client: httpx.AsyncClient) -> dict[str, Any]:
    """What /ready says once it says so."""
    async with asyncio.timeout(20):
        while True:
            state: dict[str, Any] = (await client.get("/ready")).json()
            if state["draining"]:
                return state


async def refused(url: httpx.URL) -> None:
    """Until no new connection is taken."""
    async with asyncio.timeout(20):
        while True:
            try:
                async with httpx.AsyncClient() as fresh:
                    await fresh.get(url)
            except httpx.TransportError:  # refused, or dropped while it waited to be accepted
                return


async def test_open_requests_run_to_their_end() -> None:
    async with serving(Faults(stall_after=3), drain_delay_s=0.5) as (engine, client, process):
        streams = [asyncio.create_task(read_stream(client, seed)) for seed in range(12)]
        await eventually(lambda: engine.active == 12)
        process.send_signal(signal.SIGTERM)
        assert (await draining(client))["ready"] is False
        await refused(client.base_url)
        engine.release.set()
        for chunks in await asyncio.gather(*streams):
            assert chunks[-1] == {"done": True}
            receipts = [choice.get("thinking_budget") for chunk in chunks[:-1] for choice in chunk["choices"]]
            assert receipts[-1]["waits"] == 1


async def test_what_outlasts_the_limit_is_told_so() -> None:
    async with serving(Faults(stall_after=0), drain_timeout_s=0.3) as (engine, client, process):
        whole = asyncio.create_task(ask_whole(client, 1))
        await eventually(lambda: engine.active == 1)
        engine.faults = Faults(stall_after=3)
        stream = asyncio.create_task(read_stream(client, 2))
        await eventually(lambda: engine.active == 2)
        process.send_signal(signal.SIGTERM)
        response, chunks = await asyncio.gather(whole, stream)
        assert response.status_code == 503
        assert response.json()["error"]["code"] == "shutting_down"
        assert chunks[-1]["error"]["code"] == "shutting_down"


async def test_a_second_signal_ends_all_at_once() -> None:
    async with serving(Faults(stall_after=3)) as (engine, client, process):
        stream = asyncio.create_task(read_stream(client, 1))
        await eventually(lambda: engine.active == 1)
        process.send_signal(signal.SIGTERM)
        await draining(client)
        process.send_signal(signal.SIGTERM)
        assert (await stream)[-1]["error"]["code"] == "shutting_down"
