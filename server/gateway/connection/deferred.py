"""Responses that are others', which are known only when they are sent."""

from __future__ import annotations

from starlette.responses import Response
from starlette.types import Receive, Scope, Send


class DeferredResponse(Response):
    """A route may return it. It has no status, headers or body of its own, and makes none."""

    background = None

    def __init__(self) -> None:
        """Without Starlette's: a request has two of these, and each would render headers for nobody."""

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        raise NotImplementedError
