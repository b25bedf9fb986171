"""The HTTP client for engines, before a server that sends exactly the bytes a test says."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass, field

import pytest

from server.gateway.engines.engine_http import (
    ClientConnectorError,
    ClientPayloadError,
    Connection,
    Connections,
    ServerDisconnectedError,
)
from tests.gateway.serving import eventually

Answer = Callable[[asyncio.StreamWriter], Awaitable[None]]
OK = b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok"
CHUNKED = b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n"


@dataclass
class Peer:
    """Answers the k-th request with the k-th answer, and goes on with the last one."""

    answers: list[bytes | Answer]
    connections: int = 0
    requests: list[bytes] = field(default_factory=list)
    left: int = 0
    """Connections that the client has closed."""

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        try:
            while True:
                head = await reader.readuntil(b"\r\n\r\n")
                length = next(
                    (int(line[15:]) for line in head.split(b"\r\n") if line.startswith(b"content-length:")), 0
                )
                self.requests.append(head + await reader.readexactly(length))
                answer = self.answers[min(len(self.requests), len(self.answers)) - 1]
                if isinstance(answer, bytes):
                    writer.write(answer)
                else:
                    await answer(writer)
        except (asyncio.IncompleteReadError, ConnectionError):
            self.left += 1
        finally:
            writer.close()


@contextlib.asynccontextmanager
async def before(
    *answers: bytes | Answer, url: str = "http://HOST"
) -> AsyncIterator[tuple[Connections, Peer]]:
    peer = Peer(list(answers))
    server = await asyncio.start_server(peer.serve, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    connections = Connections(url.replace("HOST", f"127.0.0.1:{port}"), connect_timeout_s=5)
    async with server:
        yield connections, peer
        connections.close()


async def read(connections: Connections, method: str = "GET", path: str = "/x", body: bytes = b"") -> bytes:
    with await connections.ask(method, path, body=(body,)) as answer:
        assert answer.status == 200
        return await answer.body()


async def close(writer: asyncio.StreamWriter) -> None:
    writer.close()


async def silent(_: asyncio.StreamWriter) -> None:
    await asyncio.sleep(0)


async def test_requests_in_turn_share_a_connection_and_those_at_once_do_not() -> None:
    async with before(OK) as (connections, peer):
        for _ in range(3):
            assert await read(connections, "POST", body=b"{}") == b"ok"
        assert peer.connections == 1
        await asyncio.gather(*(read(connections) for _ in range(4)))
        assert peer.connections == 4


async def test_what_is_sent() -> None:
    async with before(OK, url="http://user:pass%20word@HOST/prefix/") as (connections, peer):
        await read(connections, "POST", "/v1?q=1", b'{"a":1}')
    head, _, body = peer.requests[0].partition(b"\r\n\r\n")
    first, *headers = head.decode().split("\r\n")
    assert (first, body) == ("POST /prefix/v1?q=1 HTTP/1.1", b'{"a":1}')
    assert "content-length: 7" in headers
    assert "accept-encoding: identity" in headers
    assert "authorization: Basic dXNlcjpwYXNzIHdvcmQ=" in headers
    assert next(line for line in headers if line.startswith("host: ")).startswith("host: 127.0.0.1:")


async def test_long_bodies_are_sent_in_the_pieces_in_which_others_share_them() -> None:
    shared = b"x" * 300_000
    async with before(OK) as (connections, peer):
        with await connections.ask("POST", "/x", body=(shared, b"own")) as answer:
            assert await answer.body() == b"ok"
    head, _, body = peer.requests[0].partition(b"\r\n\r\n")
    assert body == shared + b"own"
    assert head.endswith(b"\r\ncontent-length: 300003")


async def test_a_header_can_not_bring_another() -> None:
    async with before(OK) as (connections, peer):
        with pytest.raises(ValueError, match="tracestate"):
            await connections.ask("GET", "/x", headers={"tracestate": "a\r\nx-other: b"})
        assert peer.requests == []


async def test_a_connection_that_is_not_to_be_kept_says_so_and_is_not() -> None:
    async with before(OK) as (connections, peer):
        for _ in range(2):
            with await connections.ask("GET", "/x", keeps=False) as answer:
                await answer.body()
        assert peer.connections == 2
        assert all(b"\r\nconnection: close\r\n" in request for request in peer.requests)


async def test_an_engine_that_closes_after_its_answer_is_believed() -> None:
    async with before(OK.replace(b"\r\n\r\n", b"\r\nconnection: close\r\n\r\n")) as (connections, peer):
        assert [await read(connections), await read(connections)] == [b"ok", b"ok"]
        assert peer.connections == 2


async def test_chunks_come_as_they_are_cut_and_in_order() -> None:
    async def in_pieces(writer: asyncio.StreamWriter) -> None:
        raw = CHUNKED + b"3\r\nabc\r\n10\r\n0123456789abcdef\r\n0\r\n\r\n"
        for at in range(len(raw)):
            writer.write(raw[at : at + 1])
            await writer.drain()
            await asyncio.sleep(0)

    async with before(in_pieces, OK) as (connections, peer):
        parts = []
        with await connections.ask("GET", "/x") as answer:
            while part := await answer.part():
                parts.append(part)
        assert b"".join(parts) == b"abc0123456789abcdef"
        assert await read(connections) == b"ok"
        assert peer.connections == 1


async def test_an_answer_without_a_length_ends_with_its_connection() -> None:
    async def until_the_end(writer: asyncio.StreamWriter) -> None:
        writer.write(b"HTTP/1.0 200 OK\r\n\r\nall of it")
        writer.close()

    async with before(until_the_end) as (connections, _):
        assert await read(connections) == b"all of it"


async def test_what_comes_before_the_answer_is_not_the_answer() -> None:
    async with before(b"HTTP/1.1 100 Continue\r\n\r\n" + OK) as (connections, peer):
        assert [await read(connections), await read(connections)] == [b"ok", b"ok"]
        assert peer.connections == 1


@pytest.mark.parametrize("sent", [CHUNKED + b"3\r\nab", OK[:-1], CHUNKED])
async def test_an_answer_that_is_cut_is_no_answer(sent: bytes) -> None:
    async def cut(writer: asyncio.StreamWriter) -> None:
        writer.write(sent)
        writer.close()

    async with before(cut) as (connections, _):
        with pytest.raises(ClientPayloadError):
            await read(connections)


async def test_what_is_not_http_is_no_answer() -> None:
    async with before(b"SSH-2.0-OpenSSH_9.2\r\n") as (connections, _):
        with pytest.raises(ClientPayloadError, match="HTTP"):
            await read(connections)


async def test_a_kept_connection_that_was_just_closed_is_replaced_once() -> None:
    async with before(OK, close, OK) as (connections, peer):
        assert [await read(connections), await read(connections)] == [b"ok", b"ok"]
        assert (peer.connections, len(peer.requests)) == (2, 3)


async def test_a_new_connection_that_is_closed_without_an_answer_is_an_error_at_once() -> None:
    async with before(close) as (connections, peer):
        with pytest.raises(ServerDisconnectedError):
            await read(connections)
        assert len(peer.requests) == 1


async def test_a_kept_connection_that_says_something_unasked_is_not_used_again() -> None:
    written: list[asyncio.StreamWriter] = []

    async def keep(writer: asyncio.StreamWriter) -> None:
        written.append(writer)
        writer.write(OK)

    async with before(keep, OK) as (connections, peer):
        await read(connections)
        written[0].write(OK.replace(b"ok", b"no"))
        await eventually(lambda: peer.left == 1)
        assert await read(connections) == b"ok"
        assert peer.connections == 2


async def test_an_answer_too_many_with_the_answer_is_not_read() -> None:
    async with before(OK + OK.replace(b"ok", b"no"), OK) as (connections, peer):
        assert [await read(connections), await read(connections)] == [b"ok", b"ok"]
        assert peer.connections == 2


async def test_nobody_listens() -> None:
    async with before(OK) as (connections, _):
        pass
    with pytest.raises(ClientConnectorError, match=r"127\.0\.0\.1"):
        await read(connections)


async def test_leaving_an_answer_early_closes_its_connection() -> None:
    async def begin(writer: asyncio.StreamWriter) -> None:
        writer.write(CHUNKED + b"1\r\na\r\n")

    async with before(begin) as (connections, peer):
        with await connections.ask("GET", "/x") as answer:
            assert await answer.part() == b"a"
        await eventually(lambda: peer.left == 1)


async def test_giving_up_before_the_answer_closes_its_connection() -> None:
    async with before(silent) as (connections, peer):
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.05):
                await read(connections)
        await eventually(lambda: peer.left == 1)


async def test_a_reader_can_be_told_to_fail_before_and_within_an_answer() -> None:
    async def begin(writer: asyncio.StreamWriter) -> None:
        writer.write(CHUNKED + b"1\r\na\r\n")

    async with before(silent, begin) as (connections, peer):
        under_way: set[Connection] = set()
        for number in (1, 2):
            asked = asyncio.create_task(_whole(connections, under_way))
            await eventually(lambda expected=number: len(peer.requests) == expected)  # type: ignore[misc]
            if number == 2:
                await eventually(lambda: next(iter(under_way)).status == 200)
            for connection in under_way:
                connection.fail(ConnectionAbortedError("enough"))
            with pytest.raises(ConnectionAbortedError, match="enough"):
                await asked
            assert not under_way


async def _whole(connections: Connections, under_way: set[Connection]) -> bytes:
    with await connections.ask("POST", "/x", under_way=under_way) as answer:
        return await answer.body()


async def test_an_engine_that_is_faster_than_its_reader_has_to_wait() -> None:
    block, blocks = b"x" * 65_536, 512
    sent = 0

    async def much(writer: asyncio.StreamWriter) -> None:
        nonlocal sent
        writer.write(b"HTTP/1.1 200 OK\r\ncontent-length: %d\r\n\r\n" % (len(block) * blocks))
        for _ in range(blocks):
            writer.write(block)
            await writer.drain()
            sent += 1

    async with before(much) as (connections, _):
        with await connections.ask("GET", "/x") as answer:
            await eventually(lambda: answer._reading_paused)
            assert sent < blocks
            assert len(await answer.body()) == len(block) * blocks


async def test_a_connection_whose_reading_is_paused_is_not_kept() -> None:
    most = 262_144
    filled = asyncio.Event()

    async def one_byte_too_many(writer: asyncio.StreamWriter) -> None:
        writer.write(b"HTTP/1.1 200 OK\r\ncontent-length: %d\r\n\r\n" % (most + 1) + b"x" * most)
        await filled.wait()
        writer.write(b"x")

    async with before(one_byte_too_many, OK) as (connections, peer):
        with await connections.ask("GET", "/x") as answer:
            await eventually(lambda: answer._unread_bytes == most)
            filled.set()
            await eventually(lambda: answer._reading_paused)
            assert answer._complete
        async with asyncio.timeout(5):
            assert await read(connections) == b"ok"
        assert peer.connections == 2


async def test_it_is_the_engines_turn_while_there_is_nothing_to_read() -> None:
    going_on = asyncio.Event()

    async def in_turns(writer: asyncio.StreamWriter) -> None:
        writer.write(CHUNKED)
        await going_on.wait()
        writer.write(b"1\r\na\r\n")
        going_on.clear()
        await going_on.wait()
        writer.write(b"0\r\n\r\n")

    async with before(in_turns) as (connections, _):
        with await connections.ask("GET", "/x") as answer:
            assert answer.waits
            going_on.set()
            await eventually(lambda: not answer.waits)
            assert await answer.part() == b"a"
            assert answer.waits
            going_on.set()
            assert await answer.part() == b""
            assert not answer.waits
