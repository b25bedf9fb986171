"""Every failure a client can be told about, and the one table that gives each its HTTP status.

GatewayError
├── InvalidRequest
│   ├── BodyTooLarge
│   ├── BodyTooSlow
│   └── UnsupportedMediaType
├── InvalidKey            no API key, an unknown or an expired one
├── Forbidden             a key that is not for this
├── QuotaExceeded         the key has used up what it may use
├── Overloaded            no engine has room for the request in time
├── QuotaStoreUnavailable the counters that gateways share can't be reached
├── ModelNotFound
├── CompletionNotFound    no completion of this id and key is known here
├── Conflict              the completion isn't in a state for this
├── EngineUnavailable     no engine could be asked
├── ShuttingDown          the gateway is being stopped, and its time is up
├── EngineDied            the connection to the engine was lost
├── EngineMisbehaved      the engine answered what we can't read
├── ReceiptMissing        the engine generated but can't account for it
└── EngineRefused         the engine's own error, with its own status
BudgetError               server.budget: a budget that can't be honoured
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from http import HTTPStatus
from typing import Any

from starlette.responses import Response

from server.budget.spec import BudgetError
from server.gateway.apis.error_forms import ErrorResponse

RETRY_AFTER_S = 5
"""What a 503 tells clients to wait: an engine that restarts needs longer, one that is only busy less."""

_LEADING_FIELD = re.compile(r"`(?P<field>[a-z_]+)`")


class GatewayError(Exception):
    """`param` names the field at fault; `code` overrides the table's; `headers` go with the response."""

    def __init__(
        self,
        message: str,
        *,
        param: str | None = None,
        code: str | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> None:
        super().__init__(message)
        self.param = param
        self.code = code
        self.headers = headers or {}


class InvalidRequest(GatewayError):
    pass


class BodyTooLarge(InvalidRequest):
    pass


class BodyTooSlow(InvalidRequest):
    pass


class UnsupportedMediaType(InvalidRequest):
    pass


class InvalidKey(GatewayError):
    pass


class Forbidden(GatewayError):
    pass


class QuotaExceeded(GatewayError):
    pass


class Overloaded(GatewayError):
    pass


class QuotaStoreUnavailable(GatewayError):
    pass


class ModelNotFound(GatewayError):
    pass


class CompletionNotFound(GatewayError):
    pass


class Conflict(GatewayError):
    pass


class EngineUnavailable(GatewayError):
    pass


class ShuttingDown(GatewayError):
    pass


class EngineDied(GatewayError):
    pass


class EngineMisbehaved(GatewayError):
    pass


class ReceiptMissing(GatewayError):
    pass


class EngineRefused(GatewayError):
    """The engine's own error: `status` is the engine's."""

    def __init__(self, message: str, *, status: int, param: str | None = None) -> None:
        super().__init__(message, param=param)
        self.status = status

    @classmethod
    def from_body(cls, body: object, status: int) -> EngineRefused:
        """Read the engine's error object: nested under "error", or vLLM's older flat form."""
        fields = body.get("error", body) if isinstance(body, Mapping) else body
        if not isinstance(fields, Mapping):
            return cls(str(fields)[:500] or "the engine gave no reason", status=status)
        message = str(fields.get("message") or fields.get("detail") or "the engine gave no reason")
        param = fields.get("param")
        # vLLM drops the param of what a plugin refuses; our plugin's messages begin with it.
        named = _LEADING_FIELD.match(message)
        return cls(
            message,
            status=_status_of(fields.get("code"), status),
            param=param if isinstance(param, str) else named and named["field"],
        )


@dataclass(frozen=True, slots=True)
class _Row:
    status: int
    type: str
    code: str | None = None


_TABLE: Mapping[type[Exception], _Row] = {
    BudgetError: _Row(400, "invalid_request_error"),
    InvalidRequest: _Row(400, "invalid_request_error"),
    BodyTooLarge: _Row(413, "invalid_request_error", "request_too_large"),
    BodyTooSlow: _Row(408, "invalid_request_error", "request_timeout"),
    UnsupportedMediaType: _Row(415, "invalid_request_error", "unsupported_media_type"),
    InvalidKey: _Row(401, "invalid_request_error", "invalid_api_key"),
    Forbidden: _Row(403, "permission_error", "forbidden"),
    QuotaExceeded: _Row(429, "rate_limit_error", "rate_limit_exceeded"),
    Overloaded: _Row(503, "server_error", "overloaded"),
    QuotaStoreUnavailable: _Row(503, "server_error", "quota_store_unavailable"),
    ModelNotFound: _Row(404, "invalid_request_error", "model_not_found"),
    CompletionNotFound: _Row(404, "invalid_request_error", "completion_not_found"),
    Conflict: _Row(409, "invalid_request_error", "conflict"),
    EngineUnavailable: _Row(503, "engine_error", "engine_unavailable"),
    ShuttingDown: _Row(503, "server_error", "shutting_down"),
    EngineDied: _Row(503, "engine_error", "engine_died"),
    EngineMisbehaved: _Row(502, "engine_error", "engine_misbehaved"),
    ReceiptMissing: _Row(502, "engine_error", "receipt_missing"),
    Exception: _Row(500, "server_error", "internal_error"),
}


def describe(error: Exception) -> tuple[int, dict[str, Any]]:
    """HTTP status and OpenAI error envelope of `error`; what we didn't foresee says nothing of itself."""
    if isinstance(error, EngineRefused):
        row = _engine_row(error.status)
    else:
        row = next(_TABLE[cls] for cls in type(error).__mro__ if cls in _TABLE)
    foreseen = isinstance(error, GatewayError | BudgetError)
    return row.status, envelope(
        str(error)
        if foreseen
        else "internal error; the server's log has it under this request's X-Request-ID",
        type=row.type,
        param=getattr(error, "param", None) if foreseen else None,
        code=(error.code if isinstance(error, GatewayError) else None) or row.code,
    )


def envelope(message: str, *, type: str, param: str | None, code: str | None) -> dict[str, Any]:
    return {"error": {"message": message, "type": type, "param": param, "code": code}}


def error_response(error: Exception) -> Response:
    status, body = describe(error)
    headers = {}
    if status == HTTPStatus.SERVICE_UNAVAILABLE:
        headers["Retry-After"] = str(RETRY_AFTER_S)
    if status == HTTPStatus.UNAUTHORIZED:
        headers["WWW-Authenticate"] = 'Bearer realm="s1-server"'
    if status in (HTTPStatus.REQUEST_TIMEOUT, HTTPStatus.REQUEST_ENTITY_TOO_LARGE):
        # The rest of the body is still on its way and would be read as the next request.
        headers["Connection"] = "close"
    if isinstance(error, GatewayError):
        headers |= error.headers
    return ErrorResponse(body, status, headers)


def _engine_row(status: int) -> _Row:
    if status >= HTTPStatus.INTERNAL_SERVER_ERROR:
        return _Row(status, "engine_error", "engine_error")
    if status == HTTPStatus.TOO_MANY_REQUESTS:
        return _Row(status, "rate_limit_error", "rate_limit_exceeded")
    return _Row(status, "invalid_request_error")


def _status_of(code: object, fallback: int) -> int:
    """vLLM puts the status in "code", also inside a stream whose HTTP status was 200."""
    if isinstance(code, int) and not isinstance(code, bool) and 400 <= code <= 599:
        return code
    return fallback if fallback >= HTTPStatus.BAD_REQUEST else HTTPStatus.BAD_GATEWAY
