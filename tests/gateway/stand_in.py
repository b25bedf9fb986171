"""An engine to test the gateway against: the HTTP API of vLLM with our plugin, a scripted model, and faults.

The model thinks "t0 t1 … t7", answers "4 2 ." and obeys budgets by the same rules as the real engine, in
words instead of tokens. Faults are set by assigning to `StandIn.faults` before the request.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any

from aiohttp import web

from server.budget.receipt import EngineReceipt
from server.budget.spec import BUDGET_FIELDS, BudgetError, ThinkingBudget, resolve

NATURAL_THINKING = 8
THINKING_AFTER_WAIT = 3
END_MARKER = 2
ANSWER_PROMPT = 6
MINIMUM_ROOM = END_MARKER + ANSWER_PROMPT + 1
ANSWER = ("4", "2", ".")
MAX_MODEL_LEN = 2048
PROMPT_TOKENS = 11
EMBEDDED_TOKENS = 7
CREATED = 1_700_000_000


@dataclass
class Faults:
    """None and False mean healthy. Counts are of streamed chunks with text."""

    only_seed: int | None = None
    """Limit the faults below to the request with this seed."""
    stall_after: int | None = None
    tokens_in_stall: int = 0
    """What the receipt says of a request that is cancelled while it stalls before its first byte."""
    die_after: int | None = None
    """0 cuts the connection before the first byte of the response."""
    end_early_after: int | None = None
    """The stream ends properly for HTTP, but without finish, usage and [DONE]."""
    error_after: int | None = None
    garbage_after: int | None = None
    garbage: bytes = b"{not json"
    refuse: tuple[int, Any] | None = None
    """Status and body of the answer to every chat request."""
    split_bytes: int | None = None
    crlf: bool = False
    no_receipt: bool = False
    stale_receipt: bool = False
    stall_receipt: bool = False
    no_reasoning_details: bool = False
    gives_up: bool = False
    """Its generations end with "abort", as vLLM's do while it stops."""
    no_token_ids: bool = False
    """As servers that don't know what `return_token_ids` is."""
    unhealthy: bool = False
    ignores: frozenset[str] = frozenset()
    """Budget fields that the engine says it enforces and doesn't."""


Template = Callable[[list[dict[str, Any]], dict[str, Any]], str]
"""A chat template: messages and chat_template_kwargs to text."""


@dataclass
class StandIn:
    models: tuple[str, ...] = ("tiny",)
    has_plugin: bool = True
    protocol: int = 1
    kv_blocks: int | None = None
    """Of 16 tokens; None: it has no /metrics."""
    has_embeddings: bool = True
    enforces: tuple[str, ...] = BUDGET_FIELDS
    checkpoint: str | None = None
    faults: Faults = field(default_factory=Faults)
    url: str = ""
    bodies: list[dict[str, Any]] = field(default_factory=list)
    """Of chat requests that aren't probes."""
    passed: list[tuple[str, dict[str, Any]]] = field(default_factory=list)
    """Path and body of what the gateway handed on as it was."""
    request_ids: list[str] = field(default_factory=list)
    traces: list[tuple[str | None, str | None]] = field(default_factory=list)
    """traceparent and tracestate of the same requests."""
    probes: int = 0
    active: int = 0
    cancelled: int = 0
    has_tokenize: bool = True
    tokenize_status: int = 200
    tokenize_stalls: bool = False
    template: Template | None = None
    """What /tokenize renders, if anything."""
    renderings: int = 0
    answers: dict[int, str] = field(default_factory=dict)
    """By seed: what it says instead of its usual answer."""
    held_seeds: frozenset[int] = frozenset()
    """Requests with these seeds stall until the test says so."""
    stalled: int = 0
    """Requests that have ever stalled."""
    receipt_waits: int = 0
    receipt_waits_cancelled: int = 0
    receipts: dict[str, EngineReceipt] = field(default_factory=dict)
    receipts_wanted: list[str] = field(default_factory=list)
    """The ids that chat requests want along with their answers; empty for none."""
    receipts_asked: int = 0
    """At their own route."""
    receipt_along: Callable[[EngineReceipt], EngineReceipt | None] = lambda receipt: receipt
    """What comes along with an answer that is asked for its receipt; None: as of an older engine."""
    receipt_form: Callable[[EngineReceipt], dict[str, Any]] = lambda receipt: receipt.to_json()
    metrics_read: int = 0
    tokens_made: float | None = None
    """What /metrics says; None: there is no such route."""
    release: asyncio.Event = field(default_factory=asyncio.Event)
    """Ends a stall."""

    def account(self, generation: Generation, tokens: int) -> None:
        """Record the receipt, as of so many tokens."""
        receipt = generation.receipt
        if receipt is not None:
            self.receipts[receipt.receipt_id] = replace(
                receipt,
                output_tokens=tokens,
                thinking_end=len(generation.thinking) if tokens > len(generation.thinking) else None,
            )

    def along(self, request: web.Request, faults: Faults) -> dict[str, Any]:
        """What an answer has beside itself."""
        receipt = self.receipts.get(request.headers.get("x-s1-receipt", ""))
        if receipt is None or faults.no_receipt or faults.stale_receipt or faults.stall_receipt:
            return {}
        told = self.receipt_along(receipt)
        return {} if told is None else {"s1_receipt": self.receipt_form(told)}

    def faults_for(self, body: dict[str, Any]) -> Faults:
        faults = self.faults
        probing = str(body.get("vllm_xargs", {}).get("receipt_id", "")).startswith("probe-")
        others = faults.only_seed is not None and body.get("seed") != faults.only_seed
        return Faults(ignores=faults.ignores, no_receipt=faults.no_receipt) if probing or others else faults


