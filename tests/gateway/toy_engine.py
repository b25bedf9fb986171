"""A completions server without our plugin, over a random toy model: what vLLM's API does, in 40 tokens.

Its tokens are those of `tests.support.toy_markers`. The model is a function of the last tokens and of the
position in the whole sequence, so that a continuation does not depend on where prompt ends and output begins.
"""

from __future__ import annotations

import asyncio
import json
import random
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

from aiohttp import web

from tests.support.toy_markers import (
    ANSWER,
    DOT,
    EOS,
    NEWLINE,
    SPACE,
    SPECIAL,
    THINK,
    TURN,
    VOCABULARY,
    WAIT,
    WAIT_TAIL,
)

SPECIALS = {TURN: "<|im_start|>", EOS: "<|im_end|>", SPECIAL: "<|pad|>"}
TEXTS = {
    **SPECIALS,
    THINK: "think",
    ANSWER: "answer",
    NEWLINE: "\n",
    DOT: ".",
    SPACE: " ",
    WAIT: "Wait",
    WAIT_TAIL: "-tail",
    20: "Final Answer",
    21: ":",
    22: ",",
    39: "",
} | {i: f"w{i}," for i in (*range(10, 20), *range(23, 39))}
MAX_MODEL_LEN = 256
UNKNOWN = 38
PROMPT = [11, 12]


@dataclass
class Toy:
    """Faults are set by assigning."""

    seed: int = 0
    name: str = "toy-s1"
    ends: float = 0.15
    """How often an end token is the likeliest."""
    end_tokens: tuple[int, ...] = (TURN, EOS)
    opens_thinking: bool = True
    opening: tuple[int, ...] = (TURN, THINK)
    period: int = 0
    """Set: the model repeats itself, unless an end token comes."""
    halves: tuple[int, ...] = ()
    """Two tokens that only together are a character; of `toy_llamacpp` alone, like the next three."""
    prefers: float = 0.0
    """How often a half is the likeliest token."""
    drafts: bool = False
    """It decodes speculatively, and so takes no `logit_bias`."""
    heeds_seeds: bool = False
    """A request's seed changes what the model says."""
    spells_halves: bool = True
    """The tokenizer makes the two halves of their character."""
    tells_apart: bool = True
    """Its chat route gives the reasoning apart from the content."""
    url: str = ""
    missing: frozenset[str] = frozenset()
    """Paths that this server doesn't have."""
    ignores: frozenset[str] = frozenset()
    """Fields of completions that it takes and doesn't honour, or honours in its own way."""
    stall_after: int | None = None
    gate: asyncio.Semaphore | None = None
    """Lets so many streamed tokens out; None: all."""
    refuse: tuple[int, Any] | None = None
    bodies: list[dict[str, Any]] = field(default_factory=list)
    """Of the streamed completions."""
    repeats: list[dict[str, Any]] = field(default_factory=list)
    """Of the other completions."""
    rendered: list[dict[str, Any]] = field(default_factory=list)
    """Bodies of /tokenize with messages."""
    active: int = 0
    cancelled: int = 0

    @property
    def prompt(self) -> list[int]:
        return [*PROMPT, *self.opening] if self.opens_thinking else PROMPT

    def ranked(self, sequence: list[int], seed: int = 0) -> list[int]:
        """All tokens, the likeliest first."""
        rng = random.Random(f"{self.seed + seed} {len(sequence)} {sequence[-2:]}")
        tokens = list(range(VOCABULARY))
        rng.shuffle(tokens)
        if self.period and rng.random() < 0.97:
            tokens.insert(0, sequence[-min(self.period, len(sequence))])
        if self.halves and rng.random() < self.prefers:
            tokens.insert(0, rng.choice(self.halves))
        if rng.random() < self.ends:
            ends = list(self.end_tokens)
            rng.shuffle(ends)
            tokens = ends + [t for t in tokens if t not in ends]
        return tokens

    def next(self, sequence: list[int], *, masked: frozenset[int] = frozenset(), seed: int = 0) -> int:
        return next(token for token in self.ranked(sequence, seed) if token not in masked)


