"""Clients that are slow on purpose, and web pages."""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import httpx
import pytest
import uvicorn

from server.gateway.access.rates import HEADER_NAMES
from server.gateway.app import create_app
from server.gateway.connection.protocol import uvicorn_options
from server.gateway.settings import Settings
from tests.gateway.serving import eventually, gateway, running_server
from tests.gateway.stand_in import StandIn
from tests.gateway.test_gateway_chat import ASK
from tests.gateway.with_keys import KeysForTests

CHAT = "/v1/chat/completions"
HEAD = b"POST /v1/chat/completions HTTP/1.1\r\nhost: localhost\r\ncontent-type: application/json\r\n"


@contextlib.asynccontextmanager
async def as_served(engine_url: str, **settings: Any) -> AsyncIterator[tuple[str, int]]:
    """The gateway with the server's own uvicorn options."""
    chosen = Settings(
        engine_urls=(engine_url,), refresh_interval_s=0.02, starting_interval_s=0.01, **settings
    )
    app = create_app(chosen)
    config = uvicorn.Config(app, port=0, log_level="warning", **uvicorn_options(chosen))
    async with running_server(config) as url:
        await eventually(lambda: app.state.context.engines.ready)
        address = httpx.URL(url)
        assert address.port is not None
        yield address.host, address.port


async def answer(reader: asyncio.StreamReader) -> tuple[int, dict[str, str], bytes]:
    """Status, headers and body up to the connection's end."""
    head, _, body = (await reader.read()).partition(b"\r\n\r\n")
    lines = head.decode().split("\r\n")
    headers = dict(line.lower().split(": ", 1) for line in lines[1:])
    return int(lines[0].split()[1]), headers, body


@pytest.mark.parametrize("after", [b"POST", HEAD], ids=["first bytes", "some headers"])
@pytest.mark.parametrize("earlier", [0, 1], ids=["new connection", "kept connection"])
async def test_headers_that_trickle(engine: StandIn, after: bytes, earlier: int) -> None:
    async with as_served(engine.url, header_timeout_s=0.5) as address:
        reader, writer = await asyncio.open_connection(*address)
        for _ in range(earlier):
            writer.write(b"GET /health HTTP/1.1\r\nhost: localhost\r\n\r\n")
            await reader.readuntil(b"}")
        writer.write(after)
        status, headers, body = await answer(reader)
        assert status == 408
        assert headers["connection"] == "close"
        assert json.loads(body)["error"]["code"] == "request_timeout"
        assert "0.5 s" in json.loads(body)["error"]["message"]
        writer.close()


async def test_a_connection_that_says_nothing_is_closed(engine: StandIn) -> None:
    async with as_served(engine.url, header_timeout_s=0.5) as address:
        reader, writer = await asyncio.open_connection(*address)
        assert await reader.read() == b""
        writer.close()


async def test_a_body_that_trickles(engine: StandIn) -> None:
    async with as_served(engine.url, header_timeout_s=5, body_timeout_s=0.5) as address:
        reader, writer = await asyncio.open_connection(*address)
        writer.write(HEAD + b"content-length: 1000\r\n\r\n{")

        async def trickle() -> None:
            with contextlib.suppress(ConnectionError):
                while True:
                    writer.write(b" ")
                    # Rarely: a byte that reaches the closed connection would cost us the answer.
                    await asyncio.sleep(0.2)

        trickling = asyncio.create_task(trickle())
        status, headers, body = await answer(reader)
        trickling.cancel()
        assert status == 408
        assert headers["connection"] == "close"
        error = json.loads(body)["error"]
        assert (error["code"], error["param"]) == ("request_timeout", "body")
        assert "0.5 s" in error["message"]
        assert engine.bodies == []
        writer.close()


async def test_an_answer_may_take_as_long_as_it_takes(engine: StandIn) -> None:
    """The limits are for what clients send."""
    async with as_served(engine.url, header_timeout_s=0.5, body_timeout_s=0.5) as address:
        engine.faults.stall_after = 0
        async with httpx.AsyncClient(base_url=f"http://{address[0]}:{address[1]}") as client:
            asking = asyncio.create_task(client.post(CHAT, json=ASK))
            await eventually(lambda: engine.active == 1)
            # When a connection that was opened after it runs into the limits, it is past them.
            for late in (b"", HEAD + b"content-length: 9\r\n\r\n"):
                reader, writer = await asyncio.open_connection(*address)
                writer.write(late)
                await reader.read()
                writer.close()
            engine.release.set()
            assert (await asking).status_code == 200
            assert (await client.post(CHAT, json=ASK)).status_code == 200


ORIGIN = "https://app.example"
PREFLIGHT = {
    "origin": ORIGIN,
    "access-control-request-method": "POST",
    "access-control-request-headers": "authorization,content-type",
}


async def test_pages_may_not_call_by_default(
    client: httpx.AsyncClient, engine: StandIn, tmp_path: Path
) -> None:
    for response in (
        await client.post(CHAT, json=ASK, headers={"origin": ORIGIN}),
        await client.options(CHAT, headers=PREFLIGHT),
    ):
        assert response.status_code == 403
        assert not [name for name in response.headers if name.startswith("access-control")]
    keys = KeysForTests(tmp_path / "keys.json")
    ann = keys.add("ann")
    async with gateway(engine.url, keys_file=keys.path) as with_keys:
        response = await with_keys.post(CHAT, json=ASK, headers={**ann, "origin": ORIGIN})
        assert response.status_code == 200
        assert not [name for name in response.headers if name.startswith("access-control")]


async def test_pages_of_listed_origins_may(engine: StandIn, tmp_path: Path) -> None:
    keys = KeysForTests(tmp_path / "keys.json")
    ann = keys.add("ann", quotas={"requests_per_minute": 9})
    async with gateway(
        engine.url, cors_origins=f"{ORIGIN}, https://b.example", keys_file=keys.path
    ) as client:
        # A browser sends no key with the question whether it may.
        preflight = await client.options(CHAT, headers=PREFLIGHT)
        assert preflight.status_code == 200
        assert preflight.headers["access-control-allow-origin"] == ORIGIN
        assert "authorization" in preflight.headers["access-control-allow-headers"]
        for headers, status in ((ann, 200), ({}, 401)):
            response = await client.post(CHAT, json=ASK, headers={**headers, "origin": ORIGIN})
            assert response.status_code == status
            assert response.headers["access-control-allow-origin"] == ORIGIN
            assert "access-control-allow-credentials" not in response.headers
            exposed = response.headers["access-control-expose-headers"]
            assert {"x-request-id", "retry-after", *HEADER_NAMES} <= set(exposed.split(", "))
        other = await client.post(CHAT, json=ASK, headers={**ann, "origin": "https://evil.example"})
        assert "access-control-allow-origin" not in other.headers
