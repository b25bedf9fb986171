"""A chat answer in the form of OpenAI's Responses API: a response object, or the events of a stream. Pure."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from server.gateway.apis.answer_parts import Answer, Closed, Grew, Opened, Part, Step
from server.gateway.apis.namespaces import members_of_call
from server.gateway.apis.responses_request import wants_summary

Event = dict[str, Any]

_ECHOED: Mapping[str, Any] = {
    "instructions": None,
    "max_output_tokens": None,
    "metadata": {},
    "parallel_tool_calls": True,
    "temperature": None,
    "text": {"format": {"type": "text"}},
    "tool_choice": "auto",
    "tools": [],
    "top_p": None,
    "user": None,
}
"""Fields of the request that the response repeats, and what stands there if they aren't given."""


@dataclass(frozen=True, slots=True)
class ResponseShape:
    """What all forms of a response have in common."""

    id: str
    created: int
    body: Mapping[str, Any]
    """The client's request."""

    def bare(self, model: str, status: str) -> dict[str, Any]:
        given = {name: value for name, value in self.body.items() if value is not None}
        reasoning = {"effort": None, "summary": None} | given.get("reasoning", {})
        return {
            "id": self.id,
            "object": "response",
            "created_at": self.created,
            "status": status,
            "background": False,
            "error": None,
            "incomplete_details": None,
            "model": model,
            "output": [],
            "previous_response_id": None,
            "reasoning": reasoning,
            "store": False,
            "truncation": "disabled",
            "usage": None,
            **{name: given.get(name, default) for name, default in _ECHOED.items()},
        }

    def finished(self, answer: Answer, model: str, usage: Mapping[str, Any]) -> dict[str, Any]:
        reason = {"length": "max_output_tokens", "content_filter": "content_filter"}
        why = reason.get(answer.finish_reason or "")
        output = [
            self.item(part, _status(cut=answer.ran_out and part is answer.parts[-1])) for part in answer.parts
        ]
        return self.bare(model, "incomplete" if why else "completed") | {
            "incomplete_details": {"reason": why} if why else None,
            "output": output,
            "usage": usage_of_chat(usage),
            "thinking_budget": answer.receipt,
        }

    def item(self, part: Part, status: str) -> dict[str, Any]:
        item: dict[str, Any] = {"id": self.item_id(part), "status": status}
        if part.kind == "thinking":
            texts = [self.piece(part)]
            held = {"summary": texts, "content": []} if self.summary else {"summary": [], "content": texts}
            return item | {"type": "reasoning", **held, "encrypted_content": None}
        if part.kind == "text":
            return item | {"type": "message", "role": "assistant", "content": [self.piece(part)]}
        call = {"call_id": part.call_id, **self.called(part), "arguments": part.text}
        return item | {"type": "function_call", **call}

    def called(self, part: Part) -> Mapping[str, str]:
        """Members that name a call's function."""
        return members_of_call(self.body.get("tools"), part.name)

    def item_id(self, part: Part) -> str:
        prefix = {"thinking": "rs", "text": "msg", "tool": "fc"}[part.kind]
        return f"{prefix}_{self.id.removeprefix('resp_')}_{part.index}"

    def piece(self, part: Part) -> dict[str, Any]:
        if part.kind == "text":
            return {"type": "output_text", "text": part.text, "annotations": [], "logprobs": []}
        return {"type": "summary_text" if self.summary else "reasoning_text", "text": part.text}

    @property
    def summary(self) -> bool:
        return wants_summary(self.body)


def response_of_completion(completion: dict[str, Any], shape: ResponseShape) -> dict[str, Any]:
    return shape.finished(Answer.of_completion(completion), completion["model"], completion["usage"])


