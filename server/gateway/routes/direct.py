"""A route that is handed its request as it is."""

from __future__ import annotations

import inspect
from collections.abc import Awaitable, Callable
from typing import Any

from fastapi import Request
from fastapi.routing import APIRoute
from starlette.responses import Response
from starlette.types import ASGIApp, Receive, Scope, Send


class DirectRoute(APIRoute):
    """For endpoints whose only parameter is the request and which return a response.

    FastAPI would look for dependencies, a body and a response model on every request, and keep stacks of
    things to close; these have none. Exceptions go to the application's handlers, as from any route. The
    OpenAPI document is the same. Endpoints with other parameters are FastAPI's as ever.
    """

    def __init__(self, path: str, endpoint: Callable[..., Any], **options: Any) -> None:
        super().__init__(path, endpoint, **options)
        signature = inspect.signature(endpoint)
        if list(signature.parameters) == ["request"] and signature.return_annotation in (
            "Response",
            Response,
        ):
            self.app = _directly(endpoint)


def _directly(endpoint: Callable[[Request], Awaitable[Response]]) -> ASGIApp:
    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        response = await endpoint(Request(scope, receive, send))
        await response(scope, receive, send)

    return app
