"""What a route needs of its application."""

from __future__ import annotations

from dataclasses import dataclass
from typing import cast

from starlette.requests import Request

from server.gateway.settings import Settings
from server.gateway.turnstile import Turnstile
from server.gateway.upstream import EnginePool


@dataclass(frozen=True, slots=True)
class Context:
    settings: Settings
    engines: EnginePool
    turnstile: Turnstile


def context_of(request: Request) -> Context:
    return cast(Context, request.app.state.context)
