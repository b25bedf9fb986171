"""The toy engine with our plugin: one uninterrupted generation under `BudgetMachine`, a token at a time.

Tokens come as `Toy.gate` lets them; `told` is what the gateway has told it to end.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

from aiohttp import web

from server.budget.machine import BudgetMachine
from server.budget.receipt import EngineReceipt, count_tokens
from server.budget.spec import BUDGET_FIELDS, EffectiveBudget, ThinkingBudget, minimum_room, resolve
from server.engine.splitting import StreamSplitter, split_text
from tests.gateway.toy_engine import MAX_MODEL_LEN, Toy, bound, serving_toy, text_of, toy_app
from tests.support.toy_markers import EOS, toy_markers

IDS = toy_markers()


@dataclass
class ToyNative(Toy):
    name: str = "toy-native"
    enforces: tuple[str, ...] = BUDGET_FIELDS
    dies_when_told: bool = False
    tells_markers: bool = True
    told: list[tuple[str, str]] = field(default_factory=list)
    asked: list[dict[str, Any]] = field(default_factory=list)
    """Bodies of chat requests that aren't probes."""
    receipts: dict[str, EngineReceipt] = field(default_factory=dict)
    running: dict[str, BudgetMachine] = field(default_factory=dict)
    waiting_words: dict[str, str] = field(default_factory=dict)
    dead: asyncio.Event = field(default_factory=asyncio.Event)


@asynccontextmanager
async def running_native(toy: ToyNative) -> AsyncIterator[ToyNative]:
    toy.missing |= {"/v1/chat/completions"}
    app = toy_app(toy)
    app.router.add_post("/v1/chat/completions", bound(_chat, toy))
    app.router.add_get("/s1/engine", bound(_description, toy))
    app.router.add_get("/s1/receipts/{id}", bound(_receipt, toy))
    if toy.tells_markers:
        app.router.add_get("/s1/markers", bound(_markers, toy))
    app.router.add_post("/s1/end_thinking/{id}", bound(_end_thinking, toy))
    async with serving_toy(toy, app):
        yield toy


async def _description(toy: ToyNative, _: web.Request) -> web.Response:
    family = IDS.family
    return web.json_response(
        {
            "protocol": 1,
            "processor": "v1",
            "family": family.name,
            "think_start": family.think_start,
            "think_end": family.think_end,
            "wait_text": family.wait_text,
            "answer_prompt": family.answer_prompt,
            "enforces": list(toy.enforces),
            "max_model_len": MAX_MODEL_LEN,
            "minimum_room": minimum_room(opening_tokens=len(IDS.start), exit_tokens=IDS.exit_tokens()),
        }
    )


async def _markers(_: ToyNative, __: web.Request) -> web.Response:
    return web.json_response(IDS.to_json())


async def _receipt(toy: ToyNative, request: web.Request) -> web.Response:
    found = toy.receipts.get(request.match_info["id"])
    if found is None or found.output_tokens < int(request.query["output_tokens"]):
        return web.json_response({"error": {"message": "no such receipt"}}, status=404)
    return web.json_response(found.to_json())


async def _end_thinking(toy: ToyNative, request: web.Request) -> web.Response:
    receipt_id, ended_by = request.match_info["id"], request.query["ended_by"]
    toy.told.append((receipt_id, ended_by))
    if toy.dies_when_told:
        toy.dead.set()
        request.transport.abort()
        return web.Response()
    machine = toy.running.get(receipt_id)
    if machine is None:
        toy.waiting_words.setdefault(receipt_id, ended_by)
        return web.json_response({"state": "absent"})
    thinking = machine.thinking_end is None
    machine.end_thinking(ended_by)
    return web.json_response({"state": "thinking" if thinking else "answering"})


def _machine(toy: ToyNative, body: dict[str, Any], room: int) -> tuple[BudgetMachine, str | None]:
    xargs = body.get("vllm_xargs", {})
    receipt_id = xargs.get("receipt_id")
    opened = IDS.opened(toy.prompt)
    effective = EffectiveBudget(max=MAX_MODEL_LEN, min=0, num_waits=0, landing=0, clamped_by=())
    if receipt_id is not None:
        effective = resolve(
            ThinkingBudget.from_fields(xargs),
            room=room,
            limited_by="max_completion_tokens",
            opening_tokens=0 if opened else len(IDS.start),
            exit_tokens=IDS.exit_tokens(),
        )
    return BudgetMachine(IDS, effective, opened=opened), receipt_id


