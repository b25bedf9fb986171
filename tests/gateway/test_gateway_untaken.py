"""Clients that take nothing of their answers."""

from __future__ import annotations

import asyncio
import json
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import httpx
import pytest
from structlog.testing import capture_logs

from server.gateway.connection import untaken
from tests.gateway.serving import eventually
from tests.gateway.stand_in import StandIn, running
from tests.gateway.test_gateway_chat import ASK
from tests.gateway.test_gateway_clients import CHAT, as_served

LONG = {1: "x" * 16_000_000}
"""By seed; more than systems keep on their own."""
BIG = ASK | {"max_completion_tokens": 900}
"""With its prompt, more than half of the engine below."""


@asynccontextmanager
async def asking(address: tuple[str, int]) -> AsyncIterator[socket.socket]:
    """The client's end of a connection on which a long stream comes."""
    loop = asyncio.get_running_loop()
    with socket.socket() as opened:
        opened.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        opened.setblocking(False)
        await loop.sock_connect(opened, address)
        body = json.dumps(BIG | {"stream": True, "seed": 1}).encode()
        head = f"POST {CHAT} HTTP/1.1\r\nhost: 127.0.0.1\r\ncontent-type: application/json\r\n"
        await loop.sock_sendall(opened, f"{head}content-length: {len(body)}\r\n\r\n".encode() + body)
        yield opened


async def test_who_takes_nothing_gives_its_room_back(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(untaken, "UNTAKEN_S", 0.2)
    with capture_logs() as logged:
        async with (
            running(StandIn(kv_blocks=100, answers=LONG)) as engine,
            as_served(engine.url, admission="on", admission_queue_timeout_s=10) as (host, port),
            httpx.AsyncClient(base_url=f"http://{host}:{port}", timeout=30) as other,
            asking((host, port)),
        ):
            await eventually(lambda: engine.bodies)
            assert (await other.post(CHAT, json=BIG)).status_code == 200
            ended = [line for line in logged if line.get("outcome")]
            assert [line["outcome"] for line in ended] == ["disconnected", "ok"]
    assert any(line["event"].startswith("client takes nothing") for line in logged)


async def test_who_reads_slowly_is_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    """So slowly that the server's own system takes nothing more for it meanwhile."""
    monkeypatch.setattr(untaken, "UNTAKEN_S", 0.5)
    loop = asyncio.get_running_loop()
    with capture_logs() as logged:
        async with (
            running(StandIn(answers=LONG)) as engine,
            as_served(engine.url) as address,
            asking(address) as opened,
        ):
            until = loop.time() + 6 * untaken.UNTAKEN_S
            while loop.time() < until:
                await loop.sock_recv(opened, 1000)
                await asyncio.sleep(0.02)
            assert not [line for line in logged if "outcome" in line]
