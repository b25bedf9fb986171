"""OpenTelemetry spans of requests, sent by OTLP over HTTP if the settings name a collector.

request (server)                     `chat MODEL`, with gen_ai.* attributes
├── queue                            until there was an engine
└── generate (client), per choice    one engine call
    ├── prefill                      until its first token
    ├── thinking
    │   ├── wait 1                   the thinking that an injected wait brought about
    │   └── wait 2 …
    └── answer

Only streams show when their tokens come: an engine call for a whole answer has no spans below it.
All are made when the request has ended, from the times that were noted on the way.

This module needs the extra `tracing`; it is imported only where spans are wanted.
"""

from __future__ import annotations

import random
from collections.abc import Iterator, Mapping
from typing import Any

from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import ReadableSpan, SpanProcessor
from opentelemetry.sdk.trace.export import BatchSpanProcessor
from opentelemetry.sdk.util.instrumentation import InstrumentationScope
from opentelemetry.trace import SpanContext, SpanKind, Status, StatusCode, TraceFlags, TraceState

from server import __version__
from server.gateway.observe.observation import EngineWatch, Observation, Sink
from server.gateway.observe.request_log import usage_of
from server.gateway.observe.trace_context import TraceContext

_TRACE_ID_TAILS = 2**64
_EXPORT_TIMEOUT_S = 3
"""A collector that is away must not hold up a gateway that ends."""
_REQUEST_ATTRIBUTES = {
    "gen_ai.request.temperature": "temperature",
    "gen_ai.request.top_p": "top_p",
    "gen_ai.request.top_k": "top_k",
    "gen_ai.request.seed": "seed",
    "gen_ai.request.presence_penalty": "presence_penalty",
    "gen_ai.request.frequency_penalty": "frequency_penalty",
}
_OPERATIONS = {"embeddings": "embeddings", "completions": "text_completion"}
_RECEIPT_COUNTS = ("thinking_tokens", "marker_tokens", "answer_tokens", "waits", "ended_by")


def make_tracing(otlp_endpoint: str, *, sample_ratio: float) -> Tracing:
    exporter = OTLPSpanExporter(endpoint=otlp_endpoint, timeout=_EXPORT_TIMEOUT_S)
    return Tracing(BatchSpanProcessor(exporter), sample_ratio=sample_ratio)


class Tracing(Sink):
    """Makes finished spans, all at once, and hands them to OpenTelemetry's processor: what its tracer does
    for spans that are changed on the way would cost several times as much.
    """

    def __init__(self, processor: SpanProcessor, *, sample_ratio: float) -> None:
        """
        Args:
            sample_ratio: part of the requests that are traced, of those whose caller has not decided.
        """

        self._processor = processor
        self._sampled_below = round(sample_ratio * _TRACE_ID_TAILS)
        self._resource = Resource.create({"service.name": "s1-server", "service.version": __version__})
        self._scope = InstrumentationScope("s1-server", __version__)

    def close(self) -> None:
        """Send what is left. Blocks."""
        self._processor.shutdown()

    def started(self, seen: Observation) -> None:
        parent = seen.parent
        if parent is not None:
            seen.trace = TraceContext(parent.trace_id, _random_hex(64), parent.sampled, parent.state)
            return
        drawn = _random_id(128)
        # As OpenTelemetry's ratio sampler does, so that all that see a trace decide alike.
        sampled = drawn % _TRACE_ID_TAILS < self._sampled_below
        seen.trace = TraceContext(f"{drawn:032x}", _random_hex(64), sampled)

    def finished(self, seen: Observation) -> None:
        if seen.trace is None or not seen.trace.sampled:
            return
        trace = _Trace(self._processor, self._resource, self._scope, seen, seen.trace)
        operation = _OPERATIONS.get(seen.api, "chat")
        told = _attributes(seen, operation)
        if seen.outcome != "ok":
            told["error.type"] = type(seen.error).__name__ if seen.error else seen.outcome
        ended = seen.ended if seen.ended is not None else seen.clock()
        if seen.queued_since is not None:
            until = seen.placed_at if seen.placed_at is not None else ended
            trace.span("queue", seen.trace.span_id, seen.queued_since, until)
        for watch in seen.watches:
            _tell_generation(trace, watch, ended)
        name = f"{operation} {seen.model}" if seen.model is not None else operation
        trace.root(name, seen.parent, ended, told, failed=seen.outcome != "ok" and _is_failure(seen))


