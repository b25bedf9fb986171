"""What is written to a client's socket, and when."""

from __future__ import annotations

import asyncio
from typing import cast

from server.gateway.connection.joined_head import JoinedHead

HEAD = b"HTTP/1.1 200 OK\r\n\r\n"


class Written(asyncio.Transport):
    def __init__(self) -> None:
        super().__init__({"peername": "somebody"})
        self.raw: list[bytes] = []
        self.closed = False

    def write(self, data: bytes | bytearray | memoryview) -> None:
        self.raw.append(bytes(data))

    def close(self) -> None:
        self.closed = True


def joined() -> tuple[Written, JoinedHead]:
    written = Written()
    return written, JoinedHead(cast(asyncio.Transport, written))


async def test_a_head_waits_for_its_body() -> None:
    written, transport = joined()
    transport.write(HEAD)
    transport.write(b"one")
    transport.write(b"two")
    await asyncio.sleep(0)
    assert written.raw == [HEAD + b"one", b"two"]


async def test_a_head_without_a_body_goes_out_when_the_loop_turns() -> None:
    written, transport = joined()
    transport.write(HEAD)
    assert written.raw == []
    await asyncio.sleep(0)
    assert written.raw == [HEAD]


async def test_closing_sends_the_head() -> None:
    written, transport = joined()
    transport.write(HEAD)
    transport.close()
    await asyncio.sleep(0)
    assert (written.raw, written.closed) == ([HEAD], True)


async def test_everything_else_is_the_transports() -> None:
    _, transport = joined()
    assert transport.get_extra_info("peername") == "somebody"
