"""Live control of a running completion's thinking (docs/live-control.md), and llama.cpp's form of it."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from fastapi import APIRouter, Request
from pydantic import BaseModel, ConfigDict, Field, ValidationError
from starlette.responses import Response

from server.gateway.access.callers import caller_of
from server.gateway.apis.answer_forms import ChatForm
from server.gateway.apis.body import read_body
from server.gateway.chat.chat_service import answer_chat
from server.gateway.context import context_of
from server.gateway.errors import CompletionNotFound, Conflict, InvalidRequest
from server.gateway.live.think_more import ThinkMoreRequest, continuation
from server.gateway.validation import check_members_known, invalid_request
from server.gateway.workers.fleet import fleet_of

router = APIRouter(tags=["chat"])


class ControlRequest(BaseModel):
    """llama.cpp's form."""

    model_config = ConfigDict(strict=True, extra="forbid")

    id: Annotated[str, Field(min_length=1, max_length=200)]
    action: Literal["reasoning_end"]


class ControlResult(BaseModel):
    id: str
    object: Literal["chat.completion.control"] = "chat.completion.control"
    action: Literal["answer_now", "reasoning_end"]
    applied: Literal[True] = True


def _body(model: type[BaseModel]) -> dict[str, Any]:
    schema = model.model_json_schema(ref_template="#/components/schemas/{model}")
    schema.pop("$defs", None)
    return {"requestBody": {"required": True, "content": {"application/json": {"schema": schema}}}}


@router.post(
    "/v1/chat/completions/control",
    summary="End a running completion's thinking, in llama.cpp's form",
    openapi_extra=_body(ControlRequest),
)
async def control(request: Request) -> ControlResult:
    body = await read_body(request, context_of(request).settings)
    check_members_known(body, ControlRequest)
    try:
        asked = ControlRequest.model_validate(body)
    except ValidationError as error:
        raise invalid_request(error) from None
    await fleet_of(request).answer_now(caller_of(request).account, asked.id)
    return ControlResult(id=asked.id, action=asked.action)


@router.post(
    "/v1/chat/completions/{id}/answer_now",
    summary="End a running completion's thinking after its next token, so that it answers",
)
async def answer_now(request: Request, id: str) -> ControlResult:
    await fleet_of(request).answer_now(caller_of(request).account, id)
    return ControlResult(id=id, action="answer_now")


@router.post(
    "/v1/chat/completions/{id}/think_more",
    summary="Think on from a completion that has ended, with more waits, and answer anew",
    openapi_extra=_body(ThinkMoreRequest),
)
async def think_more(request: Request, id: str) -> Response:
    context, account = context_of(request), caller_of(request).account
    body = await read_body(request, context.settings)
    if not context.kept.is_on:
        raise InvalidRequest(
            "no completion can think on here: `think_more_keep_s` or `think_more_keep_tokens` is 0",
            code="think_more_off",
        )
    kept, is_running = await fleet_of(request).kept(account, id)
    if is_running:
        raise Conflict(f"`{id}` has not ended yet", code="still_running")
    if kept is None:
        raise CompletionNotFound(
            f"no completion `{id}` of this key is kept in this gateway: it is too old, others have "
            "taken its place, or another gateway has answered it",
            param="id",
        )
    call = continuation(body, kept, id=id)
    return await answer_chat(request, call, lambda _id, _created: ChatForm())
