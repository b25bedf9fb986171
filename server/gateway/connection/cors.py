"""Which web pages may call this server from a browser: none, unless they are listed."""

from __future__ import annotations

from collections.abc import Sequence

from fastapi import FastAPI
from starlette.middleware.cors import CORSMiddleware

from server.gateway.access.rates import HEADER_NAMES

_EXPOSED = ("x-request-id", "retry-after", *HEADER_NAMES)
_DAY_S = 86_400


def add_cors(app: FastAPI, origins: Sequence[str]) -> None:
    """Without cookies: a key is sent by whoever has it, not by the browser on its own."""
    if origins:
        app.add_middleware(
            CORSMiddleware,
            allow_origins=list(origins),
            allow_methods=["GET", "POST"],
            # Clients of several dialects send headers of their own.
            allow_headers=["*"],
            expose_headers=list(_EXPOSED),
            max_age=_DAY_S,
        )
