"""A small HTTP/1.1 client for many streams: per part of a body one call, and nothing else.

Written for measuring: a part is handed over in the moment in which the loop has read it.
"""

from __future__ import annotations

import asyncio
import errno
import ssl
from collections.abc import Callable
from dataclasses import dataclass
from typing import cast
from urllib.parse import urlsplit

import httptools

OWN_LIMIT = "client: "
"""Begins the kinds of errors that are this machine's, not the server's."""
_OWN_LIMITS = {
    errno.EMFILE: f"{OWN_LIMIT}no file descriptor left for a connection (ulimit -n)",
    errno.ENFILE: f"{OWN_LIMIT}no file descriptor left for a connection (fs.file-max)",
    errno.EADDRNOTAVAIL: f"{OWN_LIMIT}no local port left for a connection",
}
OnPart = Callable[[int, bytes], None]
"""Status and one part of the body."""


class WireError(Exception):
    """The connection failed; the message is the kind, short."""


@dataclass(frozen=True, slots=True)
class Target:
    host: str
    port: int
    tls: bool
    path: str
    """Before the API's own paths: without a slash at its end."""

    @classmethod
    def of(cls, url: str) -> Target:
        """
        Raises:
            ValueError: not an http(s) URL.
        """
        parts = urlsplit(url)
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise ValueError(f"a server's URL begins with http:// or https://. Given: {url}")
        tls = parts.scheme == "https"
        path = parts.path.rstrip("/").removesuffix("/v1")
        return cls(parts.hostname, parts.port or (443 if tls else 80), tls, path)

    def request(self, method: str, path: str, body: bytes = b"", *, headers: str = "") -> bytes:
        head = (
            f"{method} {self.path}{path} HTTP/1.1\r\nhost: {self.host}:{self.port}\r\n"
            f"content-type: application/json\r\naccept-encoding: identity\r\n"
            f"content-length: {len(body)}\r\n{headers}\r\n"
        )
        return head.encode() + body


class _Connection(asyncio.Protocol):
    def __init__(self) -> None:
        self.transport: asyncio.Transport
        self.usable = True
        self._parser = httptools.HttpResponseParser(self)
        self._ended: asyncio.Future[int] | None = None
        self._on_part: OnPart | None = None
        self._keeps = True
        self._until_cut = False
        """The answer's head is here, and its body ends with the connection."""
        self._framed = False

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast(asyncio.Transport, transport)

    def connection_lost(self, error: Exception | None) -> None:
        self.usable = False
        if error is None and self._until_cut:
            self.on_message_complete()
        self._fail(WireError("cut" if error is None else type(error).__name__))

    def data_received(self, data: bytes) -> None:
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserError:
            self._fail(WireError("not HTTP"))
            self.transport.abort()

    def on_message_begin(self) -> None:
        self._framed = self._until_cut = False

    def on_header(self, name: bytes, value: bytes) -> None:
        self._framed = self._framed or name.lower() in (b"content-length", b"transfer-encoding")

    def on_headers_complete(self) -> None:
        self._until_cut = not self._framed

    def on_body(self, part: bytes) -> None:
        if self._on_part is None:
            return
        try:
            self._on_part(self._parser.get_status_code(), part)
        except Exception as error:  # noqa: BLE001 - it is raised where the answer is awaited
            self._on_part = None
            self._fail(error)

    def on_message_complete(self) -> None:
        status = self._parser.get_status_code()
        self._keeps = self._parser.should_keep_alive() and not self._until_cut
        self._until_cut = False
        self._parser = httptools.HttpResponseParser(self)
        if self._ended is not None and not self._ended.done():
            self._ended.set_result(status)

    async def exchange(self, raw: bytes, on_part: OnPart) -> int:
        """Status of the answer, once it is complete.

        Raises:
            WireError
        """
        self._ended, self._on_part = asyncio.get_running_loop().create_future(), on_part
        if not self.usable:
            raise WireError("cut")
        self.transport.write(raw)
        try:
            return await self._ended
        except BaseException:
            self._keeps = False
            raise
        finally:
            self._ended = self._on_part = None
            if not self._keeps:
                self.usable = False
                self.transport.abort()

    def _fail(self, error: Exception) -> None:
        if self._ended is not None and not self._ended.done():
            self._ended.set_exception(error)


class Client:
    """Connections to one server, kept while they are good. Belongs to the running loop."""

    def __init__(self, target: Target, *, connect_timeout_s: float = 10.0) -> None:
        self._target = target
        self._connect_timeout_s = connect_timeout_s
        self._idle: list[_Connection] = []
        self._tls = ssl.create_default_context() if target.tls else None

    async def send(self, raw: bytes, on_part: OnPart) -> int:
        """Send a whole request; status of its answer, whose parts have gone to `on_part`.

        Raises:
            WireError
        """
        while self._idle:
            kept = self._idle.pop()
            if kept.usable:
                return await self._exchange(kept, raw, on_part)
        return await self._exchange(await self._connect(), raw, on_part)

    async def fetch(self, raw: bytes) -> tuple[int, bytes]:
        """Status and whole body. Raises: as `send`."""
        parts: list[bytes] = []
        status = await self.send(raw, lambda _, part: parts.append(part))
        return status, b"".join(parts)

    def close(self) -> None:
        for connection in self._idle:
            connection.transport.abort()
        self._idle.clear()

    async def _exchange(self, connection: _Connection, raw: bytes, on_part: OnPart) -> int:
        status = await connection.exchange(raw, on_part)
        if connection.usable:
            self._idle.append(connection)
        return status

    async def _connect(self) -> _Connection:
        loop = asyncio.get_running_loop()
        target = self._target
        try:
            async with asyncio.timeout(self._connect_timeout_s):
                _, connection = await loop.create_connection(
                    _Connection, target.host, target.port, ssl=self._tls
                )
        except TimeoutError:
            raise WireError("connect timeout") from None
        except OSError as error:
            raise WireError(_OWN_LIMITS.get(error.errno or 0, f"connect {type(error).__name__}")) from None
        return connection