class _Trace:
    """The spans of one request."""

    def __init__(
        self,
        processor: SpanProcessor,
        resource: Resource,
        scope: InstrumentationScope,
        seen: Observation,
        trace: TraceContext,
    ) -> None:

        self.seen = seen
        self._processor, self._resource, self._scope = processor, resource, scope
        self._trace = trace

    def span(
        self,
        name: str,
        parent_id: str,
        begin: float,
        end: float,
        attributes: Mapping[str, Any] | None = None,
        *,
        client: bool = False,
    ) -> str:
        """Send a span that has ended; returns its id."""
        span_id = _random_hex(64)
        kind = SpanKind.CLIENT if client else SpanKind.INTERNAL
        self._send(name, span_id, parent_id, begin, end, attributes or {}, kind=kind)
        return span_id

    def root(
        self, name: str, parent: TraceContext | None, end: float, told: Mapping[str, Any], *, failed: bool
    ) -> None:
        parent_id = parent.span_id if parent is not None else None
        status = Status(StatusCode.ERROR if failed else StatusCode.UNSET)
        self._send(
            name,
            self._trace.span_id,
            parent_id,
            self.seen.started,
            end,
            told,
            kind=SpanKind.SERVER,
            status=status,
        )

    def _send(
        self,
        name: str,
        span_id: str,
        parent_id: str | None,
        begin: float,
        end: float,
        attributes: Mapping[str, Any],
        **more: Any,
    ) -> None:
        span = ReadableSpan(
            name,
            context=_context(self._trace, span_id),
            parent=_context(self._trace, parent_id) if parent_id is not None else None,
            resource=self._resource,
            attributes=attributes,
            start_time=self.seen.at_ns(begin),
            end_time=self.seen.at_ns(end),
            instrumentation_scope=self._scope,
            **more,
        )
        self._processor.on_end(span)


def _tell_generation(trace: _Trace, watch: EngineWatch, ended: float) -> None:
    seen, end = trace.seen, watch.ended if watch.ended is not None else ended
    parent = seen.trace.span_id if seen.trace is not None else ""
    told = _generation_attributes(seen, watch)
    own = trace.span("generate", parent, watch.begun, end, told, client=True)
    counts = _counts(watch)
    first = [at for at in (watch.first_thinking, watch.first_answer) if at is not None]
    if first:
        trace.span("prefill", own, watch.begun, min(first))
    if watch.first_thinking is not None:
        until = watch.first_answer if watch.first_answer is not None else (watch.last_part or end)
        counted = {"s1.thinking_tokens": counts["thinking_tokens"]}
        thinking = trace.span("thinking", own, watch.first_thinking, until, counted)
        for number, (began, left, tokens) in enumerate(wait_times(watch, until), start=1):
            trace.span(f"wait {number}", thinking, began, left, {"s1.thinking_tokens": tokens})
    if watch.first_answer is not None:
        counted = {"s1.answer_tokens": counts["answer_tokens"]}
        trace.span("answer", own, watch.first_answer, watch.last_part or end, counted)


def _counts(watch: EngineWatch) -> Mapping[str, int]:
    """By the receipt where there is one, else as the stream's parts told."""
    seen = {"thinking_tokens": watch.thinking_tokens, "answer_tokens": watch.answer_tokens}
    receipt = (watch.choices[0].receipt if watch.choices else None) or {}
    return seen | {name: receipt[name] for name in seen if name in receipt}


def _context(trace: TraceContext, span_id: str) -> SpanContext:

    state = TraceState.from_header([trace.state]) if trace.state else None
    flags = TraceFlags(TraceFlags.SAMPLED)
    return SpanContext(int(trace.trace_id, 16), int(span_id, 16), False, flags, state)


