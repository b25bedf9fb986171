"""One line in the log for every request. Without prompts, outputs and error texts, which may quote them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import structlog
from structlog.typing import FilteringBoundLogger

from server.budget.spec import BudgetError
from server.gateway.errors import GatewayError
from server.gateway.observe.observation import Observation, Sink

log = structlog.get_logger("s1.requests")

_OUR_FAULT = frozenset({"engine_error", "internal_error", "unavailable", "cut_off"})


class RequestLog(Sink):
    def __init__(self, *, content: bool) -> None:
        """
        Args:
            content: whether prompts and outputs are logged, too.
        """
        self._content = content
        # Bound once: the logger by name is put together anew at every use.
        self._log: FilteringBoundLogger = log.bind()

    def started(self, seen: Observation) -> None:
        seen.keeps_text = self._content

    def finished(self, seen: Observation) -> None:
        fields = describe(seen) | (_content_of(seen) if self._content else {})
        told = {name: value for name, value in fields.items() if value is not None}
        (self._log.warning if seen.outcome in _OUR_FAULT else self._log.info)("request", **told)


def describe(seen: Observation) -> dict[str, Any]:
    """The line's fields; None for what the request didn't come to."""
    ended = seen.ended if seen.ended is not None else seen.clock()
    thought = [watch.first_thinking for watch in seen.watches if watch.first_thinking is not None]
    answered = [watch.first_answer for watch in seen.watches if watch.first_answer is not None]
    waited = seen.placed_at if seen.placed_at is not None else ended
    return {
        "request_id": seen.request_id,
        "trace_id": seen.trace.trace_id if seen.trace is not None else None,
        "api": seen.api,
        "model": seen.model,
        "key": seen.key,
        "engine": seen.engines[-1] if seen.engines else None,
        "retries": max(0, len(seen.engines) - 1) or None,
        "stream": seen.call.stream if seen.call is not None else None,
        "outcome": seen.outcome,
        "status": seen.status,
        "error": _error_of(seen.error),
        "duration_s": round(ended - seen.started, 4),
        "queue_s": round(waited - seen.queued_since, 4) if seen.queued_since is not None else None,
        "time_to_first_thinking_token_s": round(min(thought) - seen.started, 4) if thought else None,
        "time_to_first_answer_token_s": round(min(answered) - seen.started, 4) if answered else None,
        **usage_of(seen),
        "thinking_budgets": [choice.receipt for watch in seen.watches for choice in watch.choices] or None,
    }


def usage_of(seen: Observation) -> Mapping[str, int]:
    """Prompt and completion tokens; the prompt counts once."""
    usages = [choice.usage for watch in seen.watches for choice in watch.choices if choice.usage is not None]
    if not usages:
        return {}
    return {
        "prompt_tokens": int(usages[0]["prompt_tokens"]),
        "completion_tokens": sum(int(usage["completion_tokens"]) for usage in usages),
    }


def _error_of(error: Exception | None) -> dict[str, Any] | None:
    if error is None:
        return None
    known = error if isinstance(error, GatewayError | BudgetError) else None
    fields = {"type": type(error).__name__, "param": getattr(known, "param", None)}
    fields["code"] = getattr(known, "code", None)
    return {name: value for name, value in fields.items() if value is not None}


def _content_of(seen: Observation) -> dict[str, Any]:
    return {
        "messages": seen.call.fields.get("messages") if seen.call is not None else None,
        "outputs": ["".join(watch.text) for watch in seen.watches] or None,
    }
