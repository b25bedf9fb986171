"""Live control of a running completion's thinking (docs/live-control.md), and llama.cpp's form of it."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from fastapi import APIRouter, Request
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from server.gateway.access import caller_of
from server.gateway.body import read_body
from server.gateway.context import context_of
from server.gateway.errors import Conflict
from server.gateway.validation import invalid_request

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


_BODY: dict[str, Any] = {
    "requestBody": {
        "required": True,
        "content": {"application/json": {"schema": ControlRequest.model_json_schema()}},
    }
}


@router.post(
    "/v1/chat/completions/control",
    summary="End a running completion's thinking, in llama.cpp's form",
    openapi_extra=_BODY,
)
async def control(request: Request) -> ControlResult:
    body = await read_body(request, context_of(request).settings)
    try:
        asked = ControlRequest.model_validate(body)
    except ValidationError as error:
        raise invalid_request(error) from None
    await _answer_now(request, asked.id)
    return ControlResult(id=asked.id, action=asked.action)


@router.post(
    "/v1/chat/completions/{id}/answer_now",
    summary="End a running completion's thinking after its next token, so that it answers",
)
async def answer_now(request: Request, id: str) -> ControlResult:
    await _answer_now(request, id)
    return ControlResult(id=id, action="answer_now")


async def _answer_now(request: Request, id: str) -> None:
    refusal: Conflict | None = None
    applied = False
    for live in context_of(request).live.find(caller_of(request).account, id):
        try:
            await live.answer_now()
            applied = True
        except Conflict as error:
            refusal = error
    if refusal is not None and not applied:
        raise refusal
