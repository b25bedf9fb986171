"""llama.cpp's server over the random toy model of `toy_engine`: its own routes, in 40 tokens.

Like the real one it streams no ids while a character is unfinished: `Toy.halves` are such tokens.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

from aiohttp import web

from tests.gateway.toy_engine import MAX_MODEL_LEN, SPECIALS, TEXTS, Toy, bound, encode
from tests.support.toy_markers import EOS, VOCABULARY

_RENDERED = "<the toy's prompt>"
UNKNOWN_HALF = 32
"""What its tokenizer makes of the character, if not the halves."""


@asynccontextmanager
async def running_llamacpp(toy: Toy) -> AsyncIterator[Toy]:
    app = web.Application()
    posts: dict[str, Callable[[Toy, web.Request], Any]] = {
        "/apply-template": _apply_template,
        "/tokenize": _tokenize,
        "/detokenize": _detokenize,
        "/completion": _completion,
        "/v1/chat/completions": _chat,
    }
    gets = {"/health": _health, "/v1/models": _models, "/props": _props}
    for path, handler in posts.items():
        if path not in toy.missing:
            app.router.add_post(path, bound(handler, toy))
    for path, handler in gets.items():
        if path not in toy.missing:
            app.router.add_get(path, bound(handler, toy))
    runner = web.AppRunner(app, handler_cancellation=True, access_log=None, shutdown_timeout=0.1)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    toy.url = f"http://127.0.0.1:{runner.addresses[0][1]}"
    try:
        yield toy
    finally:
        await runner.cleanup()


async def _health(_: Toy, __: web.Request) -> web.Response:
    return web.json_response({"status": "ok"})


async def _models(toy: Toy, _: web.Request) -> web.Response:
    return web.json_response({"data": [{"id": toy.name, "meta": {"n_vocab": VOCABULARY}}]})


async def _props(_: Toy, __: web.Request) -> web.Response:
    settings = {"n_ctx": MAX_MODEL_LEN}
    return web.json_response({"default_generation_settings": settings, "eos_token": SPECIALS[EOS]})


async def _apply_template(_: Toy, __: web.Request) -> web.Response:
    return web.json_response({"prompt": _RENDERED})


async def _tokenize(toy: Toy, request: web.Request) -> web.Response:
    content = (await request.json()).get("content", "")
    if content == _RENDERED:
        return web.json_response({"tokens": toy.prompt[:1] if "template" in toy.ignores else toy.prompt})
    if not toy.halves or "\u00e9" not in content:
        return web.json_response({"tokens": encode(content)})
    parts = [encode(part) for part in content.split("\u00e9")]
    spelled = list(toy.halves if toy.spells_halves else (UNKNOWN_HALF,))
    return web.json_response({"tokens": parts[0] + [t for part in parts[1:] for t in spelled + part]})


async def _detokenize(toy: Toy, request: web.Request) -> web.Response:
    return web.json_response({"content": _text(toy, (await request.json())["tokens"], shown=True)})


async def _chat(toy: Toy, request: web.Request) -> web.StreamResponse:
    """Answers whatever it is asked, and tells the thinking apart under its own name."""
    body = await request.json()
    message = {"role": "assistant", "content": "42", "reasoning_content": "6 * 7"}
    if not toy.tells_apart:
        message = {"role": "assistant", "content": "6 * 7, so 42"}
    usage = {"prompt_tokens": len(toy.prompt), "completion_tokens": 5, "total_tokens": len(toy.prompt) + 5}
    if not body.get("stream"):
        choice = {"index": 0, "message": message, "finish_reason": "stop"}
        return web.json_response({"choices": [choice], "usage": usage})
    response = web.StreamResponse(headers={"content-type": "text/event-stream"})
    await response.prepare(request)
    for delta, finish in (({"reasoning_content": "6 * 7"}, None), ({"content": "42"}, None), ({}, "stop")):
        chunk = {"choices": [{"index": 0, "delta": delta, "finish_reason": finish}]}
        await response.write(b"data: " + json.dumps(chunk).encode() + b"\n\n")
    await response.write(b"data: " + json.dumps({"choices": [], "usage": usage}).encode() + b"\n\n")
    await response.write(b"data: [DONE]\n\n")
    return response


async def _completion(toy: Toy, request: web.Request) -> web.StreamResponse:
    body = await request.json()
    if any(token >= VOCABULARY for token in body["prompt"]):
        message = {"code": 400, "message": "Prompt contains invalid tokens", "type": "invalid_request_error"}
        return web.json_response({"error": message}, status=400)
    if body.get("stream"):
        toy.bodies.append(body)
        if toy.refuse is not None:
            return web.json_response(toy.refuse[1], status=toy.refuse[0])
    else:
        toy.repeats.append(body)
    toy.active += 1
    try:
        return await _answer(toy, request, body)
    except (asyncio.CancelledError, ConnectionResetError):
        toy.cancelled += 1
        raise
    finally:
        toy.active -= 1


async def _answer(toy: Toy, request: web.Request, body: dict[str, Any]) -> web.StreamResponse:
    output, stop_type = _generate(toy, body)
    returned = "return_tokens" not in toy.ignores and body.get("return_tokens") is True
    evaluated = 1 if "prompt" in toy.ignores else len(body["prompt"])

    def event(token_ids: list[int], text: str, count: int, *, stop: bool) -> dict[str, Any]:
        return {
            "content": text,
            "tokens": token_ids if returned else [],
            "stop": stop,
            "tokens_predicted": count,
            "tokens_evaluated": evaluated,
            **({"stop_type": stop_type} if stop else {}),
        }

    if not body.get("stream"):
        shown = _text(toy, output, shown=False)
        return web.json_response(event(output, shown, len(output), stop=True))
    response = web.StreamResponse(headers={"content-type": "text/event-stream"})
    await response.prepare(request)

    async def send(data: dict[str, Any]) -> None:
        await response.write(b"data: " + json.dumps(data).encode() + b"\n\n")

    sent = ""
    for count, token in enumerate(output, start=1):
        whole = _text(toy, output[:count], shown=False)
        if not unfinished(toy, token):
            await send(event([token], whole[len(sent) :], count, stop=False))
            sent = whole
        if toy.stall_after == count:
            await asyncio.Event().wait()
    await send(event([], "", len(output), stop=True))
    return response


def unfinished(toy: Toy, token: int) -> bool:
    return token in toy.halves[:1]


def _generate(toy: Toy, body: dict[str, Any]) -> tuple[list[int], str]:
    bias = [] if "logit_bias" in toy.ignores else body.get("logit_bias", [])
    banned = frozenset(t for t, value in bias if value is False and "mask" not in toy.ignores)
    allowed = frozenset(t for t, value in bias if value is not False and value >= 1000) - banned
    most = body["n_predict"] + ("n_predict" in toy.ignores)
    output: list[int] = []
    while len(output) < most:
        masked = frozenset(range(VOCABULARY)) - allowed if allowed else banned
        output.append(toy.next([*body["prompt"], *output], masked=masked))
        if output[-1] == EOS and "eos" not in toy.ignores:
            return output, "eos"
    return output, "limit"


def _text(toy: Toy, token_ids: list[int], *, shown: bool) -> str:
    """The halves of a character make one together, and alone what stands for broken bytes."""
    first, second = toy.halves or (-1, -1)
    text = "".join(
        {first: "\0", second: "\1"}.get(token, "" if token in SPECIALS and not shown else TEXTS[token])
        for token in token_ids
    )
    return text.replace("\0\1", "é").replace("\0", "\ufffd").replace("\1", "\ufffd")
