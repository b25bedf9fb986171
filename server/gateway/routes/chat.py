"""POST /v1/chat/completions."""

from __future__ import annotations

import time

import orjson
from fastapi import APIRouter, Request
from starlette.responses import Response

from server.budget.spec import BudgetError, resolve
from server.gateway.body import read_json_object
from server.gateway.boundary import identify
from server.gateway.chat_call import ChatCall, engine_calls, parse_chat
from server.gateway.completion import complete_chat
from server.gateway.context import context_of
from server.gateway.disconnect import unless_disconnected
from server.gateway.engine import ChatEngine, Engine
from server.gateway.rounds import Rounds
from server.gateway.rounds_fields import check_chat_fields, check_rounds_fields
from server.gateway.settle import Rungs, budget_headers, settle
from server.gateway.sse import Emit, EventStream
from server.gateway.streaming import StreamShape, stream_chat

router = APIRouter(tags=["chat"])

_SCHEMA = {"$ref": "#/components/schemas/ChatCompletionRequest"}


@router.post(
    "/v1/chat/completions",
    summary="Create a chat completion, with a thinking budget if one is given",
    openapi_extra={"requestBody": {"required": True, "content": {"application/json": {"schema": _SCHEMA}}}},
)
async def create_chat_completion(request: Request) -> Response:
    context = context_of(request)
    call = parse_chat(await read_json_object(request, max_bytes=context.settings.max_body_bytes))
    model = context.engines.resolve_model(call.model)
    policy = context.policy.current
    rungs = Rungs.of(policy, model=model)
    engine = context.engines.choose(model, settle(call, rungs, None).budget, call.asked.requested_as)
    call = settle(call, rungs, engine.described)
    headers = budget_headers(call)
    mode = policy.preserve_thinking(model)
    call = await context.earlier_thinking.settle(call, mode, engine=engine, model=model)
    answering = _answering(call, engine)
    _check_room(call, engine)
    request_id = identify(request, call.fields.get("request_id"))
    calls = engine_calls(call, model=model, request_id=request_id)
    id, created = f"chatcmpl-{request_id}", int(time.time())
    if call.stream:
        shape = StreamShape.of(call, id=id, created=created)

        async def produce(emit: Emit) -> None:
            await stream_chat(answering, calls, shape, emit)

        return EventStream(produce, cut_off=context.drain.cut_off, headers=headers)
    completion = await unless_disconnected(
        request.receive,
        complete_chat(
            answering,
            calls,
            id=id,
            created=created,
            hides_reasoning=call.hides_reasoning,
            wants_reasoning_details=call.wants_reasoning_details,
        ),
        cut_off=context.drain.cut_off,
    )
    return Response(orjson.dumps(completion), headers=headers, media_type="application/json")


def _answering(call: ChatCall, engine: Engine) -> ChatEngine:
    """The engine itself, or the gateway's rounds before it.

    Raises:
        InvalidRequest: the request has a field that rounds, or the engine's chat route, can't honour.
    """
    support = engine.status.rounds
    if support is None:
        return engine
    if not call.budget.is_set:
        check_chat_fields(call.fields, url=engine.url, dialect=support.dialect)
        return engine
    check_rounds_fields(call.fields, url=engine.url, dialect=support.dialect)
    return Rounds(engine, support)


def _check_room(call: ChatCall, engine: Engine) -> None:
    """Refuse a budget that doesn't fit the completion tokens; the engine knows of the context.

    Raises:
        BudgetError: `param` is the field the client gave.
    """
    description = engine.described
    if not call.budget.is_set or call.room is None or description is None or call.answer_is_constrained:
        return
    field, room = call.room
    try:
        # Only the sum of the marker lengths matters, and that is what minimum_room is.
        resolve(
            call.budget,
            room=room,
            limited_by="max_completion_tokens",
            opening_tokens=0,
            exit_tokens=description.minimum_room - 1,
        )
    except BudgetError as error:
        if error.param != "max_completion_tokens":
            raise
        message = str(error).replace("`max_completion_tokens`", f"`{field}`")
        raise BudgetError(field, message, error.value) from None
