"""Routes that are handed to the engine as they are, where it has them: no thinking budget is theirs.

Keys, their models and their requests per minute hold here, too. /v1/completions generates, but its thinking
can't be told from its text: a key whose thinking or tokens are limited can't use it. The others take
one of the key's places. What would cost an engine too much is refused before (`passthrough_fields.py`).
"""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import aclosing
from typing import Any

import orjson
from fastapi import APIRouter, Request
from starlette.requests import ClientDisconnect
from starlette.responses import Response

from server.budget.shown import show
from server.budget.spec import BUDGET_FIELDS, ThinkingBudget
from server.gateway.access.callers import caller_of, resolve_model
from server.gateway.access.operator_fields import check_operator_fields
from server.gateway.apis.body import read_body
from server.gateway.apis.passthrough_fields import (
    check_completion,
    check_detokenize,
    check_embedding,
    check_tokenize,
)
from server.gateway.chat.chat_fields import RESERVED_XARGS
from server.gateway.chat.prompt_work import work_on_prompt
from server.gateway.chat.settle import Rungs
from server.gateway.chat.sse import Emit, EventStream
from server.gateway.connection.boundary import identify
from server.gateway.connection.disconnect import unless_disconnected
from server.gateway.context import context_of
from server.gateway.engines.demand import estimate_tokens
from server.gateway.engines.engine import Engine
from server.gateway.errors import EngineRefused, Forbidden, InvalidRequest
from server.gateway.observe.observer import observer_of
from server.gateway.sampling_limits import check_sampling_limits

router = APIRouter(tags=["pass-through"])

_BUDGET_NAMES = frozenset(BUDGET_FIELDS) | {"thinking_token_budget"}
_LIMIT_THINKING = ("max_thinking_tokens", "max_thinking_ms")
_NO_TEXT = frozenset({"model", "encoding_format", "dimensions", "user"})
"""Fields of embeddings."""
_HAS_NO_ROUTE = (404, 405, 501)
_OBJECT = {"content": {"application/json": {"schema": {"type": "object"}}}, "required": True}


@router.post(
    "/v1/completions",
    summary="Complete a text, without budgets: handed to the engine as it is",
    openapi_extra={"requestBody": _OBJECT},
)
async def create_completion(request: Request) -> Response:
    fields = await _read(request)
    _check_uncounted(request, fields.get("model"))
    _check_no_budget(fields)
    check_sampling_limits(fields)
    choices = check_completion(fields)
    stream = fields.get("stream", False)
    if not isinstance(stream, bool):
        raise InvalidRequest(f"`stream` must be true or false. Given: {show(stream)}", param="stream")
    if stream:
        return _streamed(request, fields, choices)
    return _json(await _answer(request, fields, choices))


@router.post(
    "/v1/embeddings",
    summary="Embed texts, if the engine does: handed to it as it is",
    openapi_extra={"requestBody": _OBJECT},
)
async def create_embedding(request: Request) -> Response:
    fields = await _read(request)
    encoding = fields.get("encoding_format", "float")
    if encoding not in ("float", "base64"):
        raise InvalidRequest(
            f"`encoding_format` must be one of 'float', 'base64'. Given: {show(encoding)}",
            param="encoding_format",
        )
    check_embedding(fields)
    # Of all that may have text: vLLM embeds messages, too.
    estimate = estimate_tokens([value for name, value in fields.items() if name not in _NO_TEXT])
    async with context_of(request).turnstile.counted(request, tokens=estimate) as charge:
        try:
            answer = await _answer(request, fields, 1)
        except ClientDisconnect:
            # The engine has worked for it.
            charge(estimate)
            raise
        charge(_prompt_tokens(answer, estimate))
    return _json(answer)


@router.post(
    "/tokenize",
    summary="Tokens of a text or of messages: handed to the engine as it is",
    openapi_extra={"requestBody": _OBJECT},
)
async def tokenize(request: Request) -> Response:
    fields = await _read(request)
    check_tokenize(fields)
    return _json(await _work(request, fields))


@router.post(
    "/detokenize",
    summary="The text of tokens: handed to the engine as it is",
    openapi_extra={"requestBody": _OBJECT},
)
async def detokenize(request: Request) -> Response:
    fields = await _read(request)
    check_detokenize(fields)
    return _json(await _work(request, fields))


