"""The gateway's side of a connection: a limit on how long it may take to send a request's headers, and a word
to its requests when it is lost.

uvicorn waits for them without end: a thousand clients that send a byte a minute would cost nothing and hold a
thousand connections. Bodies have their own limit (`body.py`), idle connections uvicorn's.
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
from server.gateway.errors import envelope
from server.gateway.settings import Settings


def http_protocol(settings: Settings) -> type[HttpToolsProtocol]:
    """For uvicorn's `http` setting."""

    class TimelyHeaders(ClosesUntaken):
        _header_timer: TimerHandle | None = None

        def connection_made(self, transport: Transport) -> None:  # type: ignore[override]
            super().connection_made(cast(Transport, JoinedHead(transport)))
            self._client_left = CutOff()
            self._start_header_timer()

        def on_message_begin(self) -> None:
            super().on_message_begin()
            self.scope["state"][CLIENT_LEFT] = self._client_left
            self._start_header_timer()

        def on_headers_complete(self) -> None:
            self._stop_header_timer()
            super().on_headers_complete()

        def connection_lost(self, exc: Exception | None) -> None:
            self._stop_header_timer()
            super().connection_lost(exc)
            self._client_left.set()

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
                if self.scope is not None:
                    self.transport.write(_late(settings.header_timeout_s))
                self.transport.close()

    return TimelyHeaders


def uvicorn_options(settings: Settings) -> dict[str, Any]:
    """What the gateway needs of uvicorn, for `uvicorn.Config`."""
    return {
        "http": http_protocol(settings),
        "ws": "none",
        # Longer than clients keep idle connections: never close one just as it is used again.
        "timeout_keep_alive": 75,
        "server_header": False,
    }


def _late(timeout_s: float) -> bytes:
    body = orjson.dumps(
        envelope(
            f"the request's headers must arrive within {timeout_s:g} s",
            type="invalid_request_error",
            param=None,
            code="request_timeout",
        )
    )
    length = b"content-length: %d\r\n" % len(body)
    head = STATUS_LINE[408] + b"content-type: application/json\r\n" + length + b"connection: close\r\n\r\n"
    return head + body
