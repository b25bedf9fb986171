"""One and the same budget in every dialect, for tests before stand-in and real engines."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from server.budget.forms import FORMS, Kind


@dataclass(frozen=True)
class Request:
    dialect: str
    fields: dict[str, Any]
    named: str | None
    """The path by which the maximum is given, if that isn't its own name."""

    def __str__(self) -> str:
        return str(self.fields)


def at(path: str, value: Any) -> dict[str, Any]:
    for name in reversed(path.split(".")):
        value = {name: value}
    return value


def maximum(tokens: int, *, effort: str) -> list[Request]:
    """Requests that mean `max_thinking_tokens` = `tokens`.

    Args:
        effort: one that means as much in the room of the request.
    """
    found = [Request("ours", {"max_thinking_tokens": tokens}, None)]
    for form in FORMS:
        if form.kind in (Kind.TOKENS, Kind.TOKENS_OR_UNLIMITED):
            found.append(Request(form.dialect, at(form.path, tokens), form.path))
        if form.kind in (Kind.EFFORT, Kind.EFFORT_OR_NONE) or form.path == "output_config.effort":
            found.append(Request(form.dialect, at(form.path, effort), form.path))
    switches = [
        ("Qwen", {"enable_thinking": True, "thinking_budget": tokens}, "thinking_budget"),
        ("DeepSeek", {"thinking": {"type": "enabled"}, "reasoning_effort": effort}, "reasoning_effort"),
        (
            "Anthropic",
            {"thinking": {"type": "adaptive"}, "output_config": {"effort": effort}},
            "output_config.effort",
        ),
        ("OpenRouter", {"reasoning": {"enabled": True, "max_tokens": tokens}}, "reasoning.max_tokens"),
    ]
    if tokens >= 1024:
        enabled = {"type": "enabled", "budget_tokens": tokens}
        switches.append(("Anthropic", {"thinking": enabled}, "thinking.budget_tokens"))
    return found + [Request(*each) for each in switches]


def no_thinking() -> list[Request]:
    """Requests that turn thinking off."""
    found = [Request("ours", {"max_thinking_tokens": 0}, None)]
    for form in FORMS:
        if form.kind in (Kind.TOKENS, Kind.TOKENS_OR_UNLIMITED):
            found.append(Request(form.dialect, at(form.path, 0), form.path))
        if form.kind is Kind.EFFORT_OR_NONE:
            found.append(Request(form.dialect, at(form.path, "none"), form.path))
        if form.kind in (Kind.SWITCH, Kind.TEMPLATE_SWITCH):
            found.append(Request(form.dialect, at(form.path, False), form.path))
    return [*found, Request("DeepSeek", {"thinking": {"type": "disabled"}}, "thinking.type")]


def hidden() -> list[Request]:
    """Requests that hide the thinking."""
    found = []
    for form in FORMS:
        if form.kind in (Kind.SHOWN, Kind.HIDDEN):
            found.append(Request(form.dialect, at(form.path, form.kind is Kind.HIDDEN), form.path))
    display = {"thinking": {"type": "adaptive", "display": "omitted"}}
    return [*found, Request("Anthropic", display, "thinking.display")]


def of_messages(tokens: int, *, effort: str) -> list[Request]:
    """Anthropic's own ways to say a maximum, and ours, at /v1/messages."""
    said: list[tuple[str, dict[str, Any], str | None]] = [
        ("ours", {"max_thinking_tokens": tokens}, None),
        ("Anthropic", {"output_config": {"effort": effort}}, "output_config.effort"),
        (
            "Anthropic",
            {"thinking": {"type": "adaptive"}, "output_config": {"effort": effort}},
            "output_config.effort",
        ),
    ]
    if tokens >= 1024:
        enabled = {"type": "enabled", "budget_tokens": tokens}
        said.append(("Anthropic", {"thinking": enabled}, "thinking.budget_tokens"))
    return [Request(*each) for each in said]


def of_responses(tokens: int, *, effort: str) -> list[Request]:
    """OpenAI's own way to say a maximum, and ours, at /v1/responses."""
    return [
        Request("ours", {"max_thinking_tokens": tokens}, None),
        Request("OpenAI", {"reasoning": {"effort": effort}}, "reasoning.effort"),
    ]