async def _read(request: Request) -> dict[str, Any]:
    body = await read_body(request, context_of(request).settings)
    fields = {name: value for name, value in body.items() if value is not None}
    model = fields.get("model")
    if model is not None and not isinstance(model, str):
        raise InvalidRequest(f"`model` must be a string. Given: {show(model)}", param="model")
    check_operator_fields(fields, caller_of(request))
    return fields


def _json(answer: dict[str, Any]) -> Response:
    return Response(orjson.dumps(answer), media_type="application/json")


async def _answer(request: Request, fields: dict[str, Any], generations: int) -> dict[str, Any]:
    model = _model(request, fields)
    engine = context_of(request).engines.choose(model, ThinkingBudget())
    path, request_id = request.url.path, identify(request, None)
    with engine.occupied(generations):
        return await unless_disconnected(
            request.scope,
            request.receive,
            _whole(engine, path, _body(fields, model), request_id),
            cut_off=context_of(request).drain.cut_off,
        )


def _streamed(request: Request, fields: dict[str, Any], generations: int) -> Response:
    model = _model(request, fields)
    engine = context_of(request).engines.choose(model, ThinkingBudget())
    path, request_id = request.url.path, identify(request, None)

    async def produce(emit: Emit) -> None:
        with engine.occupied(generations):
            await _stream(engine, path, _body(fields, model), request_id, emit)

    return EventStream(produce, cut_off=context_of(request).drain.cut_off)


async def _work(request: Request, fields: dict[str, Any]) -> dict[str, Any]:
    """The answer to what generates nothing."""
    model = _model(request, fields)
    path, request_id = request.url.path, identify(request, None)

    async def ask(engine: Engine) -> dict[str, Any]:
        return await _whole(engine, path, _body(fields, model), request_id)

    return await work_on_prompt(request, model, fields, ask)


def _model(request: Request, fields: dict[str, Any]) -> str:
    model = resolve_model(caller_of(request), context_of(request).engines, fields.get("model"))
    observer_of(request.scope).handed_on(model=model)
    return model


def _body(fields: dict[str, Any], model: str) -> bytes:
    return orjson.dumps(fields | {"model": model})


def _prompt_tokens(answer: dict[str, Any], otherwise: int) -> int:
    """As the engine has counted."""
    usage = answer.get("usage")
    counted = usage.get("prompt_tokens") if isinstance(usage, dict) else None
    return counted if isinstance(counted, int) else otherwise


async def _whole(engine: Engine, path: str, body: bytes, request_id: str) -> dict[str, Any]:
    try:
        return await engine.post(path, body, request_id)
    except EngineRefused as error:
        raise _explained(error, path) from error


async def _stream(engine: Engine, path: str, body: bytes, request_id: str, emit: Emit) -> None:
    try:
        async with aclosing(engine.events(path, body, request_id)) as events:
            async for event in events:
                await emit(orjson.dumps(event))
    except EngineRefused as error:
        raise _explained(error, path) from error


def _explained(error: EngineRefused, path: str) -> EngineRefused:
    if error.status not in _HAS_NO_ROUTE:
        return error
    return EngineRefused(f"the engine has no {path}, or not for this model: {error}", status=404)


def _check_no_budget(fields: Mapping[str, Any]) -> None:
    xargs = fields.get("vllm_xargs")
    hidden = xargs if isinstance(xargs, Mapping) else {}
    given = {name: value for name, value in fields.items() if name in _BUDGET_NAMES}
    given |= {f"vllm_xargs.{name}": value for name, value in hidden.items() if name in RESERVED_XARGS}
    for name, value in given.items():
        if value is not None:
            raise InvalidRequest(
                f"`{name}` is not a field of completions: thinking budgets are for /v1/chat/completions. "
                f"Given: {show(value)}",
                param=name,
            )


def _check_uncounted(request: Request, model: str | None) -> None:
    """Refuse whom something limits that isn't counted here."""
    caller, context = caller_of(request), context_of(request)
    limits = [f"the key's caps.{name}" for name in caller.caps]
    limits += [
        f"the key's quotas.{name}"
        for name, value in caller.quotas.model_dump().items()
        if value is not None and name != "requests_per_minute"
    ]
    rungs = Rungs.of(
        context.policy.current, model=resolve_model(caller, context.engines, model), key=caller.name
    )
    limits += [f"the policy's cap.{name}" for name in rungs.caps() if name in _LIMIT_THINKING]
    if limits:
        raise Forbidden(
            f"'{caller.name}' can't use /v1/completions, which doesn't count what {limits[0]} "
            "limits: use /v1/chat/completions",
            code="not_counted_here",
        )
