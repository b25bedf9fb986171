"""From a chat request, in whichever API it came, to its answer: the one way that all generation takes."""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable, Mapping
from functools import partial
from typing import Any

import orjson
from starlette.requests import Request
from starlette.responses import Response

from server.budget.spec import BudgetError, resolve
from server.gateway.access.callers import caller_of, resolve_model
from server.gateway.apis.answer_forms import AnswerForm, MakeForm, stream_shape
from server.gateway.chat.bursts import Burst
from server.gateway.chat.chat_call import ChatCall, engine_calls
from server.gateway.chat.completion import complete_chat
from server.gateway.chat.granularity import paced
from server.gateway.chat.prompt_work import work_on_prompt
from server.gateway.chat.settle import Rungs, budget_headers, settle
from server.gateway.chat.sse import Emit, EventStream
from server.gateway.chat.streaming import EmitChunk, StreamShape, stream_chat
from server.gateway.chat.turnstile import Grant
from server.gateway.connection.boundary import identify
from server.gateway.connection.disconnect import unless_disconnected
from server.gateway.context import Context, context_of
from server.gateway.engines.engine import ChatEngine, Engine
from server.gateway.errors import InvalidRequest
from server.gateway.live.control import LiveRequest
from server.gateway.live.kept_thinking import KeepingEngine, Kept
from server.gateway.live.think_more import support_of, thought_so_far
from server.gateway.observe.observer import observer_of
from server.gateway.parallel.search import ParallelSearch, check_settled, rebase_before
from server.gateway.rounds.completions_vllm import VllmCompletions
from server.gateway.rounds.fields import check_chat_fields, check_rounds_fields, prompt_fields
from server.gateway.rounds.procedure import Rounds


async def answer_chat(
    request: Request, call: ChatCall, make_form: MakeForm, *, id_prefix: str = "chatcmpl-"
) -> Response:
    """Answer `call` under the policy, in the form of the API it came by.

    Args:
        id_prefix: what that API's ids begin with.

    Raises:
        GatewayError, BudgetError: before anything was sent.
    """
    context, caller = context_of(request), caller_of(request)
    model = resolve_model(caller, context.engines, call.model)
    rungs = Rungs.of(context.policy.current, model=model, key=caller.name, key_caps=caller.caps)
    engine = context.engines.choose(model, settle(call, rungs, None).budget, call.asked.requested_as)
    call = settle(call, rungs, engine.budget_description)
    observer_of(request.scope).asked(call, model=model)
    check_settled(call, context.reward)
    request_id = identify(request, call.fields.get("request_id"))

    live = LiveRequest(f"{id_prefix}{request_id}", call.budget.is_set)

    async def respond(grant: Grant) -> Response:
        return await _respond(request, grant, make_form, live, model=model, request_id=request_id)

    response = context.turnstile.admit(request, model, call, respond)
    return context.live.following(caller.account, live, response)


async def _respond(
    request: Request,
    grant: Grant,
    make_form: MakeForm,
    live: LiveRequest,
    *,
    model: str,
    request_id: str,
) -> Response:
    """The answer of the engine that the request was let through to."""
    context, engine = context_of(request), grant.engine
    headers = budget_headers(grant.call)
    mode = context.policy.current.preserve_thinking(model)
    settled = context.earlier_thinking.settle(grant.call, mode, engine=engine, model=model)
    if mode == "keep":
        # The engine may be asked whether it can.
        settled = unless_disconnected(request.scope, request.receive, settled, cut_off=context.drain.cut_off)
    call = await settled
    call = paced(call, engine, context.settings.stream_granularity)
    inner = await _answering(call, engine, context)
    _check_room(call, engine)
    id, created = f"chatcmpl-{request_id}", int(time.time())
    form = make_form(request_id, created)
    counts_prompt = call.stream and form.begins_with_prompt_tokens and _tells_ids(call, engine)
    kept = _kept(call, engine, context, model=model)
    calls = engine_calls(
        call,
        model=model,
        request_id=request_id,
        wants_prompt_ids=counts_prompt,
        keeps_ids=kept is not None and kept.refusal is None,
    )
    answering: ChatEngine = live.through(
        grant.watched(inner), engine, choices=len(calls), budgeted=call.budget.is_set
    )
    if kept is not None:
        answering = KeepingEngine.of(answering, context.kept, (caller_of(request).account, live.id), kept)
    # The outermost, which `receipt_for` tells of the receipts.
    answering = observer_of(request.scope).watched(answering, engine=engine.url, call=call)
    shape = stream_shape(StreamShape.of(call, id=id, created=created), form)
    search = ParallelSearch.of(
        call,
        answering,
        calls,
        shape,
        model=model,
        inner=inner,
        reward=context.reward,
        settings=context.settings,
    )
    if call.parallel is not None:
        observer_of(request.scope).branched(call.parallel.method, call.parallel.width)
    if call.stream:
        chunks = search.stream if search else partial(stream_chat, answering, calls, shape)
        return _stream(request, grant, chunks, form, calls[0].burst, headers=headers)
    whole = search.complete() if search else complete_chat(answering, calls, shape)
    completion = await unless_disconnected(
        request.scope, request.receive, whole, cut_off=context.drain.cut_off
    )
    await grant.settle()
    return Response(orjson.dumps(form.whole(completion)), headers=headers, media_type="application/json")


