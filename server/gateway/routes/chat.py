"""POST /v1/chat/completions."""

from __future__ import annotations

from fastapi import APIRouter, Request
from starlette.responses import Response

from server.gateway.access.callers import caller_of
from server.gateway.access.operator_fields import check_operator_fields
from server.gateway.apis.answer_forms import ChatForm
from server.gateway.apis.api_schemas import reference
from server.gateway.apis.body import read_body
from server.gateway.chat.chat_call import parse_chat
from server.gateway.chat.chat_service import answer_chat
from server.gateway.context import context_of
from server.gateway.routes.direct import DirectRoute

router = APIRouter(tags=["chat"], route_class=DirectRoute)


@router.post(
    "/v1/chat/completions",
    summary="Create a chat completion, with a thinking budget if one is given",
    openapi_extra=reference("ChatCompletionRequest"),
)
async def create_chat_completion(request: Request) -> Response:
    body = await read_body(request, context_of(request).settings)
    check_operator_fields(body, caller_of(request))
    call = parse_chat(body)
    return await answer_chat(request, call, lambda _id, _created: ChatForm())
