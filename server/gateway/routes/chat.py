"""POST /v1/chat/completions."""

from __future__ import annotations

from fastapi import APIRouter, Request
from starlette.responses import Response

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
    call = parse_chat(await read_body(request, context_of(request).settings))
    return await answer_chat(request, call, lambda _id, _created: ChatForm())