@dataclass
class Generation:
    thinking: list[str]
    markers: int
    answer: list[str]
    finish_reason: str
    receipt: EngineReceipt | None

    @property
    def completion_tokens(self) -> int:
        return len(self.thinking) + self.markers + len(self.answer)


class Model:
    """The scripted model; raises BudgetError as the engine does at admission."""

    def __init__(self, body: dict[str, Any], ignores: frozenset[str]) -> None:
        self.xargs = {k: v for k, v in body.get("vllm_xargs", {}).items() if k not in ignores}
        self.room = body.get("max_completion_tokens") or body.get("max_tokens") or MAX_MODEL_LEN
        self.budget = ThinkingBudget.from_fields(self.xargs)

    def generate(self) -> Generation:
        if "receipt_id" not in self.xargs:
            return self._cut(
                [f"t{i} " for i in range(NATURAL_THINKING)], END_MARKER, [*ANSWER, ""], "model", []
            )
        exit_tokens = END_MARKER + (ANSWER_PROMPT if self.xargs.get("answer_prompt", 1) else 0)
        limits = resolve(
            self.budget,
            room=self.room,
            limited_by="max_completion_tokens",
            opening_tokens=0,
            exit_tokens=exit_tokens,
        )
        thinking: list[str] = []
        waits: list[int] = []
        next_end, ended_by = NATURAL_THINKING, "max_thinking_tokens"
        while len(thinking) < limits.max:
            if len(thinking) >= next_end:
                if len(waits) >= limits.num_waits and len(thinking) >= limits.min:
                    ended_by = "model"
                    break
                waits.append(len(thinking))
                thinking.append("Wait ")
                next_end = len(thinking) + THINKING_AFTER_WAIT
            else:
                thinking.append(f"t{len(thinking)} ")
        markers = END_MARKER if ended_by == "model" else exit_tokens
        return self._cut(thinking, markers, [*ANSWER, ""], ended_by, waits, limits)

    def _cut(self, thinking, markers, answer, ended_by, waits, limits=None) -> Generation:
        finish = "length" if len(thinking) + markers + len(answer) > self.room else "stop"
        thinking = thinking[: self.room]
        markers = min(markers, self.room - len(thinking))
        answer = answer[: self.room - len(thinking) - markers]
        receipt = None
        if limits is not None:
            receipt = EngineReceipt(
                receipt_id=self.xargs["receipt_id"],
                effective_min=limits.min,
                effective_max=limits.max,
                effective_num_waits=limits.num_waits,
                clamped_by=limits.clamped_by,
                output_tokens=len(thinking) + markers + len(answer),
                thinking_begin=0,
                thinking_end=len(thinking),
                answer_begin=len(thinking) + markers,
                wait_positions=tuple(waits),
                ended_by=ended_by,
            )
        return Generation(thinking, markers, answer, finish, receipt)


async def _stall(engine: StandIn, generation: Generation, tokens: int) -> None:
    """Until the test says so; a request that is cancelled meanwhile has come as far as `tokens`."""
    engine.account(generation, tokens)
    engine.stalled += 1
    await engine.release.wait()
    engine.account(generation, generation.completion_tokens)


class _Died(Exception):
    pass


