"""What a worker answers to the hub, on a Unix socket of its own."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import orjson
from aiohttp import web

from server.gateway.errors import GatewayError
from server.gateway.observe.observatory import Observatory
from server.gateway.workers.fleet import Here, error_to_json, kept_to_json
from server.gateway.workers.totals import snapshot


@contextlib.asynccontextmanager
async def answering(
    here: Here, observatory: Observatory, socket: Path, *, listening: Callable[[], bool]
) -> AsyncIterator[None]:
    """Answer for this process at `socket`.

    Args:
        listening: whether clients are taken already.
    """
    app = web.Application()
    inside = _Inside(here, observatory, listening)
    for handler in (inside.answer_now, inside.kept, inside.requests, inside.readiness, inside.snapshot):
        app.router.add_post(f"/{handler.__name__}", handler)
    async with site(app, socket):
        yield


@contextlib.asynccontextmanager
async def site(app: web.Application, socket: Path) -> AsyncIterator[None]:
    runner = web.AppRunner(app, access_log=None, handle_signals=False, shutdown_timeout=1)
    await runner.setup()
    try:
        await web.UnixSite(runner, str(socket)).start()
        yield
    finally:
        await runner.cleanup()


def told(body: Any) -> web.Response:
    return web.Response(body=orjson.dumps(body), content_type="application/json")


class _Inside:
    def __init__(self, here: Here, observatory: Observatory, listening: Callable[[], bool]) -> None:
        self._here = here
        self._observatory = observatory
        self._listening = listening

    async def answer_now(self, request: web.Request) -> web.Response:
        asked = await request.json()
        try:
            await self._here.answer_now(asked["account"], asked["id"])
        except GatewayError as error:
            return told({"error": error_to_json(error)})
        return told({"applied": True})

    async def kept(self, request: web.Request) -> web.Response:
        asked = await request.json()
        kept, running = await self._here.kept(asked["account"], asked["id"])
        body = {"kept": None if kept is None else kept_to_json(kept), "running": running}
        return web.Response(
            body=orjson.dumps(body, option=orjson.OPT_NON_STR_KEYS), content_type="application/json"
        )

    async def requests(self, _: web.Request) -> web.Response:
        return told({"requests": await self._here.requests()})

    async def readiness(self, _: web.Request) -> web.Response:
        return told(await self._here.readiness() | {"listening": self._listening()})

    async def snapshot(self, _: web.Request) -> web.Response:
        return told(snapshot(self._observatory.collect()))
