"""POST /v1/messages and /v1/messages/count_tokens: Anthropic's API (docs/apis.md)."""

from __future__ import annotations

from fastapi import APIRouter, Request
from starlette.responses import Response

from server.gateway.access.callers import caller_of
from server.gateway.access.operator_fields import check_operator_fields
from server.gateway.apis.answer_forms import MessagesForm
from server.gateway.apis.api_schemas import reference
from server.gateway.apis.body import read_body
from server.gateway.apis.messages_request import chat_fields_of_messages
from server.gateway.chat.chat_call import ChatCall, parse_chat
from server.gateway.chat.chat_service import answer_chat, count_prompt
from server.gateway.context import context_of
from server.gateway.routes.direct import DirectRoute

router = APIRouter(prefix="/v1/messages", tags=["messages"], route_class=DirectRoute)


@router.post("", summary="Create a message, in Anthropic's form", openapi_extra=reference("MessagesRequest"))
async def create_message(request: Request) -> Response:
    return await answer_chat(
        request, await _call(request), lambda id, _created: MessagesForm(id), id_prefix="msg_"
    )


@router.post(
    "/count_tokens",
    summary="Count a message's prompt tokens, in Anthropic's form",
    openapi_extra=reference("MessagesCountRequest"),
)
async def count_tokens(request: Request) -> dict[str, int]:
    return {"input_tokens": await count_prompt(request, await _call(request, counting=True))}


async def _call(request: Request, *, counting: bool = False) -> ChatCall:
    body = await read_body(request, context_of(request).settings)
    check_operator_fields(body, caller_of(request))
    return parse_chat(chat_fields_of_messages(body, counting=counting))