def usage_of_chat(usage: Mapping[str, Any]) -> dict[str, Any]:
    """`reasoning_tokens` is null where nothing has counted them."""
    thinking = (usage.get("completion_tokens_details") or {}).get("reasoning_tokens")
    cached = (usage.get("prompt_tokens_details") or {}).get("cached_tokens") or 0
    return {
        "input_tokens": usage["prompt_tokens"],
        "input_tokens_details": {"cached_tokens": cached, "cache_write_tokens": 0},
        "output_tokens": usage["completion_tokens"],
        "output_tokens_details": {"reasoning_tokens": thinking},
        "total_tokens": usage["total_tokens"],
    }


@dataclass(slots=True)
class ResponseStream:
    """The events of one answer, from the chunks of the gateway's chat stream with its usage chunk."""

    shape: ResponseShape
    _answer: Answer = field(default_factory=Answer)
    _model: str | None = None
    _sent: int = 0

    def read(self, chunk: dict[str, Any]) -> Iterator[Event]:
        for event in self._read(chunk):
            yield self._numbered(event)

    def fail(self, error: Mapping[str, Any]) -> Event:
        """The stream's last event if it can't go on; `error` is what OpenAI's envelope holds."""
        failed = self.shape.bare(self._model or "", "failed")
        told = {"code": "server_error", **{name: error.get(name) for name in ("message", "type", "param")}}
        return self._numbered({"type": "response.failed", "response": failed | {"error": told}})

    def _numbered(self, event: Event) -> Event:
        event["sequence_number"] = self._sent
        self._sent += 1
        return event

    def _read(self, chunk: dict[str, Any]) -> Iterator[Event]:
        if self._model is None:
            self._model = chunk["model"]
            for kind in ("created", "in_progress"):
                yield {"type": f"response.{kind}", "response": self.shape.bare(self._model, "in_progress")}
        for step in self._answer.read_chunk(chunk):
            yield from self._events(step)
        if not chunk["choices"]:
            response = self.shape.finished(self._answer, self._model, chunk["usage"])
            yield {"type": f"response.{response['status']}", "response": response}

    def _events(self, step: Step) -> Iterator[Event]:
        part, shape = step.part, self.shape
        at = {"item_id": shape.item_id(part), "output_index": part.index}
        if isinstance(step, Opened):
            item = shape.item(part, "in_progress")
            for name in ("summary", "content"):
                if name in item:
                    item[name] = []
            yield {"type": "response.output_item.added", "output_index": part.index, "item": item}
            yield from self._piece("added", part, at)
        elif isinstance(step, Grew):
            yield {
                "type": f"response.{self._stem(part)}.delta",
                **at,
                **self._place(part),
                "delta": step.text,
            }
        elif isinstance(step, Closed):
            if part.kind == "tool":
                text = {"name": shape.called(part)["name"], "arguments": part.text}
            else:
                text = {"text": part.text}
            yield {"type": f"response.{self._stem(part)}.done", **at, **self._place(part), **text}
            yield from self._piece("done", part, at)
            item = shape.item(part, _status(cut=step.cut))
            yield {"type": "response.output_item.done", "output_index": part.index, "item": item}

    def _piece(self, what: str, part: Part, at: Mapping[str, Any]) -> Iterator[Event]:
        """A content part, or a part of a summary, begins or ends; function calls have none."""
        if part.kind == "tool":
            return
        summary = part.kind == "thinking" and self.shape.summary
        name = "reasoning_summary_part" if summary else "content_part"
        place = {"summary_index": 0} if summary else {"content_index": 0}
        yield {"type": f"response.{name}.{what}", **at, **place, "part": self.shape.piece(part)}

    def _stem(self, part: Part) -> str:
        if part.kind == "tool":
            return "function_call_arguments"
        if part.kind == "text":
            return "output_text"
        return "reasoning_summary_text" if self.shape.summary else "reasoning_text"

    def _place(self, part: Part) -> dict[str, Any]:
        if part.kind == "tool":
            return {}
        if part.kind == "text":
            return {"content_index": 0, "logprobs": []}
        return {"summary_index": 0} if self.shape.summary else {"content_index": 0}


def _status(*, cut: bool) -> str:
    return "incomplete" if cut else "completed"
