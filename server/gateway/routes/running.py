"""For operators: the requests that run now, and the engines as Prometheus' targets."""

from __future__ import annotations

from typing import Any
from urllib.parse import urlsplit

from fastapi import APIRouter, Request

from server.gateway.access.callers import is_admin
from server.gateway.context import context_of
from server.gateway.errors import Forbidden
from server.gateway.workers.fleet import fleet_of

router = APIRouter(tags=["operation"])


@router.get("/s1/requests", summary="The requests under way, without what they say; for an admin key")
async def running_requests(request: Request) -> dict[str, Any]:
    _require_admin(request)
    return {
        "object": "list",
        "observing": context_of(request).observatory.is_on,
        "data": await fleet_of(request).requests(),
    }


@router.get("/s1/scrape_targets", summary="The engines, as Prometheus' HTTP discovery reads them; admin key")
async def scrape_targets(request: Request) -> list[dict[str, Any]]:
    """One group per engine, so that each has the label `engine` that our own metrics give it."""
    _require_admin(request)
    return [_target(engine.url) for engine in context_of(request).engines.engines]


def _target(url: str) -> dict[str, Any]:
    parts = urlsplit(url)
    labels = {
        "engine": url,
        "__scheme__": parts.scheme,
        "__metrics_path__": f"{parts.path.rstrip('/')}/metrics",
    }
    return {"targets": [parts.netloc], "labels": labels}


def _require_admin(request: Request) -> None:
    if not is_admin(request):
        raise Forbidden(f"{request.url.path} tells of all keys' requests: it takes an admin key")
