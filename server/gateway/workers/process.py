"""One worker: `python -m server.gateway.workers.process`, told what to be in a line on its stdin.

stdin stays open as long as the process that started it lives; its end ends the worker.
"""

from __future__ import annotations

import asyncio
import os
import shutil
import signal
import socket
import sys
from pathlib import Path
from typing import Self

import structlog
import uvicorn
import uvloop

from server.garbage import rarely_collect_garbage
from server.gateway.app import create_app
from server.gateway.connection.drain import Drain
from server.gateway.connection.protocol import uvicorn_options
from server.gateway.connection.stopping import GatewayServer, stop_at_once, stop_on_signals
from server.gateway.engines.pool import EnginePool
from server.gateway.settings import SettingsError
from server.gateway.workers.fleet import Here, Together
from server.gateway.workers.inside import answering
from server.gateway.workers.order import Order
from server.logs import configure_logging

_WARM_S = 15
"""So long a worker that replaces another waits for an engine before it takes clients: others take them."""
_POLL_S = 0.05
_ORPHAN_S = 15
"""A worker whose starter is gone has ended by then, whatever it has open."""


def main() -> None:
    order = Order.model_validate_json(sys.stdin.buffer.readline())
    configure_logging(order.settings.log_format)
    structlog.contextvars.bind_contextvars(worker=order.index)
    try:
        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            runner.run(_serve(order))
    except SettingsError as error:
        structlog.get_logger(__name__).error("worker can't start", reason=str(error))
        sys.exit(1)


async def _serve(order: Order) -> None:
    settings = order.settings
    pool = _WarmPool(settings) if order.replaces else EnginePool(settings)
    together = Together(str(order.hub_socket), settings)
    app = create_app(settings, engines=pool, background=[together.running], fleet=together)
    context = app.state.context
    server = GatewayServer(
        uvicorn.Config(app, log_level="warning", access_log=False, **uvicorn_options(settings))
    )
    stop_on_signals(server, context.drain, settings)
    loop = asyncio.get_running_loop()
    if settings.policy_file is not None:
        loop.add_signal_handler(signal.SIGHUP, context.policy.reload)
    await loop.connect_read_pipe(lambda: _Starter(server, context.drain, order.hub_socket.parent), sys.stdin)
    rarely_collect_garbage()
    listener = socket.socket(fileno=order.listener_fd)
    async with answering(
        Here(context), context.observatory, order.own_socket, listening=lambda: server.started
    ):
        await server.serve(sockets=[listener])


class _WarmPool(EnginePool):
    """Entered once an engine is ready, or when it has taken too long."""

    async def __aenter__(self) -> Self:
        await super().__aenter__()
        try:
            async with asyncio.timeout(_WARM_S):
                while not self.ready:  # noqa: ASYNC110 - the pool's state is polled by design
                    await asyncio.sleep(_POLL_S)
        except TimeoutError:
            structlog.get_logger(__name__).warning("no engine was ready in time", waited_s=_WARM_S)
        return self


class _Starter(asyncio.Protocol):
    """The process that started this one, as its end of our stdin."""

    def __init__(self, server: uvicorn.Server, drain: Drain, sockets: Path) -> None:
        """
        Args:
            sockets: the directory that it would have removed.
        """
        self._server = server
        self._drain = drain
        self._sockets = sockets

    def connection_lost(self, error: Exception | None) -> None:
        shutil.rmtree(self._sockets, ignore_errors=True)
        stop_at_once(self._server, self._drain)
        asyncio.get_running_loop().call_later(_ORPHAN_S, os._exit, 1)


if __name__ == "__main__":
    main()