async def _chat(toy: ToyNative, request: web.Request) -> web.StreamResponse:
    body = await request.json()
    probing = str(body.get("vllm_xargs", {}).get("receipt_id", "")).startswith("probe-")
    if not probing:
        toy.asked.append(body)
    toy.active += 1
    dying = asyncio.create_task(toy.dead.wait())
    answering = asyncio.create_task(_answer(toy, request, body, paced=not probing))
    try:
        await asyncio.wait({dying, answering}, return_when=asyncio.FIRST_COMPLETED)
        if answering.done():
            return await answering
        request.transport.abort()
        return web.Response()
    except asyncio.CancelledError:
        toy.cancelled += 1
        raise
    finally:
        toy.active -= 1
        dying.cancel()
        answering.cancel()


async def _answer(
    toy: ToyNative, request: web.Request, body: dict[str, Any], *, paced: bool
) -> web.StreamResponse:
    room = min(
        body.get("max_completion_tokens") or body.get("max_tokens") or MAX_MODEL_LEN,
        MAX_MODEL_LEN - len(toy.prompt),
    )
    machine, receipt_id = _machine(toy, body, room)
    if not body.get("stream"):
        output = [token async for token in _tokens(toy, machine, receipt_id, room, paced=paced)]
        return web.json_response(_whole(toy, body, machine, output))
    response = web.StreamResponse(headers={"content-type": "text/event-stream"})
    await response.prepare(request)

    async def send(choices: list[dict[str, Any]], **rest: Any) -> None:
        chunk = {"id": "x", "object": "chat.completion.chunk", "model": toy.name, "choices": choices, **rest}
        await response.write(b"data: " + json.dumps(chunk).encode() + b"\n\n")

    ids = bool(body.get("return_token_ids"))
    begin = {"index": 0, "delta": {"role": "assistant", "content": ""}, "finish_reason": None}
    await send([begin], **({"prompt_token_ids": toy.prompt} if ids else {}))
    splitter = StreamSplitter(IDS.family, start=IDS.start, end=IDS.end)
    output: list[int] = []
    async for token in _tokens(toy, machine, receipt_id, room, paced=paced):
        output.append(token)
        pieces = splitter.push(text_of([t for t in output if t != EOS]), output)
        said = {"reasoning": pieces.reasoning, "content": pieces.content}
        choice = {"index": 0, "delta": {k: v for k, v in said.items() if v}, "finish_reason": None}
        last = token == EOS or len(output) == room
        if last:
            choice |= {"finish_reason": "stop" if token == EOS else "length", "stop_reason": None}
        await send([choice | ({"token_ids": [token]} if ids else {})])
    await send([], usage=_usage(toy, machine, output))
    await response.write(b"data: [DONE]\n\n")
    return response


async def _tokens(
    toy: ToyNative, machine: BudgetMachine, receipt_id: str | None, room: int, *, paced: bool
) -> AsyncIterator[int]:
    """Leaves the receipt, however it ends."""
    if receipt_id is not None:
        toy.running[receipt_id] = machine
        if (word := toy.waiting_words.pop(receipt_id, None)) is not None:
            machine.end_thinking(word)
    output: list[int] = []
    try:
        while len(output) < room and EOS not in output[-1:]:
            if paced and toy.gate is not None:
                await toy.gate.acquire()
            token = toy.next([*toy.prompt, *output], masked=machine.masked)
            output.append(machine.commit(token) if receipt_id is not None else token)
            yield output[-1]
    finally:
        if receipt_id is not None:
            toy.receipts[receipt_id] = machine.receipt(receipt_id)
            del toy.running[receipt_id]


def _whole(toy: ToyNative, body: dict[str, Any], machine: BudgetMachine, output: list[int]) -> dict[str, Any]:
    pieces = split_text(text_of([t for t in output if t != EOS]), IDS.family)
    ids = bool(body.get("return_token_ids"))
    choice = {
        "index": 0,
        "message": {"role": "assistant", "content": pieces.content, "reasoning": pieces.reasoning},
        "logprobs": None,
        "finish_reason": "stop" if output[-1] == EOS else "length",
        "stop_reason": None,
        "token_ids": output if ids else None,
    }
    return {
        "id": "x",
        "object": "chat.completion",
        "model": toy.name,
        "choices": [choice],
        "usage": _usage(toy, machine, output),
        "prompt_token_ids": toy.prompt if ids else None,
    }


def _usage(toy: ToyNative, machine: BudgetMachine, output: list[int]) -> dict[str, Any]:
    counted = count_tokens(machine.receipt(""), len(output))
    return {
        "prompt_tokens": len(toy.prompt),
        "completion_tokens": len(output),
        "total_tokens": len(toy.prompt) + len(output),
        "completion_tokens_details": {"reasoning_tokens": counted.thinking},
    }
