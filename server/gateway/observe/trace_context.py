"""W3C trace context, in and out, whether or not this gateway records spans of its own.

Source: https://www.w3.org/TR/trace-context/, version 00.
"""

from __future__ import annotations

import re
from contextvars import ContextVar
from dataclasses import dataclass

from starlette.datastructures import Headers

_TRACEPARENT = re.compile(
    r"(?P<version>[0-9a-f]{2})-(?P<trace_id>[0-9a-f]{32})-(?P<span_id>[0-9a-f]{16})-(?P<flags>[0-9a-f]{2})"
    r"(?P<rest>-.*)?"
)
_SAMPLED = 0x01
_MAX_TRACESTATE = 512


@dataclass(frozen=True, slots=True)
class TraceContext:
    """A span that others can be children of."""

    trace_id: str
    """32 hexadecimal digits."""
    span_id: str
    """16 hexadecimal digits."""
    sampled: bool
    state: str = ""

    @property
    def headers(self) -> dict[str, str]:
        parent = f"00-{self.trace_id}-{self.span_id}-{'01' if self.sampled else '00'}"
        return {"traceparent": parent} | ({"tracestate": self.state} if self.state else {})


# How OpenTelemetry itself carries the current span: tasks inherit it, and requests don't see each other's.
_current: ContextVar[TraceContext | None] = ContextVar("trace_context", default=None)


def read_trace_context(headers: Headers) -> TraceContext | None:
    """The caller's span; None if there is none or it is malformed, which the standard says to ignore."""
    given = headers.getlist("traceparent")
    found = _TRACEPARENT.fullmatch(given[0].strip()) if len(given) == 1 else None
    if found is None or found["version"] == "ff" or (found["version"] == "00" and found["rest"]):
        return None
    if not int(found["trace_id"], 16) or not int(found["span_id"], 16):
        return None
    state = ",".join(headers.getlist("tracestate"))
    return TraceContext(
        found["trace_id"],
        found["span_id"],
        sampled=bool(int(found["flags"], 16) & _SAMPLED),
        state=state if len(state) <= _MAX_TRACESTATE else "",
    )


def enter_trace(context: TraceContext | None) -> None:
    """What this task, and those it starts, ask of engines from now on belongs to `context`."""
    _current.set(context)


def trace_headers() -> dict[str, str]:
    """Headers for a request to an engine."""
    context = _current.get()
    return context.headers if context is not None else {}
