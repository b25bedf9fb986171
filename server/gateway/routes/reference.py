"""What a browser gets at `/docs`: a page that shows /openapi.json, whether there is a playground or not.

FastAPI's own pages load scripts and fonts from elsewhere, which many networks have no way to and whose code
would run on the gateway's origin.
"""

from __future__ import annotations

from functools import partial
from pathlib import Path

from fastapi import FastAPI, Request
from starlette.responses import Response

from server.gateway.routes import playground
from server.gateway.routes.playground import PageFiles

FOLDER = Path(__file__).parents[1] / "reference"
OF_THE_PLAYGROUND = ("dom.js", "icon.svg", "theme.css")


def add_reference(app: FastAPI) -> None:
    """Each file by its name: `guard.OPEN_PATHS` lists them, and nothing else is open below `/docs`."""
    own, shared = PageFiles(directory=FOLDER), PageFiles(directory=playground.FOLDER)
    app.add_route("/docs", partial(_file, own, "index.html"), include_in_schema=False)
    for name in ("reference.css", "reference.js"):
        app.add_route(f"/docs/{name}", partial(_file, own, name), include_in_schema=False)
    for name in OF_THE_PLAYGROUND:
        app.add_route(f"/docs/{name}", partial(_file, shared, name), include_in_schema=False)


async def _file(files: PageFiles, name: str, request: Request) -> Response:
    return await files.get_response(name, request.scope)
