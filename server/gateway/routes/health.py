"""Liveness, readiness and version."""

from __future__ import annotations

import orjson
from fastapi import APIRouter, Request
from starlette.responses import Response

from server import __version__
from server.gateway.access.callers import is_admin
from server.gateway.context import context_of
from server.gateway.errors import Forbidden
from server.gateway.workers.fleet import fleet_of

router = APIRouter(tags=["operation"])


@router.head("/health", include_in_schema=False)
@router.get("/health", summary="200 while the gateway is alive, whatever its engines do")
async def health() -> dict[str, str]:
    return {"status": "ok", "version": __version__}


@router.head("/ready", include_in_schema=False)
@router.get(
    "/ready", summary="200 if an engine is ready and probed, else 503, also while the gateway is stopping"
)
async def ready(request: Request) -> Response:
    found = await fleet_of(request).readiness()
    # Where engines are, and why one is down, is not for strangers.
    shown = ("ready", "draining", "engines") if is_admin(request) else ("ready", "draining")
    body = {name: found[name] for name in shown}
    return Response(orjson.dumps(body), 200 if found["ready"] else 503, media_type="application/json")


@router.get("/metrics", summary="Prometheus metrics; with API keys, for an admin key")
async def metrics(request: Request) -> Response:
    # A gateway without keys that others may reach was told to let everybody in, Prometheus included.
    if not is_admin(request) and context_of(request).settings.keys_file is not None:
        raise Forbidden("/metrics names engines: it takes an admin key")
    accept = request.headers.get("accept", "")
    raw, content_type = await fleet_of(request).metrics(accept)
    return Response(raw, headers={"content-type": content_type})


@router.head("/version", include_in_schema=False)
@router.get("/version", summary="The version of the gateway")
async def version() -> dict[str, str]:
    return {"version": __version__}
