"""Thinking in earlier assistant messages: left to the chat template, kept, or stripped (docs/policy.md).

Clients send it back as `reasoning`, `reasoning_content` or OpenRouter's `reasoning_details`, which are this
server's own answers, or as Anthropic's content parts of type "thinking". Engines read one field and would
take a thinking part for content: whatever comes is made one text, and what becomes of it is the policy's to
say.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, Literal

from server.budget.markers import FAMILIES
from server.budget.policy import PreserveThinking
from server.budget.shown import show
from server.gateway.chat.chat_call import ChatCall
from server.gateway.engines.engine import Engine
from server.gateway.errors import EngineRefused, InvalidRequest
from server.gateway.rounds.completions_vllm import VllmCompletions

Way = Literal["switch", "inline"]
"""How a prompt is made to hold earlier thinking: by the template's own switch, or inside the content."""

_FIELDS = ("reasoning", "reasoning_content")
_DETAILS = "reasoning_details"
_NAMES = frozenset({*_FIELDS, _DETAILS})
_TEXTS = {"thinking": "thinking", "reasoning.text": "text"}
"""Kinds of parts whose thinking can be read, and where it stands in them."""
_REDACTED = ("redacted_thinking", "reasoning.encrypted")
_SWITCHES = {"preserve_thinking": True, "clear_thinking": False}
"""What templates that strip earlier thinking call the switch: Qwen's name and GLM's."""


@dataclass(frozen=True, slots=True)
class _Message:
    bare: dict[str, Any]
    """Without its thinking."""
    thinking: str | None
    path: str
    """Where the thinking stood."""


class EarlierThinking:
    """What becomes of earlier thinking, and for each engine how it can be kept."""

    def __init__(self) -> None:
        self._ways: dict[tuple[str, str, int], Way | None] = {}

    async def settle(self, call: ChatCall, mode: PreserveThinking, *, engine: Engine, model: str) -> ChatCall:
        """`call` with its messages as the policy wants them; the same call if none holds thinking.

        Raises:
            InvalidRequest: the thinking is malformed, or the policy keeps what the template can't.
            EngineDied, EngineMisbehaved
        """
        if not any(_may_hold_thinking(message) for message in call.fields["messages"]):
            return call
        messages = [
            _read(message, f"messages[{i}]", mode) for i, message in enumerate(call.fields["messages"])
        ]
        first = next((message for message in messages if message.path), None)
        if first is None:
            return call
        fields = dict(call.fields)
        if mode == "keep" and any(message.thinking for message in messages):
            way = await self._way(engine, model)
            if way is None:
                raise InvalidRequest(
                    f"`{first.path}` can't be kept, as this server's policy has it (preserve_thinking: keep):"
                    f" the chat template of `{model}` leaves earlier thinking out of the prompt",
                    param=first.path,
                )
            _keep(fields, messages, way, engine)
        else:
            fields["messages"] = [_told(message, strip=mode == "strip") for message in messages]
        return replace(call, fields=fields)

    async def _way(self, engine: Engine, model: str) -> Way | None:
        """How this engine's template can be made to keep thinking; asked once per start of an engine.

        Raises:
            EngineRefused: it is too busy to say, or fails.
            EngineDied, EngineMisbehaved
        """
        place = (engine.url, model, engine.status.reconnects)
        if place not in self._ways:
            self._ways[place] = await _find_way(engine, model)
        return self._ways[place]


def _may_hold_thinking(message: Mapping[str, Any]) -> bool:
    return isinstance(message.get("content"), list) or not _NAMES.isdisjoint(message)


def _read(message: Mapping[str, Any], path: str, mode: PreserveThinking) -> _Message:
    bare = {name: value for name, value in message.items() if name not in (*_FIELDS, _DETAILS)}
    found: dict[str, str] = {}
    for name in _FIELDS:
        value = message.get(name)
        if value is not None and not isinstance(value, str):
            raise InvalidRequest(
                f"`{path}.{name}` must be a string. Given: {show(value)}", param=f"{path}.{name}"
            )
        if value is not None:
            found[f"{path}.{name}"] = value
    details = message.get(_DETAILS)
    if details is not None:
        found[f"{path}.{_DETAILS}"] = _joined(details, f"{path}.{_DETAILS}", mode)
    content = message.get("content")
    parts = content if isinstance(content, list) else []
    thoughts = [part for part in parts if _is_thought(part)]
    if thoughts:
        found[f"{path}.content"] = _joined(thoughts, f"{path}.content", mode)
        bare["content"] = [part for part in parts if not _is_thought(part)] or None
        if bare["content"] is None and bare.get("tool_calls", ()) is None:
            # vLLM takes one of the two that is null, but not both.
            del bare["tool_calls"]
    _check(found, message.get("role"))
    return _Message(bare, next(iter(found.values()), None) or None, next(iter(found), ""))