@asynccontextmanager
async def running(engine: StandIn, *, host: str = "127.0.0.1", port: int = 0) -> AsyncIterator[StandIn]:
    """Serve `engine` in the running loop; `engine.url` is set."""
    app = web.Application(client_max_size=32 * 1024 * 1024)
    app.router.add_post("/v1/chat/completions", partial(_chat, engine))
    app.router.add_post("/v1/completions", partial(_completions, engine))
    rendering = [] if engine.template is None else ["/tokenize"]
    if rendering:
        app.router.add_post("/tokenize", partial(_tokenize, engine))
    for path in ("/v1/embeddings", "/tokenize", "/detokenize"):
        if path not in rendering and (engine.has_tokenize or path != "/tokenize"):
            app.router.add_post(path, partial(_passed, engine))
    app.router.add_get("/v1/models", partial(_models, engine))
    app.router.add_get("/health", partial(_health, engine))
    app.router.add_get("/metrics", partial(_metrics, engine))
    app.router.add_get("/s1/engine", partial(_description, engine))
    app.router.add_get("/s1/receipts/{id}", partial(_receipt, engine))
    runner = web.AppRunner(app, handler_cancellation=True, access_log=None, shutdown_timeout=0.1)
    await runner.setup()
    site = web.TCPSite(runner, host, port)
    await site.start()
    engine.url = f"http://{host}:{runner.addresses[0][1]}"
    try:
        yield engine
    finally:
        engine.release.set()
        await runner.cleanup()


async def _metrics(engine: StandIn, _: web.Request) -> web.Response:
    engine.metrics_read += 1
    lines = []
    if engine.kv_blocks is not None:
        labels = f'block_size="16",cache_dtype="auto",engine="0",num_gpu_blocks="{engine.kv_blocks}"'
        lines += ["# TYPE vllm:cache_config_info gauge", f"vllm:cache_config_info{{{labels}}} 1.0"]
    if engine.tokens_made is not None:
        lines.append(f'vllm:generation_tokens_total{{engine="0"}} {engine.tokens_made}')
    if not lines:
        return web.json_response({"detail": "Not Found"}, status=404)
    return web.Response(text="".join(f"{line}\n" for line in lines))


async def _passed(engine: StandIn, request: web.Request) -> web.Response:
    if request.path == "/v1/embeddings" and not engine.has_embeddings:
        return web.json_response({"detail": "Not Found"}, status=404)
    body = await request.json()
    engine.passed.append((request.path, body))
    if engine.faults.stall_after == 0:
        await engine.release.wait()
    usage = {"usage": {"prompt_tokens": EMBEDDED_TOKENS}} if request.path == "/v1/embeddings" else {}
    return web.json_response({"model": body["model"], "echo": request.path} | usage)


async def _completions(engine: StandIn, request: web.Request) -> web.StreamResponse:
    body = await request.json()
    engine.passed.append((request.path, body))
    if engine.faults.stall_after == 0:
        engine.active += 1
        try:
            await engine.release.wait()
        except asyncio.CancelledError:
            engine.cancelled += 1
            raise
        finally:
            engine.active -= 1
    if not body.get("stream"):
        return web.json_response({"choices": [{"index": 0, "text": "done"}], "model": body["model"]})
    response = web.StreamResponse(headers={"content-type": "text/event-stream"})
    await response.prepare(request)
    for text in ("do", "ne"):
        event = {"choices": [{"index": 0, "text": text}]}
        await response.write(b"data: " + json.dumps(event).encode() + b"\n\n")
    await response.write(b"data: [DONE]\n\n")
    return response


async def _health(engine: StandIn, _: web.Request) -> web.Response:
    return web.Response(status=503 if engine.faults.unhealthy else 200)


async def _models(engine: StandIn, _: web.Request) -> web.Response:
    cards = [
        {
            "id": name,
            "object": "model",
            "created": CREATED,
            "owned_by": "vllm",
            "max_model_len": MAX_MODEL_LEN,
        }
        for name in engine.models
    ]
    return web.json_response({"object": "list", "data": cards})


async def _description(engine: StandIn, _: web.Request) -> web.Response:
    if not engine.has_plugin:
        return web.json_response({"detail": "Not Found"}, status=404)
    return web.json_response(
        {
            "protocol": engine.protocol,
            "processor": "v1",
            "family": "s1",
            "think_start": "<|im_start|>think",
            "think_end": "<|im_start|>answer",
            "wait_text": "Wait",
            "answer_prompt": "\nFinal Answer:",
            "enforces": list(engine.enforces),
            "max_model_len": MAX_MODEL_LEN,
            "minimum_room": MINIMUM_ROOM,
            "checkpoint": engine.checkpoint,
        }
    )


