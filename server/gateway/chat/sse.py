"""Server-sent events, both ways: splitting what an engine sends, and sending to a client."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from typing import Protocol

from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from server.gateway.apis.error_forms import error_event
from server.gateway.chat.bursts import Burst
from server.gateway.connection.disconnect import unless_disconnected
from server.gateway.connection.drain import CutOff
from server.gateway.errors import GatewayError, describe
from server.gateway.observe.observer import observer_of

DONE = b"[DONE]"
_MOST_KEPT = 64
"""Events of one write."""
SILENCE_S = 15.0
"""A stream that has begun and was silent from one look to the next gets a comment: proxies give up on it."""
_COMMENT = b":\n\n"
Failure = Callable[[Exception, Scope], bytes]
"""What a stream that has begun sends when it can't go on."""


class Emit(Protocol):
    def __call__(self, data: bytes, *, event: str | None = None) -> Awaitable[None]:
        """Send one event; `event` is its name, if it has one."""


def event_bytes(data: bytes, event: str | None = None) -> bytes:
    name = b"" if event is None else b"event: " + event.encode() + b"\n"
    return name + b"data: " + data + b"\n\n"


def told_as_error(error: Exception, scope: Scope) -> bytes:
    status, envelope = describe(error)
    return error_event(envelope, status, scope)


class EventSplitter:
    """Cuts a byte stream into the data of its events, wherever the chunks of the transport end.

    Works on bytes: no UTF-8 sequence holds a line-feed byte, so none can be cut wrongly.
    """

    def __init__(self) -> None:
        self._tail = b""
        self._data: list[bytes] = []

    def feed(self, chunk: bytes) -> list[bytes]:
        """The data of every event that `chunk` completes, in order."""
        *lines, self._tail = (self._tail + chunk).split(b"\n")
        events = []
        for line in lines:
            if line.endswith(b"\r"):
                line = line[:-1]
            if line.startswith(b"data:"):
                self._data.append(line[6:] if line.startswith(b"data: ") else line[5:])
            elif not line and self._data:
                events.append(b"\n".join(self._data))
                self._data = []
        return events


class EventStream(Response):
    """Sends what `produce` emits. Headers go out with the first event: what fails before it is a plain error.

    When the client leaves, or at `cut_off` (`Drain.cut_off`), `produce` is cancelled.
    """

    media_type = "text/event-stream"

    def __init__(
        self,
        produce: Callable[[Emit], Awaitable[None]],
        *,
        cut_off: CutOff,
        burst: Burst | None = None,
        headers: Mapping[str, str] | None = None,
        closing: bytes | None = DONE,
        failure: Failure = told_as_error,
    ) -> None:
        """
        Args:
            burst: while it is open, events are kept for one write.
            closing: data of the event after the last that `produce` emits; None for none.
        """
        super().__init__(headers={"cache-control": "no-cache", "x-accel-buffering": "no", **(headers or {})})
        del self.headers["content-length"]
        self._produce = produce
        self._cut_off = cut_off
        self._burst = burst or Burst()
        self._closing = closing
        self._failure = failure

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        writer = _Writer(send, self, self._burst)
        self._burst.write_at_close(writer.flush)
        try:
            await unless_disconnected(scope, receive, self._all(writer), cut_off=self._cut_off)
            return
        except GatewayError as error:
            if not writer.started:
                raise
            observer_of(scope).failed(error)
            last = self._failure(error, scope)
        finally:
            self._forget(writer)
        await writer.end(last)

    async def _all(self, writer: _Writer) -> None:
        await self._produce(writer.emit)
        self._forget(writer)
        # The end, too, may have to wait for the client, who may leave meanwhile.
        await writer.end(b"" if self._closing is None else event_bytes(self._closing))

    def _forget(self, writer: _Writer) -> None:
        self._burst.forget()
        writer.forget()


class _Writer:
    def __init__(self, send: Send, response: Response, burst: Burst) -> None:
        self._send = send
        self._response = response
        self._burst = burst
        self._kept: list[bytes] = []
        # Several choices emit at once; none may overtake the headers.
        self._turn = asyncio.Lock()
        self.started = False
        self._is_silent = False
        self._timer: asyncio.TimerHandle | None = None
        self._comment: asyncio.Task[None] | None = None

    async def emit(self, data: bytes, *, event: str | None = None) -> None:
        await self.write(event_bytes(data, event))

    async def write(self, raw: bytes) -> None:
        self._kept.append(raw)
        if not self._burst.is_open or len(self._kept) >= _MOST_KEPT:
            await self.flush()

    async def flush(self) -> None:
        # A lock that is free is taken without a step in between.
        async with self._turn:
            if self._kept:
                await self._write_out(more=True)

    async def end(self, last: bytes) -> None:
        """What is kept and `last` are the body's end."""
        async with self._turn:
            self._kept.append(last)
            await self._write_out(more=False)

    async def _write_out(self, *, more: bool) -> None:
        raw, self._kept = b"".join(self._kept), []
        self._is_silent = False
        if not self.started:
            self.started = True
            if more:
                self._listen()
            headers = self._response.raw_headers
            await self._send({"type": "http.response.start", "status": 200, "headers": headers})
        await self._send({"type": "http.response.body", "body": raw, "more_body": more})

    def _listen(self) -> None:
        self._is_silent = True
        self._timer = asyncio.get_running_loop().call_later(SILENCE_S, self._look)

    def _look(self) -> None:
        if self._is_silent and not self._turn.locked():
            self._comment = asyncio.create_task(self.write(_COMMENT))
        self._listen()

    def forget(self) -> None:
        """Nothing more is to be said."""
        for waiting in (self._timer, self._comment):
            if waiting is not None:
                waiting.cancel()
        self._timer = self._comment = None
