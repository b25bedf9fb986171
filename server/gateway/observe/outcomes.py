"""How a request ended, in a closed set of words: metrics have them for labels."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

from server.budget.spec import BudgetError
from server.gateway.errors import (
    CompletionNotFound,
    Conflict,
    EngineDied,
    EngineMisbehaved,
    EngineRefused,
    EngineUnavailable,
    Forbidden,
    InvalidKey,
    InvalidRequest,
    ModelNotFound,
    Overloaded,
    QuotaExceeded,
    QuotaStoreUnavailable,
    ReceiptMissing,
    ShuttingDown,
)

Outcome = Literal[
    "ok", "invalid", "unauthorized", "quota", "overloaded", "unavailable", "engine_error", "cut_off",
    "disconnected", "internal_error",
]  # fmt: skip
"""`invalid` is the client's mistake, `quota` the key's limit, `overloaded` no room in time, `unavailable` no
engine to ask, `cut_off` a gateway that stops, `disconnected` a client that left."""

EngineFailure = Literal["refused", "error", "died", "misbehaved", "receipt_missing"]
"""`refused` is an engine's 4xx, `error` its 5xx or an error inside a stream."""

_BY_ERROR: Mapping[type[Exception], Outcome] = {
    BudgetError: "invalid",
    InvalidRequest: "invalid",
    ModelNotFound: "invalid",
    CompletionNotFound: "invalid",
    Conflict: "invalid",
    InvalidKey: "unauthorized",
    Forbidden: "unauthorized",
    QuotaExceeded: "quota",
    Overloaded: "overloaded",
    EngineUnavailable: "unavailable",
    QuotaStoreUnavailable: "unavailable",
    ShuttingDown: "cut_off",
    EngineDied: "engine_error",
    EngineMisbehaved: "engine_error",
    ReceiptMissing: "engine_error",
}
_SERVER_ERRORS = 500
QUOTA_REASONS = ("request_too_large", "concurrency_exceeded", "queue_full", "rate_limit_exceeded")
"""Codes of refusals by quota (docs/access.md)."""


def outcome_of(error: Exception | None, *, status: int | None, complete: bool) -> Outcome:
    """
    Args:
        status: of the response; None if none was begun.
        complete: whether its last byte was sent.
    """
    if isinstance(error, EngineRefused):
        return "engine_error" if error.status >= _SERVER_ERRORS else "invalid"
    if error is not None:
        known = (_BY_ERROR[cls] for cls in type(error).__mro__ if cls in _BY_ERROR)
        return next(known, "internal_error")
    if status is None or not complete:
        return "disconnected"
    if status >= _SERVER_ERRORS:
        return "internal_error"
    return "invalid" if status >= 400 else "ok"


def engine_failure(error: Exception) -> EngineFailure:
    if isinstance(error, EngineRefused):
        return "error" if error.status >= _SERVER_ERRORS else "refused"
    if isinstance(error, EngineDied):
        return "died"
    return "receipt_missing" if isinstance(error, ReceiptMissing) else "misbehaved"


def quota_reason(error: QuotaExceeded) -> str:
    return error.code if error.code in QUOTA_REASONS else "rate_limit_exceeded"
