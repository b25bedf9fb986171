"""HTTP/1.1 to one engine over kept connections, on httptools alone.

A general client does much that an engine needs not: cookies, redirects, proxies, decompression, a task and a
dozen objects for every request. docs/performance.md has what that costs.
"""

from __future__ import annotations

import asyncio
import base64
import socket
import ssl
from collections.abc import Mapping, Sequence
from types import TracebackType
from typing import Self, cast
from urllib.parse import unquote, urlsplit

import httptools

_IDLE_CONNECTION_S = 2.0
"""Less than the 5 s after which vLLM closes an idle connection: never send on one it is about to close."""
_MOST_UNREAD_BYTES = 256 * 1024
"""Of an answer whose reader is slower than the engine; then the engine has to wait."""
_COPIED_BYTES = 64 * 1024
"""What is longer is written as it is: many requests may share it, and uvloop keeps no copy of what waits."""
_KEEPALIVE_S = (("TCP_KEEPIDLE", 10), ("TCP_KEEPINTVL", 5), ("TCP_KEEPCNT", 3))
"""Notice within half a minute that an engine's machine has vanished: generation itself has no timeout."""


class ClientConnectorError(ConnectionError):
    """No connection could be made."""


class ServerDisconnectedError(ConnectionError):
    """The engine has closed the connection without an answer."""


class ClientPayloadError(ConnectionError):
    """The connection ended in the middle of an answer, or the answer is not HTTP."""


class Connections:
    """Those of one engine; as many as there are requests under way.

    Every failure is an OSError or a TimeoutError.
    """

    def __init__(self, url: str, *, connect_timeout_s: float) -> None:
        """
        Args:
            url: http(s)://HOST[:PORT][/PREFIX]
        """
        parts = urlsplit(url)
        tls = parts.scheme == "https"
        self._host, self._port = parts.hostname or "", parts.port or (443 if tls else 80)
        self._tls = ssl.create_default_context() if tls else None
        self._prefix = parts.path.rstrip("/")
        self._headers = _standing_headers(parts.netloc)
        self._connect_timeout_s = connect_timeout_s
        self._idle: list[Connection] = []
        self._sweeping: asyncio.TimerHandle | None = None

    async def ask(
        self,
        method: str,
        path: str,
        *,
        body: Sequence[bytes] = (),
        headers: Mapping[str, str] | None = None,
        keeps: bool = True,
        under_way: set[Connection] | None = None,
    ) -> Connection:
        """The connection on which the answer's head has come; use it as a context, and read the body from it.

        Args:
            body: its parts.
            keeps: whether the connection may serve another request afterwards.
            under_way: holds the connection from now on until it is left.

        Raises:
            ClientConnectorError, ServerDisconnectedError, ClientPayloadError, TimeoutError
        """
        request = self._request(method, path, body, headers or {}, keeps)
        connection = self._take_idle() if keeps else None
        if connection is not None:
            try:
                await connection.ask(request, keeps, under_way)
                return connection
            except ServerDisconnectedError:
                # The engine was closing this idle connection when it was reused, and has answered nothing.
                pass
        connection = await self._connect()
        await connection.ask(request, keeps, under_way)
        return connection

    def close(self) -> None:
        """Close the idle ones; the others close when they are left."""
        while self._idle:
            self._idle.pop().close()
        if self._sweeping is not None:
            self._sweeping.cancel()
            self._sweeping = None

    def _request(
        self, method: str, path: str, body: Sequence[bytes], headers: Mapping[str, str], keeps: bool
    ) -> Sequence[bytes]:
        """In the pieces in which it is written."""
        lines = [f"{method} {self._prefix}{path} HTTP/1.1\r\n{self._headers}"]
        for name, value in headers.items():
            if "\r" in value or "\n" in value:
                raise ValueError(f"{name}: a header has one line")
            lines.append(f"{name}: {value}\r\n")
        if method == "POST":
            lines.append(f"content-length: {sum(map(len, body))}\r\n")
        if not keeps:
            lines.append("connection: close\r\n")
        lines.append("\r\n")
        head = "".join(lines).encode("latin-1")
        if any(len(part) > _COPIED_BYTES for part in body):
            return [head, *body]
        return [b"".join((head, *body))]

    async def _connect(self) -> Connection:
        loop = asyncio.get_running_loop()
        try:
            async with asyncio.timeout(self._connect_timeout_s):
                _, connection = await loop.create_connection(
                    lambda: Connection(self, loop), self._host, self._port, ssl=self._tls
                )
        except TimeoutError:
            raise
        except OSError as error:
            raise ClientConnectorError(f"cannot connect to {self._host}:{self._port}: {error}") from error
        return connection

    def _take_idle(self) -> Connection | None:
        # The one used last: the others may become old.
        while self._idle:
            connection = self._idle.pop()
            if connection.usable_after(_IDLE_CONNECTION_S):
                return connection
            connection.close()
        return None

    def keep(self, connection: Connection) -> None:
        self._idle.append(connection)
        if self._sweeping is None:
            self._sweep_later()

    def forget(self, connection: Connection) -> None:
        if connection in self._idle:
            self._idle.remove(connection)

    def _sweep_later(self) -> None:
        self._sweeping = asyncio.get_running_loop().call_later(_IDLE_CONNECTION_S, self._sweep)

    def _sweep(self) -> None:
        self._sweeping = None
        old = [one for one in self._idle if not one.usable_after(_IDLE_CONNECTION_S)]
        for connection in old:
            self._idle.remove(connection)
            connection.close()
        if self._idle:
            self._sweep_later()