def _random_hex(bits: int) -> str:
    return f"{_random_id(bits):0{bits // 4}x}"


def _random_id(bits: int) -> int:
    # Ids, not secrets. 0 is no id.
    return random.getrandbits(bits) or 1


def wait_times(watch: EngineWatch, until: float) -> Iterator[tuple[float, float, int]]:
    """When each wait was injected, when what it brought about ended, and how many tokens that was.

    A wait's position in the output is the engine's own record. Where the stream had fewer parts than there
    were tokens, because some came together, positions are scaled to the parts.
    """
    recorded, times = watch.recorded, watch.thinking
    if recorded is None or not times:
        return
    begin = recorded.thinking_begin
    end = recorded.thinking_end if recorded.thinking_end is not None else recorded.output_tokens
    if end <= begin:
        return
    scale = min(1.0, len(times) / (end - begin))
    bounds = [*recorded.wait_positions, end]
    for position, following in zip(bounds, bounds[1:], strict=False):
        started, ended = (
            int((at - begin) * scale) if at < end else len(times) for at in (position, following)
        )
        finish = times[ended] if ended < len(times) else until
        yield times[min(started, len(times) - 1)], finish, following - position


def _is_failure(seen: Observation) -> bool:
    """A client's own mistake or leave is no failure of this server."""
    return seen.outcome not in ("invalid", "unauthorized", "quota", "disconnected")


def _attributes(seen: Observation, operation: str) -> dict[str, Any]:
    """Source: OpenTelemetry's semantic conventions for generative AI, 1.37; ours begin with `s1.`."""
    fields = seen.call.fields if seen.call is not None else {}
    finishes = [choice.finish.finish_reason or "" for watch in seen.watches for choice in watch.choices]
    receipts = [choice.receipt for watch in seen.watches for choice in watch.choices if choice.receipt]
    usage = usage_of(seen)
    told = {
        "gen_ai.operation.name": operation,
        "gen_ai.provider.name": "s1-server",
        "gen_ai.request.model": seen.model,
        "gen_ai.response.model": seen.model if finishes else None,
        "gen_ai.response.id": f"chatcmpl-{seen.request_id}" if finishes else None,
        "gen_ai.response.finish_reasons": finishes or None,
        "gen_ai.request.choice.count": seen.call.num_choices if seen.call is not None else None,
        "gen_ai.request.max_tokens": seen.call.room[1] if seen.call is not None and seen.call.room else None,
        "gen_ai.usage.input_tokens": usage.get("prompt_tokens"),
        "gen_ai.usage.output_tokens": usage.get("completion_tokens"),
        "gen_ai.usage.reasoning.output_tokens": sum(r["thinking_tokens"] for r in receipts) or None,
        "http.response.status_code": seen.status,
        "s1.api": seen.api,
        "s1.outcome": seen.outcome,
        "s1.request_id": seen.request_id,
        "s1.key": seen.key,
    }
    told |= {attribute: fields.get(name) for attribute, name in _REQUEST_ATTRIBUTES.items()}
    return {name: value for name, value in told.items() if value is not None}


def _generation_attributes(seen: Observation, watch: EngineWatch) -> dict[str, Any]:
    told: dict[str, Any] = {"server.address": watch.engine, "gen_ai.request.model": seen.model}
    if watch.call.index is not None:
        told["s1.choice"] = watch.call.index
    for name, value in watch.call.budget.requested().items():
        if isinstance(value, int):
            told[f"s1.budget.{name}"] = value
    receipt = watch.choices[0].receipt if watch.choices else None
    if receipt is not None:
        told |= {f"s1.{name}": receipt.get(name) for name in _RECEIPT_COUNTS}
        told["s1.clamped_by"] = list(receipt["clamped_by"])
        if receipt["effective"] is not None:
            told["s1.budget.effective_max"] = receipt["effective"]["max"]
    return {name: value for name, value in told.items() if value is not None}
