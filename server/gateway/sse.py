"""Server-sent events, both ways: splitting what an engine sends, and sending to a client."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping

import orjson
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from server.gateway.disconnect import unless_disconnected
from server.gateway.errors import GatewayError, describe

DONE = b"[DONE]"
Emit = Callable[[bytes], Awaitable[None]]


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
        cut_off: asyncio.Event,
        headers: Mapping[str, str] | None = None,
    ) -> None:
        super().__init__(headers={"cache-control": "no-cache", "x-accel-buffering": "no", **(headers or {})})
        del self.headers["content-length"]
        self._produce = produce
        self._cut_off = cut_off

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        writer = _Writer(send, self)
        try:
            await unless_disconnected(receive, self._produce(writer.emit), cut_off=self._cut_off)
            await writer.emit(DONE)
        except GatewayError as error:
            if not writer.started:
                raise
            await writer.emit(orjson.dumps(describe(error)[1]))
        await send({"type": "http.response.body", "body": b"", "more_body": False})


class _Writer:
    def __init__(self, send: Send, response: Response) -> None:
        self._send = send
        self._response = response
        # Several choices emit at once; none may overtake the headers.
        self._turn = asyncio.Lock()
        self.started = False

    async def emit(self, event: bytes) -> None:
        async with self._turn:
            if not self.started:
                self.started = True
                headers = self._response.raw_headers
                await self._send({"type": "http.response.start", "status": 200, "headers": headers})
            await self._send(
                {"type": "http.response.body", "body": b"data: " + event + b"\n\n", "more_body": True}
            )