async def _tokenize(engine: StandIn, request: web.Request) -> web.Response:
    body = await request.json()
    engine.renderings += 1
    if engine.tokenize_stalls:
        engine.active += 1
        try:
            await engine.release.wait()
        finally:
            engine.active -= 1
    if engine.tokenize_status != 200:
        return web.json_response({"error": {"message": "not now"}}, status=engine.tokenize_status)
    if "messages" not in body:
        return await _passed(engine, request)
    tokens = [ord(c) for c in engine.template(body["messages"], body.get("chat_template_kwargs", {}))]
    return web.json_response({"tokens": tokens, "count": len(tokens), "max_model_len": MAX_MODEL_LEN})


async def _receipt(engine: StandIn, request: web.Request) -> web.Response:
    engine.receipts_asked += 1
    if engine.faults.stall_receipt:
        engine.receipt_waits += 1
        try:
            await engine.release.wait()
        except asyncio.CancelledError:
            engine.receipt_waits_cancelled += 1
            raise
    receipt = engine.receipts.get(request.match_info["id"])
    if (
        engine.faults.no_receipt
        or receipt is None
        or receipt.output_tokens < int(request.query["output_tokens"])
    ):
        return web.json_response({"error": {"message": "no such receipt", "code": 404}}, status=404)
    fields = engine.receipt_form(receipt)
    if engine.faults.stale_receipt:
        fields["output_tokens"] -= 1
    return web.json_response(fields)


async def _chat(engine: StandIn, request: web.Request) -> web.StreamResponse:
    body = await request.json()
    faults = engine.faults_for(body)
    if str(body.get("vllm_xargs", {}).get("receipt_id", "")).startswith("probe-"):
        engine.probes += 1
    else:
        engine.bodies.append(body)
        engine.receipts_wanted.append(request.headers.get("x-s1-receipt", ""))
        engine.request_ids.append(request.headers.get("x-request-id", ""))
        engine.traces.append((request.headers.get("traceparent"), request.headers.get("tracestate")))
    if faults.refuse is not None:
        status, refusal = faults.refuse
        return web.json_response(refusal, status=status)
    engine.active += 1
    try:
        return await _generate(engine, request, body, faults)
    except asyncio.CancelledError:
        engine.cancelled += 1
        raise
    except _Died:
        request.transport.abort()
        return web.Response()
    finally:
        engine.active -= 1


async def _generate(
    engine: StandIn, request: web.Request, body: dict[str, Any], faults: Faults
) -> web.StreamResponse:
    try:
        generation = Model(body, faults.ignores).generate()
    except BudgetError as error:
        refusal = {"message": str(error), "type": "BadRequestError", "param": error.param, "code": 400}
        return web.json_response({"error": refusal}, status=400)
    if body.get("seed") in engine.answers:
        generation.answer[:] = [engine.answers[body["seed"]], "", "", ""]
    if body.get("seed") in engine.held_seeds:
        await _stall(engine, generation, faults.tokens_in_stall)
    if faults.die_after == 0:
        raise _Died
    if faults.stall_after == 0:
        await _stall(engine, generation, faults.tokens_in_stall)
    engine.account(generation, generation.completion_tokens)
    if body.get("stream"):
        return await _stream(engine, request, body, generation, faults)
    completion = _completion(request, body, generation, faults)
    return web.json_response(completion | engine.along(request, faults))


def _completion(
    request: web.Request, body: dict[str, Any], generation: Generation, faults: Faults
) -> dict[str, Any]:
    message = {
        "role": "assistant",
        "content": "".join(generation.answer) or None,
        "refusal": None,
        "reasoning": "".join(generation.thinking) or None,
    }
    everything = [*generation.thinking, *generation.answer]
    choice = {
        "index": 0,
        "message": message,
        "logprobs": _logprobs(everything) if body.get("logprobs") else None,
        "finish_reason": "abort" if faults.gives_up else generation.finish_reason,
        "stop_reason": None,
        "token_ids": list(range(len(everything))) if body.get("return_token_ids") else None,
    }
    return {
        "id": f"chatcmpl-{request.headers.get('x-request-id', '')}",
        "object": "chat.completion",
        "created": CREATED,
        "model": body["model"],
        "choices": [choice | {"index": index} for index in range(body.get("n", 1))],
        "usage": _usage(generation, faults, body.get("n", 1)),
        "system_fingerprint": "fp",
        "metrics": {"time_to_first_token_ms": 1.0},
    }


