"""Spans, as a collector gets them by OTLP, and the W3C trace context that goes in and out."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

import httpx
import pytest
from aiohttp import web
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.proto.trace.v1.trace_pb2 import Span
from starlette.datastructures import Headers

from server.gateway.observe.trace_context import read_trace_context
from tests.gateway.serving import gateway
from tests.gateway.stand_in import END_MARKER, Faults, StandIn
from tests.gateway.test_gateway_chat import ASK
from tests.gateway.test_observe_metrics import streamed, whole

CHAT = "/v1/chat/completions"
TRACE, PARENT = "4bf92f3577b34da6a3ce929d0e0e4736", "00f067aa0ba902b7"


@dataclass
class Collector:
    url: str = ""
    spans: list[Span] = field(default_factory=list)

    def named(self, name: str) -> list[Span]:
        return [span for span in self.spans if span.name == name]

    def children(self, parent: Span) -> list[str]:
        found = [span for span in self.spans if span.parent_span_id == parent.span_id]
        return [span.name for span in sorted(found, key=lambda span: span.start_time_unix_nano)]


@asynccontextmanager
async def collecting() -> AsyncIterator[Collector]:
    collector = Collector()

    async def take(request: web.Request) -> web.Response:
        sent = ExportTraceServiceRequest.FromString(await request.read())
        for resource in sent.resource_spans:
            for scope in resource.scope_spans:
                collector.spans.extend(scope.spans)
        return web.Response()

    app = web.Application()
    app.router.add_post("/v1/traces", take)
    runner = web.AppRunner(app, access_log=None, shutdown_timeout=0.1)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    collector.url = f"http://127.0.0.1:{runner.addresses[0][1]}/v1/traces"
    try:
        yield collector
    finally:
        await runner.cleanup()


def attributes(span: Span) -> dict[str, Any]:
    found = {}
    for attribute in span.attributes:
        kind = attribute.value.WhichOneof("value")
        value = getattr(attribute.value, kind)
        found[attribute.key] = (
            [item.string_value for item in value.values] if kind == "array_value" else value
        )
    return found


async def test_a_stream_is_a_trace_of_its_phases_and_waits(engine: StandIn) -> None:
    async with collecting() as collector:
        async with gateway(engine.url, otlp_endpoint=collector.url, trace_sample_ratio=1) as client:
            answer = await streamed(client, num_waits=2, max_thinking_tokens=100, temperature=0.5)
        # The gateway has ended, and sent what it had.
        receipt = answer["choices"][0]["thinking_budget"]
        (root,) = collector.named("chat tiny")
        (generate,) = collector.named("generate")
        (thinking,) = collector.named("thinking")
        assert collector.children(root) == ["queue", "generate"]
        assert collector.children(generate) == ["prefill", "thinking", "answer"]
        assert collector.children(thinking) == ["wait 1", "wait 2"]
        assert len({span.trace_id for span in collector.spans}) == 1
        told = attributes(root)
        assert (
            told
            | {
                "gen_ai.operation.name": "chat",
                "gen_ai.request.model": "tiny",
                "gen_ai.request.temperature": 0.5,
                "gen_ai.response.finish_reasons": ["stop"],
                "gen_ai.usage.input_tokens": answer["usage"]["prompt_tokens"],
                "gen_ai.usage.output_tokens": answer["usage"]["completion_tokens"],
                "gen_ai.usage.reasoning.output_tokens": receipt["thinking_tokens"],
                "http.response.status_code": 200,
                "s1.outcome": "ok",
            }
            == told
        )
        generation = attributes(generate)
        assert generation["s1.waits"] == 2
        assert generation["s1.budget.max_thinking_tokens"] == 100
        assert generation["s1.marker_tokens"] == END_MARKER
        waits = [attributes(span)["s1.thinking_tokens"] for span in collector.spans if "wait" in span.name]
        # 8 tokens of its own; each wait is a token and three more.
        assert waits == [4, 4]
        for span in collector.spans:
            assert root.start_time_unix_nano <= span.start_time_unix_nano <= span.end_time_unix_nano
            assert span.end_time_unix_nano <= root.end_time_unix_nano


async def test_a_callers_trace_goes_on_in_the_engine(engine: StandIn) -> None:
    async with collecting() as collector:
        headers = {"traceparent": f"00-{TRACE}-{PARENT}-01", "tracestate": "vendor=1"}
        async with gateway(engine.url, otlp_endpoint=collector.url, trace_sample_ratio=1) as client:
            await client.post(CHAT, json=ASK | {"max_thinking_tokens": 5}, headers=headers)
        (root,) = collector.named("chat tiny")
    assert root.trace_id.hex() == TRACE
    assert root.parent_span_id.hex() == PARENT
    assert engine.traces[-1] == (f"00-{TRACE}-{root.span_id.hex()}-01", "vendor=1")


async def test_a_caller_that_does_not_sample_is_not_traced(engine: StandIn) -> None:
    async with collecting() as collector:
        async with gateway(engine.url, otlp_endpoint=collector.url, trace_sample_ratio=1) as client:
            headers = {"traceparent": f"00-{TRACE}-{PARENT}-00"}
            await client.post(CHAT, json=ASK | {"max_thinking_tokens": 5}, headers=headers)
            await whole(client, max_thinking_tokens=5)
        assert len(collector.named("chat tiny")) == 1
        assert collector.named("chat tiny")[0].trace_id.hex() != TRACE
    assert engine.traces[-2][0].startswith(f"00-{TRACE}-") and engine.traces[-2][0].endswith("-00")


async def test_without_tracing_the_callers_context_is_handed_on(
    client: httpx.AsyncClient, engine: StandIn
) -> None:
    parent = f"00-{TRACE}-{PARENT}-01"
    await client.post(CHAT, json=ASK | {"max_thinking_tokens": 5}, headers={"traceparent": parent})
    await client.post(CHAT, json=ASK | {"max_thinking_tokens": 5})
    assert engine.traces == [(parent, None), (None, None)]


async def test_refused_and_broken_requests_are_traced(engine: StandIn) -> None:
    async with collecting() as collector:
        async with gateway(engine.url, otlp_endpoint=collector.url, trace_sample_ratio=1) as client:
            assert (await client.post(CHAT, json=ASK | {"made_up": 1})).status_code == 400
            engine.faults = Faults(die_after=3)
            await streamed(client, max_thinking_tokens=6)
        refused, broken = collector.named("chat")[0], collector.named("chat tiny")[0]
    assert attributes(refused)["error.type"] == "InvalidRequest"
    assert refused.status.code == 0
    assert attributes(broken)["error.type"] == "EngineDied"
    assert broken.status.code == 2
    assert collector.children(collector.named("generate")[0]) == ["prefill", "thinking"]


async def test_a_part_of_the_requests_is_traced(engine: StandIn) -> None:
    async with collecting() as collector:
        async with gateway(engine.url, otlp_endpoint=collector.url, trace_sample_ratio=0.5) as client:
            for _ in range(60):
                await whole(client, max_thinking_tokens=5)
        # By chance less than once in 10^9 not so.
        assert 5 < len(collector.named("chat tiny")) < 55
    assert {trace[0][-2:] for trace in engine.traces if trace[0]} == {"00", "01"}


async def test_a_collector_that_is_away_harms_no_request(engine: StandIn) -> None:
    async with gateway(engine.url, otlp_endpoint="http://127.0.0.1:9/v1/traces") as client:
        answer = await whole(client, max_thinking_tokens=5)
    assert answer["choices"][0]["thinking_budget"]["thinking_tokens"] == 5


@pytest.mark.parametrize(
    "header",
    [
        "",
        "garbage",
        f"ff-{TRACE}-{PARENT}-01",
        f"00-{TRACE}-{PARENT}-01-more",
        f"00-{'0' * 32}-{PARENT}-01",
        f"00-{TRACE}-{'0' * 16}-01",
        f"00-{TRACE.upper()}-{PARENT}-01",
    ],
)
def test_a_malformed_context_is_ignored(header: str) -> None:
    assert read_trace_context(Headers({"traceparent": header})) is None


def test_a_later_versions_context_is_read() -> None:
    found = read_trace_context(Headers({"traceparent": f"cc-{TRACE}-{PARENT}-03-later"}))
    assert found is not None and (found.trace_id, found.span_id, found.sampled) == (TRACE, PARENT, True)


def test_two_contexts_are_none() -> None:
    two = Headers(raw=[(b"traceparent", f"00-{TRACE}-{PARENT}-01".encode())] * 2)
    assert read_trace_context(two) is None
