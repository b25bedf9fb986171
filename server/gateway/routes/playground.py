"""What a browser gets at `/`: the playground, a page and its files as they are in the package.

Whoever asks for no page gets what the server says of itself.
"""

from __future__ import annotations

import os
from pathlib import Path

from fastapi import FastAPI, Request
from fastapi.responses import JSONResponse
from starlette.responses import Response
from starlette.staticfiles import StaticFiles
from starlette.types import Scope

from server import __version__
from server.gateway.access.guard import PLAYGROUND_PREFIX

FOLDER = Path(__file__).parents[1] / "playground"
CONTENT_SECURITY_POLICY = "; ".join(
    [
        "default-src 'none'",
        "script-src 'self'",
        "style-src 'self'",
        "img-src 'self'",
        "connect-src 'self'",
        "base-uri 'none'",
        "form-action 'none'",
        "frame-ancestors 'none'",
        # A string can't become markup or script at all, whatever a model writes.
        "require-trusted-types-for 'script'",
        "trusted-types 'none'",
    ]
)
_HEADERS = {
    "content-security-policy": CONTENT_SECURITY_POLICY,
    "x-content-type-options": "nosniff",
    "referrer-policy": "no-referrer",
    "cross-origin-opener-policy": "same-origin",
    # A browser asks each time whether a file has changed: they are small, and belong together.
    "cache-control": "no-cache",
}


def add_playground(app: FastAPI, *, shown: bool) -> None:
    """
    Args:
        shown: False leaves out the page and its files; `/` then answers everybody alike.
    """
    files = PageFiles(directory=FOLDER)

    @app.head("/", include_in_schema=False)
    @app.get("/", include_in_schema=False)
    async def root(request: Request) -> Response:
        if shown and "text/html" in request.headers.get("accept", ""):
            return await files.get_response("index.html", request.scope)
        about = {"name": "s1-server", "version": __version__, "docs": "/docs", "ready": "/ready"}
        return JSONResponse(about, headers={"vary": "accept"})

    if shown:
        app.mount(PLAYGROUND_PREFIX, files)


class PageFiles(StaticFiles):
    """A page's files, with headers that keep everything else away from it."""

    def file_response(
        self,
        full_path: str | os.PathLike[str],
        stat_result: os.stat_result,
        scope: Scope,
        status_code: int = 200,
    ) -> Response:
        response = super().file_response(full_path, stat_result, scope, status_code)
        response.headers.update(_HEADERS | {"vary": "accept"})
        return response
