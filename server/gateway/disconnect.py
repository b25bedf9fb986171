"""Stop working for a client that has gone, or for all of them when the gateway's time is up."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable
from typing import TypeVar

from starlette.requests import ClientDisconnect
from starlette.types import Receive

from server.gateway.errors import ShuttingDown

Result = TypeVar("Result")


async def unless_disconnected(receive: Receive, work: Awaitable[Result], *, cut_off: asyncio.Event) -> Result:
    """The result of `work`, which is cancelled as soon as the client leaves. The body must have been read.

    Args:
        cut_off: `Drain.cut_off`.

    Raises:
        ClientDisconnect: the client left first.
        ShuttingDown: the gateway was cut off first.
    """
    working = asyncio.ensure_future(work)
    watching = asyncio.create_task(_disconnected(receive))
    ending = asyncio.create_task(cut_off.wait())
    try:
        await asyncio.wait({working, watching, ending}, return_when=asyncio.FIRST_COMPLETED)
        if working.done():
            return working.result()
        if ending.done():
            raise ShuttingDown("the server is shutting down; the request can be repeated elsewhere")
        raise ClientDisconnect
    finally:
        for task in (working, watching, ending):
            task.cancel()
        # Return only when the engine's connection is really closed.
        await asyncio.gather(working, watching, ending, return_exceptions=True)


async def _disconnected(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass
