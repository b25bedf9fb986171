"""Liveness, readiness and version."""

from __future__ import annotations

from typing import Any

import orjson
from fastapi import APIRouter, Request
from starlette.responses import Response

from server import __version__
from server.gateway.access import is_admin
from server.gateway.context import context_of
from server.gateway.engine import Engine
from server.gateway.errors import Forbidden

router = APIRouter(tags=["operation"])


@router.get("/health", summary="200 while the gateway is alive, whatever its engines do")
async def health() -> dict[str, str]:
    return {"status": "ok", "version": __version__}


@router.get(
    "/ready", summary="200 if an engine is ready and probed, else 503, also while the gateway is stopping"
)
async def ready(request: Request) -> Response:
    context = context_of(request)
    draining, pool = context.drain.draining, context.engines
    is_ready = bool(pool.ready) and not draining
    body: dict[str, Any] = {"ready": is_ready, "draining": draining}
    # Where engines are, and why one is down, is not for strangers.
    if is_admin(request):
        body["engines"] = [_describe(engine) for engine in pool.engines]
    return Response(orjson.dumps(body), 200 if is_ready else 503, media_type="application/json")


@router.get("/metrics", summary="Prometheus metrics; with API keys, for an admin key")
async def metrics(request: Request) -> Response:
    if not is_admin(request):
        raise Forbidden("/metrics names engines: it takes an admin key")
    accept = request.headers.get("accept", "")
    raw, content_type = context_of(request).observatory.render(accept)
    return Response(raw, headers={"content-type": content_type})


@router.get("/version", summary="The version of the gateway")
async def version() -> dict[str, str]:
    return {"version": __version__}


def _describe(engine: Engine) -> dict[str, Any]:
    status, described = engine.status, engine.described
    return {
        "url": engine.url,
        "state": status.state,
        "models": [card["id"] for card in status.models],
        "enforcement": status.enforcement,
        "family": described.family if described else None,
        "processor": described.processor if described else None,
        "fields": list(engine.enforced_fields),
        "reason": status.reason,
        "outstanding": engine.outstanding,
        "kv_cache_tokens": status.kv_cache_tokens,
        "committed_tokens": engine.committed_tokens,
        "reconnects": status.reconnects,
    }