class Connection(asyncio.Protocol):
    """One connection, and the answer that comes on it now. As a context it is left at the end: kept for the
    next request if the answer has been read, else closed, which tells the engine that nobody reads on.
    """

    def __init__(self, pool: Connections, loop: asyncio.AbstractEventLoop) -> None:
        self._pool = pool
        self._loop = loop
        self._parser = httptools.HttpResponseParser(self)
        self._transport: asyncio.Transport
        self._news: asyncio.Future[None] | None = None
        self._idle_since = 0.0
        self._busy = False
        self._under_way: set[Connection] | None = None
        self._begin(keeps=False)

    def _begin(self, *, keeps: bool) -> None:
        self.status = 0
        """Of the answer; 0 until its head has come."""
        self._parts: list[bytes] = []
        self._unread_bytes = 0
        self._reading_paused = False
        self._informs = False
        self._has_length = False
        self._complete = False
        self._reusable = keeps
        self._failure: Exception | None = None

    async def ask(self, request: Sequence[bytes], keeps: bool, under_way: set[Connection] | None) -> None:
        """Send `request` and wait for the head of its answer. Raises: as `Connections.ask`."""
        self._begin(keeps=keeps)
        self._busy, self._under_way = True, under_way
        if under_way is not None:
            under_way.add(self)
        try:
            if self._transport.is_closing():
                raise ServerDisconnectedError("the engine has closed this connection")
            for piece in request:
                self._transport.write(piece)
            while not self.status:
                await self._wait()
        except BaseException:
            self.leave()
            raise

    async def part(self) -> bytes:
        """What has come of the body since; nothing at its end.

        Raises:
            ClientPayloadError, or what `fail` was given.
        """
        while not self._parts:
            if self._complete:
                return b""
            await self._wait()
        part = self._parts[0] if len(self._parts) == 1 else b"".join(self._parts)
        self._parts.clear()
        self._unread_bytes = 0
        if self._reading_paused:
            self._reading_paused = False
            self._transport.resume_reading()
        return part

    async def body(self) -> bytes:
        """All of it. Raises: as `part`."""
        parts = []
        while part := await self.part():
            parts.append(part)
        return parts[0] if len(parts) == 1 else b"".join(parts)

    def fail(self, error: Exception) -> None:
        """Let whoever reads have `error`."""
        self._failure = error
        self._tell()

    @property
    def waits(self) -> bool:
        """Whether it is the engine's turn, and not the reader's."""
        return not (self._complete or self._parts or self._reading_paused)

    def usable_after(self, idle_s: float) -> bool:
        return not self._transport.is_closing() and self._loop.time() - self._idle_since < idle_s

    def leave(self) -> None:
        if not self._busy:
            return
        self._busy = False
        if self._under_way is not None:
            self._under_way.discard(self)
        # One whose reading is paused would never hear the next answer.
        if self._complete and self._reusable and not (self._reading_paused or self._transport.is_closing()):
            self._idle_since = self._loop.time()
            self._pool.keep(self)
        else:
            self.close()

    def close(self) -> None:
        self._transport.abort()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.leave()

    async def _wait(self) -> None:
        """Until something has come. Raises what has failed."""
        if self._failure is not None:
            raise self._failure
        self._news = self._loop.create_future()
        try:
            await self._news
        finally:
            self._news = None

    def _tell(self) -> None:
        if self._news is not None and not self._news.done():
            self._news.set_result(None)

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)
        opened: socket.socket = transport.get_extra_info("socket")
        opened.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
        for option, value in _KEEPALIVE_S:
            # Not every system has all of them.
            if hasattr(socket, option):
                opened.setsockopt(socket.IPPROTO_TCP, getattr(socket, option), value)

    def data_received(self, data: bytes) -> None:
        if not self._busy or self._complete:
            # An answer that nobody has asked for.
            self._reusable = False
            self.close()
            return
        try:
            self._parser.feed_data(data)
        except (httptools.HttpParserError, httptools.HttpParserUpgrade) as error:
            self._failure = self._failure or ClientPayloadError(f"the engine doesn't speak HTTP/1.1: {error}")
            self.close()
        self._tell()

    def connection_lost(self, error: Exception | None) -> None:
        self._pool.forget(self)
        if self._busy and not self._complete and self._failure is None:
            if not self.status:
                self._failure = ServerDisconnectedError("the engine closed the connection without an answer")
            elif self._has_length or error is not None:
                self._failure = ClientPayloadError("the connection to the engine ended within its answer")
            else:
                # An answer without a length ends with its connection.
                self._complete = True
        # It knows this connection: together they would be a cycle, left to the garbage collector.
        del self._parser
        self._tell()

    def on_header(self, name: bytes, _: bytes) -> None:
        if name.lower() in (b"content-length", b"transfer-encoding"):
            self._has_length = True

    def on_headers_complete(self) -> None:
        status = self._parser.get_status_code()
        self._informs = status < 200
        if not self._informs:
            if self._complete:
                self._reusable = False
                return
            self.status = status

    def on_body(self, part: bytes) -> None:
        if self._complete:
            return
        self._parts.append(part)
        self._unread_bytes += len(part)
        if self._unread_bytes > _MOST_UNREAD_BYTES and not self._reading_paused:
            self._reading_paused = True
            self._transport.pause_reading()

    def on_message_complete(self) -> None:
        if self._informs:
            self._has_length = False
            return
        self._complete = True
        self._reusable = self._reusable and self._parser.should_keep_alive()


def strip_credentials(url: str) -> str:
    parts = urlsplit(url)
    return parts._replace(netloc=parts.netloc.rpartition("@")[2]).geturl()


def _standing_headers(netloc: str) -> str:
    credentials, _, host = netloc.rpartition("@")
    lines = [f"host: {host}", "accept: */*", "accept-encoding: identity", "user-agent: s1-server"]
    if credentials:
        given = base64.b64encode(unquote(credentials).encode()).decode()
        lines.append(f"authorization: Basic {given}")
    return "".join(f"{line}\r\n" for line in lines)
