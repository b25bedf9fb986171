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
All but the request's own span are made when it has ended, from the times that were noted on the way.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

from server import __version__
from server.gateway.observe.observation import EngineWatch, Observation, Sink
from server.gateway.observe.request_log import usage_of
from server.gateway.observe.trace_context import TraceContext
from server.gateway.settings import Settings, SettingsError

if TYPE_CHECKING:
    from opentelemetry.context import Context
    from opentelemetry.sdk.trace import SpanProcessor
    from opentelemetry.trace import Span

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


def make_tracing(settings: Settings) -> Tracing | None:
    """None unless the settings name a collector.

    Raises:
        SettingsError: the packages for it are not installed.
    """
    if settings.otlp_endpoint is None:
        return None
    try:
        from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
        from opentelemetry.sdk.trace.export import BatchSpanProcessor
    except ImportError:
        raise SettingsError("otlp_endpoint: needs OpenTelemetry (pip install 's1-server[tracing]')") from None
    exporter = OTLPSpanExporter(endpoint=settings.otlp_endpoint, timeout=_EXPORT_TIMEOUT_S)
    return Tracing(BatchSpanProcessor(exporter), sample_ratio=settings.trace_sample_ratio)


class Tracing(Sink):
    def __init__(self, processor: SpanProcessor, *, sample_ratio: float) -> None:
        """
        Args:
            sample_ratio: part of the requests that are traced, of those whose caller has not decided.
        """
        from opentelemetry.sdk.resources import Resource
        from opentelemetry.sdk.trace import TracerProvider
        from opentelemetry.sdk.trace.sampling import ParentBased, TraceIdRatioBased

        self._provider = TracerProvider(
            sampler=ParentBased(TraceIdRatioBased(sample_ratio)),
            resource=Resource.create({"service.name": "s1-server", "service.version": __version__}),
            shutdown_on_exit=False,
        )
        self._provider.add_span_processor(processor)
        self._tracer = self._provider.get_tracer("s1-server", __version__)
        self._open: dict[int, Span] = {}

    def close(self) -> None:
        """Send what is left. Blocks."""
        self._provider.shutdown()

    def started(self, seen: Observation) -> None:
        from opentelemetry.trace import SpanKind

        span = self._tracer.start_span(
            seen.api, context=_remote(seen.parent), kind=SpanKind.SERVER, start_time=seen.started_at_ns
        )
        own = span.get_span_context()
        seen.trace = TraceContext(
            f"{own.trace_id:032x}",
            f"{own.span_id:016x}",
            sampled=own.trace_flags.sampled,
            state=own.trace_state.to_header(),
        )
        seen.keeps_times = span.is_recording()
        self._open[id(seen)] = span

    def finished(self, seen: Observation) -> None:
        span = self._open.pop(id(seen))
        if not span.is_recording():
            return
        from opentelemetry.trace import StatusCode, set_span_in_context

        operation = _OPERATIONS.get(seen.api, "chat")
        span.update_name(f"{operation} {seen.model}" if seen.model is not None else operation)
        span.set_attributes(_attributes(seen, operation))
        if seen.outcome != "ok":
            span.set_status(StatusCode.ERROR if _is_failure(seen) else StatusCode.UNSET)
            span.set_attribute("error.type", type(seen.error).__name__ if seen.error else seen.outcome)
        within = set_span_in_context(span)
        ended = seen.ended if seen.ended is not None else seen.clock()
        if seen.queued_since is not None:
            until = seen.placed_at if seen.placed_at is not None else ended
            self._span(seen, "queue", seen.queued_since, until, within)
        for watch in seen.watches:
            self._generation(seen, watch, within, ended)
        span.end(seen.at_ns(ended))

    def _generation(self, seen: Observation, watch: EngineWatch, within: Context, ended: float) -> None:
        from opentelemetry.trace import SpanKind, set_span_in_context

        end = watch.ended if watch.ended is not None else ended
        span = self._tracer.start_span(
            "generate",
            context=within,
            kind=SpanKind.CLIENT,
            start_time=seen.at_ns(watch.begun),
            attributes=_generation_attributes(seen, watch),
        )
        inside = set_span_in_context(span)
        first = [at for at in (watch.first_thinking, watch.first_answer) if at is not None]
        if first:
            self._span(seen, "prefill", watch.begun, min(first), inside)
        if watch.first_thinking is not None:
            self._thinking(seen, watch, inside, end)
        if watch.first_answer is not None:
            tokens = {"s1.answer_tokens": watch.answer_tokens}
            self._span(seen, "answer", watch.first_answer, watch.last_part or end, inside, tokens)
        span.end(seen.at_ns(end))

    def _thinking(self, seen: Observation, watch: EngineWatch, within: Context, end: float) -> None:
        from opentelemetry.trace import set_span_in_context

        begin = watch.first_thinking
        if begin is None:
            return
        until = watch.first_answer if watch.first_answer is not None else (watch.last_part or end)
        span = self._tracer.start_span(
            "thinking",
            context=within,
            start_time=seen.at_ns(begin),
            attributes={"s1.thinking_tokens": watch.thinking_tokens},
        )
        inside = set_span_in_context(span)
        for number, (started, ended, tokens) in enumerate(wait_times(watch, until), start=1):
            self._span(seen, f"wait {number}", started, ended, inside, {"s1.thinking_tokens": tokens})
        span.end(seen.at_ns(until))

    def _span(
        self,
        seen: Observation,
        name: str,
        begin: float,
        end: float,
        within: Context,
        attributes: Mapping[str, Any] | None = None,
    ) -> None:
        span = self._tracer.start_span(
            name, context=within, start_time=seen.at_ns(begin), attributes=attributes
        )
        span.end(seen.at_ns(end))


def wait_times(watch: EngineWatch, until: float) -> Iterator[tuple[float, float, int]]:
    """When each wait was injected, when what it brought about ended, and how many tokens that was.

    A wait's position in the output is the engine's own record. Where the stream had fewer parts than there
    were tokens, because some came together, positions are scaled to the parts.
    """
    recorded = watch.recorded
    if recorded is None or not watch.times:
        return
    begin = recorded.thinking_begin
    end = recorded.thinking_end if recorded.thinking_end is not None else recorded.output_tokens
    if end <= begin:
        return
    scale = min(1.0, len(watch.times) / (end - begin))
    bounds = [*recorded.wait_positions, end]
    for position, following in zip(bounds, bounds[1:], strict=False):
        started, ended = (
            int((at - begin) * scale) if at < end else len(watch.times) for at in (position, following)
        )
        finish = watch.times[ended] if ended < len(watch.times) else until
        yield watch.times[min(started, len(watch.times) - 1)], finish, following - position


def _remote(parent: TraceContext | None) -> Context | None:
    from opentelemetry.context import Context
    from opentelemetry.trace import (
        NonRecordingSpan,
        SpanContext,
        TraceFlags,
        TraceState,
        set_span_in_context,
    )

    if parent is None:
        # Not None: that would be whatever span is current in this process.
        return Context()
    remote = SpanContext(
        int(parent.trace_id, 16),
        int(parent.span_id, 16),
        is_remote=True,
        trace_flags=TraceFlags(TraceFlags.SAMPLED if parent.sampled else TraceFlags.DEFAULT),
        trace_state=TraceState.from_header([parent.state] if parent.state else []),
    )
    return set_span_in_context(NonRecordingSpan(remote), Context())


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
