"""POST /v1/responses: OpenAI's Responses API, of which nothing is stored (docs/apis.md)."""

from __future__ import annotations

from fastapi import APIRouter, Request
from starlette.responses import Response

from server.gateway.access.callers import caller_of
from server.gateway.access.operator_fields import check_operator_fields
from server.gateway.apis.answer_forms import ResponsesForm
from server.gateway.apis.api_schemas import reference
from server.gateway.apis.body import read_body
from server.gateway.apis.responses_request import chat_fields_of_responses
from server.gateway.chat.chat_call import parse_chat
from server.gateway.chat.chat_service import answer_chat
from server.gateway.context import context_of
from server.gateway.routes.direct import DirectRoute

router = APIRouter(tags=["responses"], route_class=DirectRoute)


@router.post(
    "/v1/responses",
    summary="Create a response, in OpenAI's newer form",
    openapi_extra=reference("ResponsesRequest"),
)
async def create_response(request: Request) -> Response:
    body = await read_body(request, context_of(request).settings)
    check_operator_fields(body, caller_of(request))
    call = parse_chat(chat_fields_of_responses(body))
    return await answer_chat(
        request, call, lambda id, created: ResponsesForm(id, created, body), id_prefix="resp_"
    )
