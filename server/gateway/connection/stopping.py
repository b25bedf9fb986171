"""How a process that serves the gateway ends: signals, the drain that they begin, and its limit."""

from __future__ import annotations

import asyncio
import contextlib
import functools
import signal
from collections.abc import Iterator

import uvicorn

from server.gateway.connection.drain import Drain
from server.gateway.settings import Settings

INTERRUPT_GRACE_S = 5
"""Open requests get this long after Ctrl-C; after SIGTERM, `drain_timeout_s`."""
CLOSING_S = 5
"""For the last bytes of requests that were cut off."""


class GatewayServer(uvicorn.Server):
    """uvicorn, but signals are ours: it would close its sockets at once and cancel what is open."""

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield


def drain_times_s(settings: Settings) -> dict[signal.Signals, tuple[float, float]]:
    """By signal: how long new connections are taken after it, and then how long open requests run on."""
    return {
        signal.SIGINT: (0, INTERRUPT_GRACE_S),
        signal.SIGTERM: (settings.drain_delay_s, settings.drain_timeout_s),
    }


def stop_on_signals(server: uvicorn.Server, drain: Drain, settings: Settings) -> None:
    """From now on the running loop's process drains at SIGINT and SIGTERM."""
    loop = asyncio.get_running_loop()
    for number, (delay_s, grace_s) in drain_times_s(settings).items():
        loop.add_signal_handler(
            number, functools.partial(stop, server, drain, delay_s=delay_s, grace_s=grace_s)
        )


def stop(server: uvicorn.Server, drain: Drain, *, delay_s: float, grace_s: float) -> None:
    """First signal: unready, then no new connections, then the end of open requests. Second: all at once."""
    loop = asyncio.get_running_loop()

    def close() -> None:
        server.should_exit = True

    if drain.draining:
        stop_at_once(server, drain)
        return
    drain.begin()
    loop.call_later(delay_s, close)
    loop.call_later(delay_s + grace_s, stop_at_once, server, drain)


def stop_at_once(server: uvicorn.Server, drain: Drain) -> None:
    server.should_exit = True
    drain.cut()
    asyncio.get_running_loop().call_later(CLOSING_S, _hang_up, server)


def _hang_up(server: uvicorn.Server) -> None:
    """On clients that don't even read their error."""
    for connection in list(server.server_state.connections):
        if connection.transport is not None:
            connection.transport.abort()
