"""The forms in which an answer of the chat pipeline goes out: chat completions, Messages, Responses."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Any, Protocol

import orjson
from starlette.types import Scope

from server.gateway.apis.error_forms import error_body
from server.gateway.apis.messages_answer import MessageStream, message_of_completion
from server.gateway.apis.responses_answer import ResponseShape, ResponseStream, response_of_completion
from server.gateway.chat.sse import DONE, Failure, event_bytes, told_as_error
from server.gateway.chat.streaming import StreamShape
from server.gateway.errors import describe

Read = Callable[[dict[str, Any]], Iterable[dict[str, Any]]]
"""From one chunk of the chat stream to the events that the client gets."""


@dataclass(frozen=True, slots=True)
class StreamForm:
    read: Read
    closing: bytes | None = None
    """Data of the event that ends the stream."""
    failure: Failure = told_as_error


class AnswerForm(Protocol):
    """Of one answer."""

    is_chat: bool
    """Its chunks are the chat API's own, and no event has a name."""
    begins_with_prompt_tokens: bool
    """A stream's first event tells how many tokens the prompt has."""

    def whole(self, completion: dict[str, Any]) -> dict[str, Any]: ...
    def stream(self) -> StreamForm: ...


MakeForm = Callable[[str, int], AnswerForm]
"""From the request's id and the time to the form of its answer."""


def stream_shape(shape: StreamShape, form: AnswerForm) -> StreamShape:
    """The chunks that `form` reads: the other APIs always tell the usage."""
    if form.is_chat:
        return shape
    return replace(shape, wants_usage_chunk=True, reasoning_details=False)


class ChatForm:
    is_chat = True
    begins_with_prompt_tokens = False

    def whole(self, completion: dict[str, Any]) -> dict[str, Any]:
        return completion

    def stream(self) -> StreamForm:
        return StreamForm(lambda chunk: (chunk,), closing=DONE)


class MessagesForm:
    is_chat = False
    begins_with_prompt_tokens = True

    def __init__(self, request_id: str) -> None:
        self._id = f"msg_{request_id}"

    def whole(self, completion: dict[str, Any]) -> dict[str, Any]:
        return message_of_completion(completion, id=self._id)

    def stream(self) -> StreamForm:
        return StreamForm(MessageStream(self._id).read)


class ResponsesForm:
    is_chat = False
    begins_with_prompt_tokens = False

    def __init__(self, request_id: str, created: int, body: Mapping[str, Any]) -> None:
        self._shape = ResponseShape(f"resp_{request_id}", created, body)

    def whole(self, completion: dict[str, Any]) -> dict[str, Any]:
        return response_of_completion(completion, self._shape)

    def stream(self) -> StreamForm:
        stream = ResponseStream(self._shape)

        def failure(error: Exception, scope: Scope) -> bytes:
            status, envelope = describe(error)
            event = stream.fail(error_body(envelope, status, scope)["error"])
            return event_bytes(orjson.dumps(event), event["type"])

        return StreamForm(stream.read, failure=failure)