async def count_prompt(request: Request, call: ChatCall) -> int:
    """Tokens of the prompt that the engine would make of `call`.

    Raises:
        GatewayError: as `work_on_prompt`.
    """
    context = context_of(request)
    model = resolve_model(caller_of(request), context.engines, call.model)
    count = partial(_count_prompt, context, call, model)
    return await work_on_prompt(request, model, call.fields, count)


async def _count_prompt(context: Context, call: ChatCall, model: str, engine: Engine) -> int:
    mode = context.policy.current.preserve_thinking(model)
    call = await context.earlier_thinking.settle(call, mode, engine=engine, model=model)
    support = engine.status.rounds
    dialect = VllmCompletions if support is None else support.dialect
    known = dialect.prompt_fields | ({"tools"} if dialect is VllmCompletions else frozenset())
    if "tools" in call.fields and "tools" not in known:
        raise InvalidRequest("`tools` can't be counted by this engine", param="tools")
    rendered = await dialect(engine, model).render(prompt_fields(call.fields, known))
    return len(rendered.token_ids)


def _stream(
    request: Request,
    grant: Grant,
    chunks: Callable[[EmitChunk], Awaitable[None]],
    form: AnswerForm,
    burst: Burst,
    *,
    headers: Mapping[str, str],
) -> Response:
    stream = form.stream()

    async def produce(emit: Emit) -> None:
        last: list[dict[str, Any]] = []

        async def send(chunk: dict[str, Any]) -> None:
            for event in stream.read(chunk):
                await emit(orjson.dumps(event), event=None if form.is_chat else event["type"])

        async def pass_on(chunk: dict[str, Any]) -> None:
            if form.is_chat or chunk["choices"]:
                await send(chunk)
            else:
                last.append(chunk)

        await chunks(pass_on)
        # Settled before a client sees the end: its next request may need what is given back.
        await grant.settle()
        for chunk in last:
            await send(chunk)

    return EventStream(
        produce,
        burst=burst,
        cut_off=context_of(request).drain.cut_off,
        headers=headers,
        closing=stream.closing,
        failure=stream.failure,
    )


async def _answering(call: ChatCall, engine: Engine, context: Context) -> ChatEngine:
    """The engine itself, or the gateway's rounds or search before it.

    Raises:
        Conflict, EngineDied, EngineMisbehaved: a thinking that is to go on can't.
        InvalidRequest: the request has a field that rounds, or the engine's chat route, can't honour.
    """
    if call.continues is not None:
        able = await support_of(engine)
        return Rounds(engine, able, continued=thought_so_far(call.continues, able.ids))
    support = engine.status.rounds
    if call.parallel is not None and call.parallel.method == "rebase" and context.reward is not None:
        return rebase_before(engine, call.parallel, context.reward, context.settings)
    if support is None:
        return engine
    if not call.budget.is_set:
        check_chat_fields(call.fields, dialect=support.dialect)
        return engine
    check_rounds_fields(call.fields, dialect=support.dialect)
    return Rounds(engine, support)


def _kept(call: ChatCall, engine: Engine, context: Context, *, model: str) -> Kept | None:
    """What is to be kept of its answer for `think_more`; None if this gateway keeps nothing of it."""
    if not context.kept.is_on or call.beam_search:
        return None
    gives_ids = engine.status.description is not None or call.budget.is_set
    return Kept.of(call, model=model, gives_ids=gives_ids)


def _tells_ids(call: ChatCall, engine: Engine) -> bool:
    """Rounds know the prompt's ids; of the engines themselves vLLM tells them."""
    support = engine.status.rounds
    return call.budget.is_set or support is None or support.dialect is VllmCompletions


def _check_room(call: ChatCall, engine: Engine) -> None:
    """Refuse a budget that doesn't fit the completion tokens; the engine knows of the context.

    Raises:
        BudgetError: `param` is the field the client gave.
    """
    description = engine.budget_description
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
