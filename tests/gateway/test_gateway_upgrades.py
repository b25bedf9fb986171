"""Requests that offer HTTP/2, as those of Java's HTTP client and of `curl --http2` do, get HTTP/1.1."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Sequence

import pytest

from tests.gateway.stand_in import StandIn
from tests.gateway.test_gateway_chat import ASK
from tests.gateway.test_gateway_clients import HEAD, as_served

OFFER = b"connection: Upgrade, HTTP2-Settings\r\nupgrade: h2c\r\nhttp2-settings: AAMAAABkAAQBAAAAAAIAAAAA\r\n"
BODY = json.dumps(ASK).encode()
LENGTH = b"content-length: %d\r\n\r\n" % len(BODY)
CHUNKED = b"transfer-encoding: chunked\r\n\r\n"
HEALTH = b"GET /health HTTP/1.1\r\nhost: localhost\r\n"


def chunked(body: bytes) -> bytes:
    return b"%x\r\n%s\r\n%x\r\n%s\r\n0\r\n\r\n" % (9, body[:9], len(body) - 9, body[9:])


async def answers(address: tuple[str, int], packets: Sequence[bytes]) -> list[int]:
    """The statuses of what comes back until the connection ends, each packet being read for itself."""
    reader, writer = await asyncio.open_connection(*address)
    for packet in packets:
        writer.write(packet)
        await writer.drain()
        # Its first bytes may be read before the others are sent, or not: both are to be the same.
        await asyncio.sleep(0.05)
    writer.write(HEALTH + b"connection: close\r\n\r\n")
    received = await reader.read()
    writer.close()
    return [int(part[:3]) for part in received.split(b"HTTP/1.1 ")[1:]]


@pytest.mark.parametrize(
    "packets",
    [
        pytest.param([HEAD + OFFER + LENGTH + BODY], id="one packet"),
        pytest.param([HEAD + OFFER + LENGTH, BODY], id="two packets"),
        pytest.param([HEAD + OFFER + LENGTH, BODY[:7], BODY[7:]], id="a body in two"),
        pytest.param([HEAD + OFFER[:50], OFFER[50:] + LENGTH + BODY], id="a head in two"),
        pytest.param([HEAD + OFFER + CHUNKED + chunked(BODY)], id="chunked"),
        pytest.param([HEAD + OFFER + CHUNKED, chunked(BODY)], id="chunked, two packets"),
    ],
)
async def test_an_offer_of_another_protocol_is_ignored(engine: StandIn, packets: Sequence[bytes]) -> None:
    async with as_served(engine.url) as address:
        # The connection is kept, and one that was kept before is the same.
        assert await answers(address, [*packets, HEALTH + b"\r\n", *packets]) == [200] * 4
    assert [body["messages"] for body in engine.bodies] == [ASK["messages"]] * 2


async def test_offers_on_one_connection_without_waiting(engine: StandIn) -> None:
    both = HEAD + OFFER + LENGTH + BODY + HEALTH + OFFER + b"\r\n" + HEAD + LENGTH + BODY
    async with as_served(engine.url) as address:
        assert await answers(address, [both * 2]) == [200] * 7
    assert len(engine.bodies) == 4


async def test_a_client_that_waits_for_leave_to_send_its_body(engine: StandIn) -> None:
    async with as_served(engine.url) as address:
        reader, writer = await asyncio.open_connection(*address)
        writer.write(HEAD + OFFER + b"expect: 100-continue\r\n" + LENGTH)
        assert await reader.readuntil(b"\r\n\r\n") == b"HTTP/1.1 100 Continue\r\n\r\n"
        writer.write(BODY)
        assert (await reader.readline()).split()[1] == b"200"
        writer.close()


async def test_the_connection_is_closed_when_the_client_wants_it(engine: StandIn) -> None:
    async with as_served(engine.url) as address:
        for version, close in ((b"1.1", b"connection: close, upgrade\r\nupgrade: h2c\r\n"), (b"1.0", OFFER)):
            reader, writer = await asyncio.open_connection(*address)
            writer.write(HEAD.replace(b"1.1", version) + close + LENGTH)
            await asyncio.sleep(0.05)
            writer.write(BODY)
            assert (await reader.read()).startswith(b"HTTP/1.1 200 ")
            writer.close()


@pytest.mark.parametrize(
    ("head", "status"),
    [
        (b"GET /v1/realtime HTTP/1.1\r\nhost: localhost\r\n", 404),
        (b"GET /v1/chat/completions HTTP/1.1\r\nhost: localhost\r\n", 405),
        (HEALTH, 200),
    ],
)
async def test_websockets_are_not_spoken(engine: StandIn, head: bytes, status: int) -> None:
    offer = b"connection: Upgrade\r\nupgrade: websocket\r\nsec-websocket-key: eA==\r\n"
    async with as_served(engine.url) as address:
        assert await answers(address, [head + offer + b"\r\n"]) == [status, 200]


@pytest.mark.parametrize("offer", [b"", OFFER])
async def test_no_proxy(engine: StandIn, offer: bytes) -> None:
    async with as_served(engine.url) as address:
        reader, writer = await asyncio.open_connection(*address)
        writer.write(b"CONNECT localhost:80 HTTP/1.1\r\nhost: localhost:80\r\n" + offer + b"\r\n")
        assert (await reader.readline()).split()[1] == b"400"
        writer.close()