def _is_thought(part: Mapping[str, Any]) -> bool:
    return part.get("type") in ("thinking", "redacted_thinking")


def _joined(parts: object, path: str, mode: PreserveThinking) -> str:
    if not isinstance(parts, list) or not all(isinstance(part, Mapping) for part in parts):
        raise InvalidRequest(f"`{path}` must be an array of objects. Given: {show(parts)}", param=path)
    return "".join(_thought(part, path, mode) for part in parts)


def _thought(part: Mapping[str, Any], path: str, mode: PreserveThinking) -> str:
    kind = part.get("type")
    if kind in _REDACTED and mode == "strip":
        return ""
    text = part.get(_TEXTS[kind]) if isinstance(kind, str) and kind in _TEXTS else None
    if not isinstance(text, str):
        raise InvalidRequest(
            f"`{path}` has thinking whose text this server can't read. Given: {show(part)}", param=path
        )
    return text


def _check(found: Mapping[str, str], role: object) -> None:
    for path, text in found.items():
        if role != "assistant":
            raise InvalidRequest(
                f"`{path}` is thinking, which only assistant messages have. Given: role {show(role)}",
                param=path,
            )
        first = next(iter(found))
        if text != found[first]:
            raise InvalidRequest(
                f"`{path}` ({show(text)}) and `{first}` ({show(found[first])}) disagree: "
                "both are the thinking of one message",
                param=path,
            )


def _told(message: _Message, *, strip: bool) -> dict[str, Any]:
    if strip or message.thinking is None:
        return message.bare
    # vLLM reads the one, llama.cpp the other.
    return message.bare | {"reasoning": message.thinking, "reasoning_content": message.thinking}


def _keep(fields: dict[str, Any], messages: list[_Message], way: Way, engine: Engine) -> None:
    if way == "switch":
        fields["messages"] = [_told(message, strip=False) for message in messages]
        # What the client itself tells the template stands.
        fields["chat_template_kwargs"] = _SWITCHES | fields.get("chat_template_kwargs", {})
    else:
        fields["messages"] = [_inline(message, engine) for message in messages]


def _inline(message: _Message, engine: Engine) -> dict[str, Any]:
    """The message as the model itself wrote it, markers included: the same tokens, for the prefix cache."""
    if message.thinking is None or engine.budget_description is None:
        return message.bare
    family = FAMILIES[engine.budget_description.family]
    line = "" if message.thinking.endswith("\n") else "\n"
    written = f"{family.think_start}\n{message.thinking}{line}{family.think_end}\n"
    content = message.bare.get("content")
    if isinstance(content, list):
        return message.bare | {"content": [{"type": "text", "text": written}, *content]}
    return message.bare | {"content": written + (content or "")}


async def _find_way(engine: Engine, model: str) -> Way | None:
    """Render two conversations that differ in their thinking alone, each way: prompts that differ hold it."""
    described, support = engine.budget_description, engine.status.rounds
    dialect = support.dialect if support is not None else VllmCompletions
    completions = dialect(engine, model, timeout_s=engine.render_timeout_s)
    ways: tuple[Way, ...] = ("switch", "inline")
    for way in ways:
        if way == "inline" and (described is None or described.family not in FAMILIES):
            continue
        prompts = []
        for thinking in ("one", "two"):
            question = _Message({"role": "user", "content": "a"}, None, "")
            answer = _Message({"role": "assistant", "content": "b"}, thinking, "messages[1]")
            fields: dict[str, Any] = {}
            _keep(fields, [question, answer, question], way, engine)
            try:
                prompts.append((await completions.render(fields)).token_ids)
            except EngineRefused as error:
                if error.status >= 500 or error.status == 429:
                    raise
                break
        if len(prompts) == 2 and prompts[0] != prompts[1]:
            return way
    return None
