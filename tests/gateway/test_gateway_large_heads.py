"""Clients that send more header lines, or longer ones, than a request needs."""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator, Iterator

import httpx
import pytest

from server.gateway.connection.protocol import MOST_HEAD_BYTES, MOST_HEAD_LINES
from tests.gateway.stand_in import StandIn
from tests.gateway.test_gateway_chat import ASK
from tests.gateway.test_gateway_clients import CHAT, HEAD, answer, as_served

LEAST_BYTES = 4 * 1024 * 1024
"""As much as a test is willing to send where the limit is 64 KiB."""
CHUNKED = HEAD + b"transfer-encoding: chunked\r\n\r\n2\r\n{}\r\n0\r\n"
READ_BYTES = 64 * 1024


async def send_without_end(address: tuple[str, int], first: bytes, again: bytes) -> int:
    """How many bytes the gateway takes before it hangs up."""
    reader, writer = await asyncio.open_connection(*address)
    writer.write(first)
    piece = again * (READ_BYTES // len(again) or 1)
    sent = 0
    with contextlib.suppress(ConnectionError):
        while sent < LEAST_BYTES and not reader.at_eof():
            writer.write(piece)
            await writer.drain()
            sent += len(piece)
            await asyncio.sleep(0)
    writer.transport.abort()
    return sent


@pytest.mark.parametrize(
    ("first", "again"),
    [
        pytest.param(b"GET /health HTTP/1.1\r\n", b"a: b\r\n", id="lines"),
        pytest.param(b"GET /health HTTP/1.1\r\na: ", b"b", id="a value"),
        pytest.param(b"GET /health HTTP/1.1\r\n", b"a", id="a name"),
        pytest.param(b"GET /", b"a", id="a path"),
        pytest.param(b"", b"\r\n", id="empty lines"),
        pytest.param(CHUNKED, b"a: b\r\n", id="trailers"),
        pytest.param(CHUNKED + b"a: ", b"b", id="a trailer's value"),
        pytest.param(CHUNKED[:-3] + b"2;", b"b", id="a chunk's extension"),
    ],
)
async def test_heads_without_end(engine: StandIn, first: bytes, again: bytes) -> None:
    async with as_served(engine.url) as address:
        assert await send_without_end(address, first, again) < LEAST_BYTES
    assert engine.bodies == []


def too_large() -> Iterator[tuple[str, bytes]]:
    lines = b"".join(b"a: %d\r\n" % i for i in range(MOST_HEAD_LINES + 1))
    value = b"a: " + b"b" * MOST_HEAD_BYTES + b"\r\n"
    yield "lines", b"GET /health HTTP/1.1\r\n" + lines + b"\r\n"
    yield "a value", b"GET /health HTTP/1.1\r\n" + value + b"\r\n"
    yield "a path", b"GET /" + b"a" * MOST_HEAD_BYTES + b" HTTP/1.1\r\n\r\n"
    yield "trailers", CHUNKED + lines + b"\r\n"
    yield "a trailer's value", CHUNKED + value + b"\r\n"
    yield "an unfinished value", b"GET /health HTTP/1.1\r\n" + value[:-2]


@pytest.mark.parametrize("sent", [pytest.param(sent, id=name) for name, sent in too_large()])
@pytest.mark.parametrize("earlier", [0, 1], ids=["new connection", "kept connection"])
async def test_a_head_that_is_too_large(engine: StandIn, sent: bytes, earlier: int) -> None:
    async with as_served(engine.url) as address:
        reader, writer = await asyncio.open_connection(*address)
        for _ in range(earlier):
            writer.write(b"GET /health HTTP/1.1\r\nhost: localhost\r\n\r\n")
            await reader.readuntil(b"}")
        writer.write(sent)
        status, headers, body = await answer(reader)
        assert (status, headers["connection"]) == (431, "close")
        error = json.loads(body)["error"]
        assert (error["type"], error["code"]) == ("invalid_request_error", "headers_too_large")
        assert str(MOST_HEAD_BYTES) in error["message"]
        assert str(MOST_HEAD_LINES) in error["message"]
        writer.close()
    assert engine.bodies == []


async def test_heads_within_the_limits(engine: StandIn) -> None:
    """As many of them as a connection likes, each counted for itself, and bodies not at all."""
    async with as_served(engine.url) as address:
        url = f"http://{address[0]}:{address[1]}"
        headers = {f"x-{i}": "v" * 300 for i in range(MOST_HEAD_LINES - 20)}
        long = {**ASK, "messages": [{"role": "user", "content": "x" * 3_000_000}]}
        async with httpx.AsyncClient(base_url=url, timeout=30) as client:
            for _ in range(3):
                assert (await client.post(CHAT, json=ASK, headers=headers)).status_code == 200
                assert (await client.post(CHAT, json=long, headers=headers)).status_code == 200

            async def in_chunks() -> AsyncIterator[bytes]:
                body = json.dumps(long).encode()
                for i in range(0, len(body), 1000):
                    yield body[i : i + 1000]

            json_type = {"content-type": "application/json"}
            response = await client.post(CHAT, content=in_chunks(), headers=headers | json_type)
            assert response.status_code == 200


async def test_many_small_requests_in_one_go(engine: StandIn) -> None:
    async with as_served(engine.url) as address:
        reader, writer = await asyncio.open_connection(*address)
        request = b"GET /health HTTP/1.1\r\nhost: localhost\r\nx: " + b"v" * 1000 + b"\r\n\r\n"
        writer.write(request * 199 + request.replace(b"host:", b"connection: close\r\nhost:"))
        answers = await reader.read()
        assert answers.count(b"HTTP/1.1 200 OK") == 200
        writer.close()


async def test_an_answer_under_way_is_not_spoilt(engine: StandIn) -> None:
    """The connection is closed without a word: it would be read as a part of the other request's answer."""
    async with as_served(engine.url) as address:
        engine.faults.stall_after = 0
        reader, writer = await asyncio.open_connection(*address)
        body = json.dumps(ASK | {"stream": True}).encode()
        writer.write(HEAD + b"content-length: %d\r\n\r\n" % len(body) + body)
        writer.write(b"GET /health HTTP/1.1\r\na: " + b"b" * 2 * MOST_HEAD_BYTES)
        assert b" 431 " not in await reader.read()
        engine.release.set()
        writer.close()
