"""A route that is handed its request as it is."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Coroutine
from typing import Any

from fastapi import Request
from fastapi.routing import APIRoute
from starlette.responses import Response


class DirectRoute(APIRoute):
    """For endpoints whose only parameter is the request and which return a response.

    FastAPI would look for dependencies, a body and a response model on every request; these have none. The
    OpenAPI document is the same. Endpoints with other parameters are FastAPI's as ever.
    """

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        signature = inspect.signature(self.endpoint)
        if list(signature.parameters) != ["request"] or signature.return_annotation not in (
            "Response",
            Response,
        ):
            return super().get_route_handler()
        endpoint: Callable[[Request], Coroutine[Any, Any, Response]] = self.endpoint
        return endpoint
