"""The outermost layer: names every request, and turns whatever escapes into an error a client can read."""

from __future__ import annotations

import re
import secrets
from http import HTTPStatus

import structlog
from starlette.datastructures import Headers, MutableHeaders
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from server.gateway.apis.error_forms import ErrorResponse, is_messages_api
from server.gateway.chat.sse import told_as_error
from server.gateway.errors import envelope, error_response
from server.gateway.observe.observer import observer_of

log = structlog.get_logger(__name__)

_SANE_REQUEST_ID = re.compile(r"[A-Za-z0-9._:-]{1,128}")


def identify(request: Request, given_in_body: str | None) -> str:
    """The request's id: from the X-Request-ID header, else from the body (vLLM's order), else ours."""
    if given_in_body is not None and not request.state.request_id_given:
        request.state.request_id = given_in_body
    return str(request.state.request_id)


class Boundary:
    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        given = Headers(scope=scope).get("x-request-id", "")
        sane = _SANE_REQUEST_ID.fullmatch(given) is not None
        state = scope.setdefault("state", {})
        state["request_id"] = given if sane else secrets.token_hex(16)
        state["request_id_given"] = sane
        response = _Started(send, state, id_headers=_id_headers(scope))
        try:
            await self._app(scope, receive, response.send)
        except ClientDisconnect:
            return
        except Exception as error:
            observer_of(scope).failed(error)
            log.exception("request failed", request_id=state["request_id"], path=scope["path"])
            await response.fail(error, scope, receive)


def _id_headers(scope: Scope) -> tuple[str, ...]:
    """Anthropic's clients read the id in a header of their own."""
    return ("x-request-id", "request-id") if is_messages_api(scope) else ("x-request-id",)


class _Started:
    """Notes whether a response has begun, and puts the request's id on it."""

    def __init__(self, send: Send, state: dict[str, object], *, id_headers: tuple[str, ...]) -> None:
        self._send = send
        self._state = state
        self._id_headers = id_headers
        self._begun = False
        self._is_stream = False

    async def send(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            self._begun = True
            headers = MutableHeaders(scope=message)
            for name in self._id_headers:
                headers[name] = str(self._state["request_id"])
            self._is_stream = headers.get("content-type", "").startswith("text/event-stream")
        await self._send(message)

    async def fail(self, error: Exception, scope: Scope, receive: Receive) -> None:
        if not self._begun:
            await error_response(error)(scope, receive, self.send)
        elif self._is_stream:
            event = told_as_error(error, scope)
            await self._send({"type": "http.response.body", "body": event, "more_body": False})
        else:
            # Half a body can't be mended; closing the connection is what tells the client.
            raise error


async def http_error_response(request: Request, error: Exception) -> Response:
    """Starlette's own errors (no such route, wrong method) in OpenAI's envelope."""
    if not isinstance(error, HTTPException):
        raise error
    path = request.url.path
    is_known = any(getattr(route, "path", None) == f"/v1{path}" for route in request.app.routes)
    hint = f"; did you mean /v1{path}?" if is_known else ""
    reason = {
        HTTPStatus.NOT_FOUND: f"there is no {path}{hint}",
        HTTPStatus.METHOD_NOT_ALLOWED: f"{request.url.path} does not take {request.method}",
    }.get(HTTPStatus(error.status_code), str(error.detail))
    body = envelope(reason, type="invalid_request_error", param=None, code=None)
    return ErrorResponse(body, error.status_code, error.headers)


async def known_error_response(request: Request, error: Exception) -> Response:
    observer_of(request.scope).failed(error)
    return error_response(error)
