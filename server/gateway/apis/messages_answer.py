"""A chat answer in Anthropic's form: a message, or the events of a stream. Pure."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from pydantic_core import from_json

from server.gateway.apis.answer_parts import Answer, Closed, Grew, Opened, Part, Step
from server.gateway.errors import EngineMisbehaved

SIGNATURE = "czEtc2VydmVyOiB1bnNpZ25lZA=="
"""Clients want a signature on thinking and send it back. There is nothing to sign here: none is checked."""

Event = dict[str, Any]


def message_of_completion(completion: dict[str, Any], *, id: str) -> dict[str, Any]:
    """Raises: EngineMisbehaved: a tool call's arguments are no JSON object."""
    answer = Answer.of_completion(completion)
    content = [_block(part, cut=answer.ran_out and part is answer.parts[-1]) for part in answer.parts]
    reason, sequence = stop_reason(answer)
    return _message(id, completion["model"]) | {
        "content": content,
        "stop_reason": reason,
        "stop_sequence": sequence,
        "usage": usage_of_chat(completion["usage"]),
        "thinking_budget": answer.receipt,
    }


def stop_reason(answer: Answer) -> tuple[str, str | None]:
    """Anthropic's `stop_reason` and `stop_sequence`."""
    if answer.ran_out:
        return "max_tokens", None
    if answer.finish_reason == "content_filter":
        return "refusal", None
    if answer.finish_reason != "tool_calls" and isinstance(answer.stop_reason, str):
        return "stop_sequence", answer.stop_reason
    # A call that was forced by name ends with "stop".
    return ("tool_use" if answer.has_calls else "end_turn"), None


def usage_of_chat(usage: Mapping[str, Any]) -> dict[str, Any]:
    """Thinking and markers are part of `output_tokens`."""
    told: dict[str, Any] = {
        "input_tokens": usage["prompt_tokens"],
        "output_tokens": usage["completion_tokens"],
    }
    cached = (usage.get("prompt_tokens_details") or {}).get("cached_tokens")
    if cached is not None:
        # Anthropic counts them apart.
        told["input_tokens"] -= cached
        told["cache_read_input_tokens"] = cached
    thinking = (usage.get("completion_tokens_details") or {}).get("reasoning_tokens")
    if thinking is not None:
        told["output_tokens_details"] = {"thinking_tokens": thinking}
    return told


class MessageStream:
    """The events of one answer, from the chunks of the gateway's chat stream with its usage chunk."""

    def __init__(self, id: str) -> None:
        self._id = id
        self._answer = Answer()
        self._begun = False

    def read(self, chunk: dict[str, Any]) -> Iterator[Event]:
        if not self._begun:
            self._begun = True
            # 0 before an engine that doesn't tell them now; what its cache held is known only at the end.
            usage = {"input_tokens": len(chunk.get("prompt_token_ids") or ()), "output_tokens": 0}
            yield {"type": "message_start", "message": _message(self._id, chunk["model"]) | {"usage": usage}}
        for step in self._answer.read_chunk(chunk):
            yield from _events(step)
        if not chunk["choices"]:
            yield from self._end(chunk["usage"])

    def _end(self, usage: Mapping[str, Any]) -> Iterator[Event]:
        reason, sequence = stop_reason(self._answer)
        yield {
            "type": "message_delta",
            "delta": {"stop_reason": reason, "stop_sequence": sequence, "stop_details": None},
            "usage": usage_of_chat(usage),
            "thinking_budget": self._answer.receipt,
        }
        yield {"type": "message_stop"}


def _message(id: str, model: str) -> dict[str, Any]:
    return {
        "id": id,
        "type": "message",
        "role": "assistant",
        "model": model,
        "content": [],
        "stop_reason": None,
        "stop_sequence": None,
        "stop_details": None,
    }


def _block(part: Part, *, cut: bool) -> dict[str, Any]:
    if part.kind == "thinking":
        return {"type": "thinking", "thinking": part.text, "signature": SIGNATURE}
    if part.kind == "text":
        return {"type": "text", "text": part.text}
    return {"type": "tool_use", "id": part.call_id, "name": part.name, "input": _input(part.text, cut=cut)}


def _input(arguments: str, *, cut: bool) -> dict[str, Any]:
    """A call that was cut has the members that are complete."""
    try:
        read = from_json(arguments, allow_partial=cut) if arguments.strip() else {}
    except ValueError as error:
        raise EngineMisbehaved(f"the model's tool call has arguments that are not JSON: {error}") from None
    if not isinstance(read, dict):
        raise EngineMisbehaved("the model's tool call has arguments that are no JSON object")
    return read


def _events(step: Step) -> Iterator[Event]:
    index = step.part.index
    if isinstance(step, Opened):
        yield {"type": "content_block_start", "index": index, "content_block": _opening(step.part)}
    elif isinstance(step, Grew):
        yield {"type": "content_block_delta", "index": index, "delta": _delta(step)}
    elif isinstance(step, Closed):
        if step.part.kind == "thinking":
            signature = {"type": "signature_delta", "signature": SIGNATURE}
            yield {"type": "content_block_delta", "index": index, "delta": signature}
        yield {"type": "content_block_stop", "index": index}


def _opening(part: Part) -> dict[str, Any]:
    if part.kind == "thinking":
        return {"type": "thinking", "thinking": "", "signature": ""}
    if part.kind == "text":
        return {"type": "text", "text": ""}
    return {"type": "tool_use", "id": part.call_id, "name": part.name, "input": {}}


def _delta(step: Grew) -> dict[str, Any]:
    if step.part.kind == "thinking":
        return {"type": "thinking_delta", "thinking": step.text}
    if step.part.kind == "text":
        return {"type": "text_delta", "text": step.text}
    return {"type": "input_json_delta", "partial_json": step.text}
