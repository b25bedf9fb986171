"""Run the gateway under a real uvicorn on a free port, in the test's own loop."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable, Iterator
from typing import Any

import httpx
import uvicorn
from fastapi import FastAPI

from server.gateway.access.ledger import Ledger
from server.gateway.app import create_app
from server.gateway.connection.protocol import uvicorn_options
from server.gateway.engines.discovery import Resolve
from server.gateway.engines.pool import EnginePool
from server.gateway.settings import Settings


class _Server(uvicorn.Server):
    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield


async def eventually(condition: Callable[[], Any], *, within_s: float = 20) -> None:
    """Wait until `condition()` holds."""
    async with asyncio.timeout(within_s):
        # Conditions are about servers whose events this process can't await.
        while not condition():  # noqa: ASYNC110
            await asyncio.sleep(0.002)


@contextlib.asynccontextmanager
async def serving(app: FastAPI, **options: Any) -> AsyncIterator[str]:
    usual = {"ws": "none"} | options
    config = uvicorn.Config(app, host="127.0.0.1", port=0, log_level="warning", lifespan="on", **usual)
    async with running_server(config) as url:
        yield url


@contextlib.asynccontextmanager
async def running_server(config: uvicorn.Config) -> AsyncIterator[str]:
    server = _Server(config)
    task = asyncio.create_task(server.serve())
    await eventually(lambda: server.started or task.done())
    assert server.started, "the gateway did not start"
    port = server.servers[0].sockets[0].getsockname()[1]
    try:
        yield f"http://127.0.0.1:{port}"
    finally:
        server.should_exit = True
        await task


@contextlib.asynccontextmanager
async def gateway(
    *engine_urls: str,
    wait_ready: bool = True,
    resolve: Resolve | None = None,
    ledger: Ledger | None = None,
    **settings: Any,
) -> AsyncIterator[httpx.AsyncClient]:
    """A client of a gateway over `engine_urls`; intervals are short so that tests needn't wait."""
    quick = {
        "refresh_interval_s": 0.02,
        "starting_interval_s": 0.01,
        "probe_retry_s": 0.02,
        "receipt_wait_ms": 50,
        # What is received together would be one event: how many there are would be chance.
        "stream_granularity": "token",
    }
    read = Settings(engine_urls=engine_urls, **{**quick, **settings})
    pool_of_ours = EnginePool(read, resolve=resolve) if resolve else None
    app = create_app(read, engines=pool_of_ours, ledger=ledger)
    pool = app.state.context.engines
    options = uvicorn_options(read)
    async with serving(app, **options) as url, httpx.AsyncClient(base_url=url, timeout=30) as client:
        if wait_ready:
            await eventually(lambda: len(pool.ready) == len(engine_urls))
        client.pool = pool  # type: ignore[attr-defined]
        client.kept = app.state.context.kept  # type: ignore[attr-defined]
        client.turnstile = app.state.context.turnstile  # type: ignore[attr-defined]
        yield client