def text_of(token_ids: list[int]) -> str:
    return "".join(TEXTS[token] for token in token_ids)


def encode(text: str) -> list[int]:
    """Longest match first, as the toy's texts allow."""
    found = []
    by_length = sorted((t for t in TEXTS if TEXTS[t]), key=lambda t: -len(TEXTS[t]))
    while text:
        token = next((t for t in by_length if text.startswith(TEXTS[t])), None)
        if token is None:
            found.append(UNKNOWN)
            text = text[1:]
            continue
        found.append(token)
        text = text[len(TEXTS[token]) :]
    return found


def toy_app(toy: Toy) -> web.Application:
    app = web.Application()
    routes: dict[str, Callable[[Toy, web.Request], Any]] = {
        "/tokenize": _tokenize,
        "/detokenize": _detokenize,
        "/v1/completions": _completions,
        "/v1/chat/completions": _chat,
    }
    for path, handler in routes.items():
        if path not in toy.missing:
            app.router.add_post(path, bound(handler, toy))
    app.router.add_get("/health", bound(_health, toy))
    app.router.add_get("/v1/models", bound(_models, toy))
    return app


@asynccontextmanager
async def running(toy: Toy) -> AsyncIterator[Toy]:
    async with serving_toy(toy, toy_app(toy)):
        yield toy


@asynccontextmanager
async def serving_toy(toy: Toy, app: web.Application) -> AsyncIterator[None]:
    runner = web.AppRunner(app, handler_cancellation=True, access_log=None, shutdown_timeout=0.1)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    toy.url = f"http://127.0.0.1:{runner.addresses[0][1]}"
    try:
        yield
    finally:
        await runner.cleanup()


@asynccontextmanager
async def running_agreeable() -> AsyncIterator[str]:
    """A server that answers every POST with the same completion, whatever it is asked."""
    usage = {"prompt_tokens": 2, "completion_tokens": 1, "total_tokens": 3}
    choice = {"index": 0, "text": "42", "token_ids": [11], "finish_reason": "stop"}
    answer = {
        "choices": [choice | {"message": {"role": "assistant", "content": "42"}}],
        "usage": usage,
        "tokens": [11, 12],
        "max_model_len": MAX_MODEL_LEN,
        "prompt": "42",
        "content": "42",
    }

    async def agree(request: web.Request) -> web.Response:
        if request.path == "/s1/engine":
            return web.json_response({}, status=404)
        return web.json_response(answer | {"data": [{"id": "agreeable", "meta": {"n_vocab": VOCABULARY}}]})

    app = web.Application()
    app.router.add_route("*", "/{path:.*}", agree)
    runner = web.AppRunner(app, access_log=None, shutdown_timeout=0.1)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    try:
        yield f"http://127.0.0.1:{runner.addresses[0][1]}"
    finally:
        await runner.cleanup()


def bound(handler: Callable[[Toy, web.Request], Any], toy: Toy) -> Any:
    async def bound(request: web.Request) -> web.StreamResponse:
        return await handler(toy, request)

    return bound


async def _health(_: Toy, __: web.Request) -> web.Response:
    return web.Response()


async def _models(toy: Toy, _: web.Request) -> web.Response:
    return web.json_response({"data": [{"id": toy.name, "max_model_len": MAX_MODEL_LEN}]})


async def _chat(_: Toy, request: web.Request) -> web.Response:
    return web.json_response({"error": {"message": "the toy has no chat", "param": None}}, status=400)


async def _tokenize(toy: Toy, request: web.Request) -> web.Response:
    body = await request.json()
    if "messages" in body:
        toy.rendered.append(body)
    tokens = toy.prompt if "messages" in body else encode(body["prompt"])
    return web.json_response({"tokens": tokens, "count": len(tokens), "max_model_len": MAX_MODEL_LEN})