def _logprobs(tokens: list[str]) -> dict[str, Any]:
    return {
        "content": [{"token": token, "logprob": -0.1, "bytes": None, "top_logprobs": []} for token in tokens]
    }


def _usage(generation: Generation, faults: Faults, choices: int = 1) -> dict[str, Any]:
    completion_tokens = generation.completion_tokens * choices
    usage: dict[str, Any] = {
        "prompt_tokens": PROMPT_TOKENS,
        "completion_tokens": completion_tokens,
        "total_tokens": PROMPT_TOKENS + completion_tokens,
    }
    if not faults.no_reasoning_details:
        usage["completion_tokens_details"] = {"reasoning_tokens": len(generation.thinking) * choices}
    return usage


async def _stream(
    engine: StandIn, request: web.Request, body: dict[str, Any], generation: Generation, faults: Faults
) -> web.StreamResponse:
    response = web.StreamResponse(headers={"content-type": "text/event-stream"})
    await response.prepare(request)
    writer = _Writer(response, request, body, faults)
    await writer.delta({"role": "assistant", "content": ""})
    deltas = [("reasoning", text) for text in generation.thinking]
    deltas += [("content", text) for text in generation.answer]
    for count, (kind, text) in enumerate(deltas, start=1):
        last = count == len(deltas)
        reason = "abort" if faults.gives_up else generation.finish_reason
        finish = {"finish_reason": reason, "stop_reason": None} if last else {}
        await writer.delta({kind: text} if text else {}, tokens=[text], **finish)
        if not last and await _fault(engine, generation, faults, writer, count):
            return response
        await asyncio.sleep(0)
    if body.get("stream_options", {}).get("include_usage"):
        usage = {
            "usage": _usage(generation, faults),
            "system_fingerprint": "fp",
            "metrics": {"mean_itl_ms": 1},
        }
        await writer.event(writer.chunk([]) | usage)
    if along := engine.along(request, faults):
        await writer.write(b"data: " + json.dumps(along).encode() + b"\n\n")
    await writer.write(b"data: [DONE]\n\n")
    return response


async def _fault(
    engine: StandIn, generation: Generation, faults: Faults, writer: _Writer, count: int
) -> bool:
    """Do what the faults ask after `count` chunks; True ends the stream."""
    if faults.stall_after == count:
        await _stall(engine, generation, count)
    if faults.die_after == count:
        raise _Died
    if faults.error_after == count:
        await writer.event(
            {"error": {"message": "EngineCore died", "type": "InternalServerError", "code": 500}}
        )
        await writer.write(b"data: [DONE]\n\n")
        return True
    if faults.garbage_after == count:
        await writer.write(b"data: " + faults.garbage + b"\n\n")
    return faults.end_early_after == count


@dataclass
class _Writer:
    response: web.StreamResponse
    request: web.Request
    body: dict[str, Any]
    faults: Faults

    def chunk(self, choices: list[dict[str, Any]]) -> dict[str, Any]:
        return {
            "id": f"chatcmpl-{self.request.headers.get('x-request-id', '')}",
            "object": "chat.completion.chunk",
            "created": CREATED,
            "model": self.body["model"],
            "choices": choices,
        }

    async def delta(self, delta: dict[str, Any], *, tokens: list[str] | None = None, **rest: Any) -> None:
        choice = {"index": 0, "delta": delta, "logprobs": None, "finish_reason": None, **rest}
        if tokens and self.body.get("logprobs"):
            choice["logprobs"] = _logprobs(tokens)
        if tokens and self.body.get("return_token_ids") and not self.faults.no_token_ids:
            choice["token_ids"] = [len(tokens)]
        chunk = self.chunk([choice])
        if "role" in delta and self.body.get("return_token_ids"):
            chunk["prompt_token_ids"] = list(range(PROMPT_TOKENS))
        if self.body.get("stream_options", {}).get("continuous_usage_stats"):
            chunk["usage"] = {"prompt_tokens": PROMPT_TOKENS, "completion_tokens": 1, "total_tokens": 12}
        await self.event(chunk)

    async def event(self, event: dict[str, Any]) -> None:
        await self.write(b"data: " + json.dumps(event, ensure_ascii=False).encode() + b"\n\n")

    async def write(self, raw: bytes) -> None:
        if self.faults.crlf:
            raw = raw.replace(b"\n", b"\r\n")
        step = self.faults.split_bytes or len(raw)
        for start in range(0, len(raw), step):
            await self.response.write(raw[start : start + step])
