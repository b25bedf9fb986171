"""The forms in which servers say the same: an error, and whether a delta is thinking or answer. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import orjson

_MOST_CHARACTERS = 200
FAILED = frozenset({"abort", "error"})
"""Finish reasons of answers that did not become whole."""


class FormError(ValueError):
    """What came is not what an OpenAI-compatible server sends."""


def failure(said: Mapping[str, Any]) -> str | None:
    """The message, if this object is an error: OpenAI's envelope, or vLLM's older `"object": "error"`."""
    error = said.get("error")
    if error:
        return one_line(error.get("message") or error if isinstance(error, Mapping) else error)
    return one_line(said.get("message") or said) if said.get("object") == "error" else None


def refusal(body: bytes) -> str:
    """The message of an answer whose status is not 200."""
    try:
        said = orjson.loads(body)
    except orjson.JSONDecodeError:
        said = None
    message = failure(said) if isinstance(said, Mapping) else None
    return message or one_line(body.decode(errors="replace"))


def one_line(text: object) -> str:
    """Cut to what a line of a terminal or a report can show."""
    line = " ".join(str(text).split())
    return line if len(line) <= _MOST_CHARACTERS else line[: _MOST_CHARACTERS - 1] + "…"


def sides(delta: Mapping[str, Any]) -> tuple[bool, bool]:
    """Whether a delta, or a whole message, has thinking, and whether it has an answer.

    Raises:
        FormError
    """
    thinking = any(delta.get(name) for name in ("reasoning", "reasoning_content", "reasoning_details"))
    content = delta.get("content")
    answer = bool(delta.get("tool_calls"))
    if isinstance(content, list):
        # Mistral's form: parts, each of its own type.
        types = {part["type"] for part in content}
        thinking, answer = thinking or "thinking" in types, answer or bool(types - {"thinking"})
    elif isinstance(content, str | None):
        answer = answer or bool(content)
    else:
        raise FormError(f"content is {one_line(content)}")
    return thinking, answer