async def _detokenize(_: Toy, request: web.Request) -> web.Response:
    return web.json_response({"prompt": text_of((await request.json())["tokens"])})


async def _completions(toy: Toy, request: web.Request) -> web.StreamResponse:
    whole = await request.json()
    body = {k: v for k, v in whole.items() if k not in toy.ignores or k in ("prompt", "max_tokens")}
    if "max_tokens" in toy.ignores:
        body["max_tokens"] += 1
    beyond = [token for token in body.get("stop_token_ids", []) if token >= VOCABULARY]
    if beyond:
        message = f"token_id(s) {beyond} in stop_token_ids … Vocabulary size: {VOCABULARY}"
        return web.json_response({"error": {"message": message, "param": "stop_token_ids"}}, status=400)
    if toy.drafts and body.get("logit_bias"):
        message = (
            "The min_p and logit_bias sampling parameters are not yet supported with speculative decoding."
        )
        return web.json_response({"error": {"message": message, "param": None}}, status=400)
    if body.get("stream"):
        toy.bodies.append(body)
        if toy.refuse is not None:
            return web.json_response(toy.refuse[1], status=toy.refuse[0])
    toy.active += 1
    try:
        return await _generate(toy, request, body)
    except asyncio.CancelledError:
        toy.cancelled += 1
        raise
    finally:
        toy.active -= 1


async def _generate(toy: Toy, request: web.Request, body: dict[str, Any]) -> web.StreamResponse:
    stop = frozenset(body.get("stop_token_ids", []))
    allowed = frozenset(body.get("allowed_token_ids", range(VOCABULARY)))
    banned = frozenset(range(VOCABULARY)) - allowed
    banned |= {int(token) for token, bias in body.get("logit_bias", {}).items() if bias == -100}
    output: list[int] = []
    finish = "length"
    stop_texts = body.get("stop", [])
    seed = body.get("seed", 0) if toy.heeds_seeds else 0
    while len(output) < body["max_tokens"]:
        early = len(output) < body.get("min_tokens", 0)
        masked = banned | (stop | {EOS} if early else frozenset())
        output.append(toy.next([*body["prompt"], *output], masked=masked, seed=seed))
        if TEXTS[output[-1]] in stop_texts:
            ends = {"finish_reason": "stop", "stop_reason": TEXTS[output[-1]]}
            return await _stream(toy, request, output, ends)
        if output[-1] in stop | {EOS}:
            finish = "stop"
            break
    reason = output[-1] if finish == "stop" and output[-1] != EOS else None
    ends = {"finish_reason": finish, "stop_reason": reason}
    returned = "return_token_ids" in body
    if body.get("stream"):
        return await _stream(toy, request, output, ends)
    shown = output[:-1] if finish == "stop" else output
    if body.get("skip_special_tokens", True):
        shown = [token for token in shown if token not in SPECIALS]
    choice = {"text": text_of(shown), "token_ids": output if returned else None, **ends}
    counted = 1 if "prompt" in toy.ignores else len(body["prompt"])
    return web.json_response({"choices": [choice], "usage": {"prompt_tokens": counted}})


async def _stream(
    toy: Toy, request: web.Request, output: list[int], ends: dict[str, Any]
) -> web.StreamResponse:
    response = web.StreamResponse(headers={"content-type": "text/event-stream"})
    await response.prepare(request)
    for count, token in enumerate(output, start=1):
        if toy.gate is not None:
            await toy.gate.acquire()
        last = count == len(output)
        # A stop string's text is only shown if that is asked for, which all who use it here do.
        hidden = last and ends["finish_reason"] == "stop" and not isinstance(ends["stop_reason"], str)
        choice = {
            "text": "" if hidden else TEXTS[token],
            "token_ids": [token],
            **(ends if last else {"finish_reason": None}),
        }
        await response.write(b"data: " + json.dumps({"choices": [choice]}).encode() + b"\n\n")
        if toy.stall_after == count:
            await asyncio.Event().wait()
    await response.write(b"data: [DONE]\n\n")
    return response
