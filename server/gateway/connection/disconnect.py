"""Stop working for a client that has gone, or for all of them when the gateway's time is up."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable
from typing import TypeVar

from starlette.requests import ClientDisconnect
from starlette.types import Receive, Scope

from server.gateway.connection.drain import CutOff
from server.gateway.errors import ShuttingDown

Result = TypeVar("Result")


CLIENT_LEFT = "client_left"
"""In a request's `state`: the moment (`CutOff`) at which its connection is lost, where the server tells."""


async def unless_disconnected(
    scope: Scope, receive: Receive, work: Awaitable[Result], *, cut_off: CutOff
) -> Result:
    """The result of `work`, which is cancelled as soon as the client leaves. The body must have been read.

    Args:
        cut_off: `Drain.cut_off`.

    Raises:
        ClientDisconnect: the client left first.
        ShuttingDown: the gateway was cut off first.
    """
    left: CutOff | None = scope.get("state", {}).get(CLIENT_LEFT)
    if left is not None:
        return await _unless(left, work, cut_off)
    # Another server than ours only says so to whoever asks: that is another task, the work stays this one's.
    left = CutOff()
    watching = asyncio.create_task(_disconnected(receive, left))
    try:
        return await _unless(left, work, cut_off)
    finally:
        watching.cancel()


async def _unless(left: CutOff, work: Awaitable[Result], cut_off: CutOff) -> Result:
    stopping = _Stopping()
    with left.calling(stopping.client_left), cut_off.calling(stopping.cut_off):
        try:
            return await work
        except asyncio.CancelledError:
            # Somebody else's cancellation goes on.
            if not stopping.undone() or stopping.why is None:
                raise
            raise stopping.why from None
        finally:
            stopping.end()


class _Stopping:
    """Cancels the task it was made in, once, as `asyncio.timeout` does: it stays the one that is told why."""

    def __init__(self) -> None:
        self._task = asyncio.current_task()
        self._before = self._task.cancelling() if self._task is not None else 0
        self._ended = False
        self._undone = False
        self.why: Exception | None = None

    def client_left(self) -> None:
        self._stop(ClientDisconnect())

    def cut_off(self) -> None:
        self._stop(
            ShuttingDown("the server is shutting down; the request can be repeated elsewhere"),
        )

    def undone(self) -> bool:
        """Take the cancellation back; False if somebody else has cancelled the task, too."""
        if self.why is None or self._task is None or self._undone:
            return False
        self._undone = True
        return self._task.uncancel() <= self._before

    def end(self) -> None:
        self._ended = True
        self.undone()

    def _stop(self, why: Exception) -> None:
        if self.why is None and not self._ended and self._task is not None:
            self.why = why
            self._task.cancel()


async def _disconnected(receive: Receive, left: CutOff) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass
    left.set()
