"""The gateway's side of a connection: limits on how long a request's headers may take and how large they may
be, and a word to its requests when it is lost.

uvicorn waits for them without end: a thousand clients that send a byte a minute would cost nothing and hold a
thousand connections. And it keeps all that comes: one client that sends nothing but header lines would take
the machine's memory, without a key. Bodies have their own limits (`body.py`), idle connections uvicorn's.
"""

from __future__ import annotations

from asyncio import TimerHandle, Transport
from typing import Any, cast

import orjson
from uvicorn.protocols.http.httptools_impl import STATUS_LINE, HttpToolsProtocol

from server.gateway.connection.disconnect import CLIENT_LEFT
from server.gateway.connection.drain import CutOff
from server.gateway.connection.joined_head import JoinedHead
from server.gateway.connection.untaken import ClosesUntaken
from server.gateway.connection.upgrades import IgnoresUpgrades
from server.gateway.errors import envelope
from server.gateway.settings import Settings

MOST_HEAD_BYTES = 64 * 1024
"""Of a request line and its headers; of what follows a chunked body, too."""
MOST_HEAD_LINES = 200
"""Headers and trailers of a request together."""


def http_protocol(settings: Settings) -> type[HttpToolsProtocol]:
    """For uvicorn's `http` setting."""

    class BoundedHeaders(IgnoresUpgrades, ClosesUntaken):
        _header_timer: TimerHandle | None = None
        _unread_bytes = 0
        """Received since something was last complete: a request, its headers, or a piece of its body."""
        _num_headers = 0
        """Of the request that is being read, without its trailers."""
        _head_is_too_large = False

        def connection_made(self, transport: Transport) -> None:  # type: ignore[override]
            super().connection_made(cast(Transport, JoinedHead(transport)))
            self._client_left = CutOff()
            self._start_header_timer()

        def data_received(self, data: bytes) -> None:
            self._unread_bytes += len(data)
            super().data_received(data)
            if self._unread_bytes > MOST_HEAD_BYTES and not self.transport.is_closing():
                self._answer_and_close(_too_large())

        def on_message_begin(self) -> None:
            super().on_message_begin()
            self.scope["state"][CLIENT_LEFT] = self._client_left
            self._start_header_timer()

        def on_headers_complete(self) -> None:
            # What one read has brought may be body for the most part: only then is it worth adding up.
            self._check_head(in_bytes=self._unread_bytes > MOST_HEAD_BYTES)
            self._num_headers = len(self.headers)
            self._stop_header_timer()
            super().on_headers_complete()

        def on_body(self, body: bytes) -> None:
            self._unread_bytes = 0
            super().on_body(body)

        def on_message_complete(self) -> None:
            self._check_head(in_bytes=len(self.headers) > self._num_headers)
            super().on_message_complete()

        def connection_lost(self, exc: Exception | None) -> None:
            self._stop_header_timer()
            super().connection_lost(exc)
            self._client_left.set()

        def send_400_response(self, msg: str) -> None:
            """What cannot be read, and what `_check_head` refuses."""
            if self._head_is_too_large:
                self._answer_and_close(_too_large())
            else:
                super().send_400_response(msg)

        def _check_head(self, *, in_bytes: bool) -> None:
            """Headers that are complete, or trailers. An exception is how a callback stops the parser."""
            if len(self.headers) > MOST_HEAD_LINES or (
                in_bytes
                and len(self.url) + sum(len(name) + len(value) for name, value in self.headers)
                > MOST_HEAD_BYTES
            ):
                self._head_is_too_large = True
                raise HeadTooLarge
            self._unread_bytes = 0

        def _start_header_timer(self) -> None:
            # The connection's first request began with the connection.
            if self._header_timer is None:
                self._header_timer = self.loop.call_later(settings.header_timeout_s, self._headers_late)

        def _stop_header_timer(self) -> None:
            if self._header_timer is not None:
                self._header_timer.cancel()
                self._header_timer = None

        def _headers_late(self) -> None:
            if not self.transport.is_closing():
                self._answer_and_close(_late(settings.header_timeout_s))

        def _answer_and_close(self, answer: bytes) -> None:
            """Nobody who waits for another answer, or has begun to get it, is to take this one for it."""
            cycle = self.cycle
            is_open = cycle is not None and not cycle.response_complete
            is_another = is_open and (
                cycle.scope is not self.scope or cycle.response_started or bool(self.pipeline)
            )
            if self.scope is not None and not is_another:
                self.transport.write(answer)
            self.transport.close()

    return BoundedHeaders


def uvicorn_options(settings: Settings) -> dict[str, Any]:
    """What the gateway needs of uvicorn, for `uvicorn.Config`."""
    return {
        "http": http_protocol(settings),
        "ws": "none",
        # Longer than clients keep idle connections: never close one just as it is used again.
        "timeout_keep_alive": 75,
        "server_header": False,
    }


class HeadTooLarge(Exception):
    """A request's headers, or its trailers, are more than is read."""


def _late(timeout_s: float) -> bytes:
    return _refusal(408, f"the request's headers must arrive within {timeout_s:g} s", "request_timeout")


def _too_large() -> bytes:
    limits = f"{MOST_HEAD_BYTES} bytes and {MOST_HEAD_LINES} lines"
    return _refusal(431, f"the request's headers and trailers must be <= {limits}", "headers_too_large")


def _refusal(status: int, message: str, code: str) -> bytes:
    body = orjson.dumps(envelope(message, type="invalid_request_error", param=None, code=code))
    length = b"content-length: %d\r\n" % len(body)
    head = STATUS_LINE[status] + b"content-type: application/json\r\n" + length + b"connection: close\r\n\r\n"
    return head + body
