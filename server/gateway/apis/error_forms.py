"""Errors as the clients of each API read them: its envelope, and its own names of fields.

The path decides, so that whoever refuses a request (a route, the keys, the boundary) needs not know its API.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from http import HTTPStatus
from typing import Any

import orjson
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

MESSAGES_PATH = "/v1/messages"
RESPONSES_PATH = "/v1/responses"

THREAD_UNSUPPORTED = "thread_unsupported_request"
"""Anthropic's own code, by which its SDK knows to go on without a thread."""

_RENAMED: Mapping[str, Mapping[str, str]] = {
    MESSAGES_PATH: {
        "max_completion_tokens": "max_tokens",
        "response_format": "output_config.format",
        "stop": "stop_sequences",
        "user": "metadata.user_id",
    },
    RESPONSES_PATH: {
        "max_completion_tokens": "max_output_tokens",
        "messages": "input",
        "response_format": "text.format",
    },
}
_ANTHROPIC_TYPES: Mapping[int, str] = {
    HTTPStatus.UNAUTHORIZED: "authentication_error",
    HTTPStatus.FORBIDDEN: "permission_error",
    HTTPStatus.NOT_FOUND: "not_found_error",
    HTTPStatus.REQUEST_TIMEOUT: "timeout_error",
    HTTPStatus.REQUEST_ENTITY_TOO_LARGE: "request_too_large",
    HTTPStatus.TOO_MANY_REQUESTS: "rate_limit_error",
    HTTPStatus.SERVICE_UNAVAILABLE: "overloaded_error",
    HTTPStatus.GATEWAY_TIMEOUT: "timeout_error",
}


class ErrorResponse(Response):
    """An error whose envelope is chosen when it is sent."""

    def __init__(self, body: Mapping[str, Any], status: int, headers: Mapping[str, str] | None) -> None:
        super().__init__(orjson.dumps(body), status, headers, "application/json")
        self._envelope = body

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        self.body = orjson.dumps(error_body(self._envelope, self.status_code, scope))
        self.headers["content-length"] = str(len(self.body))
        await super().__call__(scope, receive, send)


def error_body(envelope: Mapping[str, Any], status: int, scope: Scope) -> Mapping[str, Any]:
    """`envelope`, which is OpenAI's, in the form of the API that the request is for."""
    api = _api(scope)
    if api is None:
        return envelope
    error = _renamed(envelope["error"], _RENAMED[api])
    if api == RESPONSES_PATH:
        return {"error": error}
    fallback = "invalid_request_error" if status < HTTPStatus.INTERNAL_SERVER_ERROR else "api_error"
    told: dict[str, Any] = {"type": _ANTHROPIC_TYPES.get(status, fallback), "message": error["message"]}
    if error["code"] == THREAD_UNSUPPORTED:
        told["details"] = {"error_code": error["code"]}
    return {
        "type": "error",
        "error": told,
        "request_id": scope.get("state", {}).get("request_id"),
    }


def error_event(envelope: Mapping[str, Any], status: int, scope: Scope) -> bytes:
    """The same as an event in a stream."""
    name = b"event: error\n" if _api(scope) == MESSAGES_PATH else b""
    return name + b"data: " + orjson.dumps(error_body(envelope, status, scope)) + b"\n\n"


def is_messages_api(scope: Scope) -> bool:
    return _api(scope) == MESSAGES_PATH


def _api(scope: Scope) -> str | None:
    path = scope.get("path", "")
    return next((api for api in _RENAMED if path == api or path.startswith(f"{api}/")), None)


def _renamed(error: Mapping[str, Any], names: Mapping[str, str]) -> dict[str, Any]:
    """Paths below a field lose what is below: what has no other name there has another place, too."""
    renamed = dict(error)
    for old, new in names.items():
        renamed["message"] = re.sub(rf"`{old}(?:[.\[][^`]*)?`", f"`{new}`", renamed["message"])
    param = error.get("param")
    renamed["param"] = names.get(re.split(r"[.\[]", param or "")[0], param)
    return renamed
