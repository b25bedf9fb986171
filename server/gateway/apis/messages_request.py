"""Anthropic's Messages request as a chat request. Pure; what can't be honoured is refused by name."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import orjson

from server.budget.aliases import read_messages
from server.budget.shown import show
from server.gateway.apis.body_fields import (
    PASSED_ON,
    check_members,
    choose,
    expect,
    optional,
    refuse,
    required,
)
from server.gateway.apis.error_forms import THREAD_UNSUPPORTED
from server.gateway.chat.chat_request import MAX_STOP_STRINGS
from server.gateway.chat.messages import MAX_MESSAGES, MAX_PARTS
from server.gateway.errors import InvalidRequest

_KNOWN = PASSED_ON | {
    "cache_control",
    "max_tokens",
    "messages",
    "metadata",
    "output_config",
    "stop_sequences",
    "system",
    "thinking",
    "tool_choice",
    "tools",
}
_IDLE: Mapping[str, tuple[Any, ...]] = {
    "betas": ([],),
    "container": (),
    "context_management": ({"edits": []}, {"edits": [{"type": "clear_thinking_20251015", "keep": "all"}]}),
    "diagnostics": (),
    "inference_geo": (),
    "mcp_servers": ([],),
    "service_tier": ("auto",),
    "speed": ("standard",),
    "user_profile_id": (),
    "workspace_id": (),
}
_TOOL_CHOICES = {"auto": "auto", "any": "required", "none": "none", "tool": ""}
_THINKING = ("thinking", "redacted_thinking")


def chat_fields_of_messages(body: Mapping[str, Any], *, counting: bool = False) -> dict[str, Any]:
    """The chat request that asks for the same.

    Args:
        counting: for the token count alone, which needs no `max_tokens`.

    Raises:
        InvalidRequest, BudgetError: `param` is the path in the Messages request.
    """
    given = {name: value for name, value in body.items() if value is not None}
    if "thread" in given:
        # Its own refusal, upon which clients send the whole conversation instead of its new messages.
        raise InvalidRequest(
            f"`thread` is not supported by this server, which stores nothing: send the whole conversation "
            f"without it. Given: {show(given['thread'])}",
            param="thread",
            code=THREAD_UNSUPPORTED,
        )
    check_members(given, "", known=_KNOWN, idle=_IDLE)
    if not counting or "max_tokens" in given:
        max_tokens = required(given, "max_tokens", int, "")
        if max_tokens < 1:
            refuse("max_tokens", "must be >= 1", max_tokens)
    read_messages(given, also=("output_config.format",))
    _check_cache_control(given, "")
    fields = {name: given[name] for name in PASSED_ON | {"max_tokens", "thinking"} if name in given}
    fields["messages"] = [*_system(given), *_Conversation().read(given)]
    fields |= _output_config(given) | _stop(given) | _tools(given)
    user = optional(optional(given, "metadata", dict) or {}, "user_id", str, "metadata")
    check_members(given.get("metadata", {}), "metadata", known=("user_id",))
    return fields if user is None else fields | {"user": user}


def _check_cache_control(held: Mapping[str, Any], path: str) -> None:
    """Every prefix is cached by the engine itself, so a mark has nothing to do; a time can't be promised.

    Five minutes are the API's own default, and what many clients send without having been asked.
    """
    control = optional(held, "cache_control", dict, path)
    if control is not None:
        where = f"{path}.cache_control" if path else "cache_control"
        check_members(control, where, known=("type",), idle={"ttl": ("5m",)})
        choose(control.get("type"), ("ephemeral",), f"{where}.type")


def _system(given: Mapping[str, Any]) -> list[dict[str, Any]]:
    system = given.get("system")
    return [] if not system else [{"role": "system", "content": _texts(system, "system")}]


def _texts(content: object, path: str) -> Any:
    """A string, or blocks of text alone."""
    if isinstance(content, str):
        return content
    parts = [_part(block, where, ("text",)) for block, where in _blocks(content, path)]
    return _plain(parts)


def _blocks(content: object, path: str) -> Iterator[tuple[dict[str, Any], str]]:
    if not isinstance(content, list):
        refuse(path, "must be a string or an array of content blocks", content)
    if len(content) > MAX_PARTS:
        refuse(path, f"must have at most {MAX_PARTS} elements", len(content))
    for i, block in enumerate(content):
        yield expect(block, dict, f"{path}[{i}]"), f"{path}[{i}]"


def _plain(parts: list[dict[str, Any]]) -> Any:
    """One text is a plain string: some engines put a line end between parts."""
    return parts[0]["text"] if len(parts) == 1 and parts[0]["type"] == "text" else parts


def _part(block: Mapping[str, Any], path: str, kinds: tuple[str, ...]) -> dict[str, Any]:
    """A content part of the chat API."""
    kind = choose(block.get("type"), kinds, f"{path}.type")
    _check_cache_control(block, path)
    if kind == "text":
        check_members(block, path, known=("type", "text", "cache_control"), idle={"citations": ([],)})
        return {"type": "text", "text": required(block, "text", str, path)}
    check_members(block, path, known=("type", "source", "cache_control"), idle={"transformations": ()})
    source, where = required(block, "source", dict, path), f"{path}.source"
    if choose(source.get("type"), ("base64", "url"), f"{where}.type") == "url":
        check_members(source, where, known=("type", "url"))
        return {"type": "image_url", "image_url": {"url": required(source, "url", str, where)}}
    check_members(source, where, known=("type", "media_type", "data"))
    media_type, encoded = (required(source, name, str, where) for name in ("media_type", "data"))
    return {"type": "image_url", "image_url": {"url": f"data:{media_type};base64,{encoded}"}}


class _Conversation:
    """Turns into chat messages: tool results become messages of their own, in the order given."""

    def __init__(self) -> None:
        self._messages: list[dict[str, Any]] = []
        self._called: set[str] = set()

    def read(self, given: Mapping[str, Any]) -> list[dict[str, Any]]:
        turns = required(given, "messages", list, "")
        if not turns:
            refuse("messages", "must have at least 1 elements", turns)
        if len(turns) > MAX_MESSAGES:
            refuse("messages", f"must have at most {MAX_MESSAGES} elements", len(turns))
        for i, turn in enumerate(turns):
            self._turn(expect(turn, dict, f"messages[{i}]"), f"messages[{i}]")
        if turns[-1]["role"] == "assistant":
            refuse(
                "messages",
                "must not end with an assistant message: an answer can't be begun for the model",
                turns[-1]["role"],
            )
        return self._messages

    def _turn(self, turn: Mapping[str, Any], path: str) -> None:
        check_members(turn, path, known=("role", "content"))
        role = choose(turn.get("role"), ("user", "assistant", "system"), f"{path}.role")
        content, where = turn.get("content"), f"{path}.content"
        if content is None:
            required(turn, "content", str, path)
        elif isinstance(content, str):
            self._messages.append({"role": role, "content": content})
        elif role == "assistant":
            self._messages.append(self._assistant(content, where))
        elif role == "system":
            self._messages.append({"role": role, "content": _texts(content, where)})
        else:
            self._user(content, where)

    def _user(self, content: object, path: str) -> None:
        parts: list[dict[str, Any]] = []
        for block, where in _blocks(content, path):
            if block.get("type") != "tool_result":
                parts.append(_part(block, where, ("text", "image", "tool_result")))
                continue
            if parts:
                self._messages.append({"role": "user", "content": _plain(parts)})
                parts = []
            self._messages.append(self._result(block, where))
        if parts:
            self._messages.append({"role": "user", "content": _plain(parts)})

    def _result(self, block: Mapping[str, Any], path: str) -> dict[str, Any]:
        known = ("type", "tool_use_id", "content", "is_error", "cache_control")
        check_members(block, path, known=known, idle={"toolset_name": ()})
        _check_cache_control(block, path)
        call_id = required(block, "tool_use_id", str, path)
        if call_id not in self._called:
            refuse(f"{path}.tool_use_id", "must be the id of an earlier tool_use block", call_id)
        content, where = block.get("content"), f"{path}.content"
        said: Any = content or ""
        if not isinstance(said, str):
            said = _plain([_part(part, at, ("text", "image")) for part, at in _blocks(content, where)])
        if optional(block, "is_error", bool, path):
            # The chat API has no field for it: the model is told in words.
            mark = {"type": "text", "text": "Error:"}
            said = f"Error: {said}" if isinstance(said, str) else [mark, *said]
        return {"role": "tool", "tool_call_id": call_id, "content": said}

    def _assistant(self, content: object, path: str) -> dict[str, Any]:
        texts: list[str] = []
        thoughts: list[dict[str, Any]] = []
        calls: list[dict[str, Any]] = []
        for block, where in _blocks(content, path):
            kind = choose(block.get("type"), ("text", *_THINKING, "tool_use"), f"{where}.type")
            if kind == "text":
                texts.append(_part(block, where, ("text",))["text"])
            elif kind == "tool_use":
                calls.append(self._call(block, where))
            else:
                thoughts.append(_thought(block, where))
        message: dict[str, Any] = {"role": "assistant", "content": "".join(texts) or (None if calls else "")}
        if calls:
            message["tool_calls"] = calls
        if any(thought["type"] == "redacted_thinking" for thought in thoughts):
            # Whether what can't be read may be stripped is the policy's to say.
            message["content"] = [*thoughts, {"type": "text", "text": "".join(texts)}]
        elif thoughts:
            message["reasoning"] = "".join(thought["thinking"] for thought in thoughts)
        return message

    def _call(self, block: Mapping[str, Any], path: str) -> dict[str, Any]:
        known = ("type", "id", "name", "input", "cache_control")
        idle = {"caller": ({"type": "direct"},), "toolset_name": ()}
        check_members(block, path, known=known, idle=idle)
        _check_cache_control(block, path)
        call_id = required(block, "id", str, path)
        self._called.add(call_id)
        arguments = orjson.dumps(required(block, "input", dict, path)).decode()
        function = {"name": required(block, "name", str, path), "arguments": arguments}
        return {"id": call_id, "type": "function", "function": function}


def _thought(block: Mapping[str, Any], path: str) -> dict[str, Any]:
    """Any signature is taken: this server can't check one."""
    if block["type"] == "thinking":
        check_members(block, path, known=("type", "thinking", "signature"))
        # An empty one is what `display: omitted` leaves.
        if block.get("thinking") != "":
            required(block, "thinking", str, path)
    else:
        check_members(block, path, known=("type", "data"))
        required(block, "data", str, path)
    return dict(block)


def _output_config(given: Mapping[str, Any]) -> dict[str, Any]:
    config = given.get("output_config", {})
    fields: dict[str, Any] = {}
    if config.get("effort") is not None:
        fields["output_config"] = {"effort": config["effort"]}
    path = "output_config.format"
    wanted = optional(config, "format", dict, "output_config")
    if wanted is not None:
        check_members(wanted, path, known=("type", "schema"))
        choose(wanted.get("type"), ("json_schema",), f"{path}.type")
        schema = {"name": "answer", "schema": required(wanted, "schema", dict, path)}
        fields["response_format"] = {"type": "json_schema", "json_schema": schema}
    return fields


def _stop(given: Mapping[str, Any]) -> dict[str, Any]:
    stops = optional(given, "stop_sequences", list)
    if not stops:
        return {}
    if len(stops) > MAX_STOP_STRINGS:
        refuse("stop_sequences", f"must have at most {MAX_STOP_STRINGS} strings", stops)
    for i, stop in enumerate(stops):
        if not expect(stop, str, f"stop_sequences[{i}]"):
            refuse(f"stop_sequences[{i}]", "must not be empty", stop)
    return {"stop": stops}


def _tools(given: Mapping[str, Any]) -> dict[str, Any]:
    fields: dict[str, Any] = {}
    tools = optional(given, "tools", list)
    if tools:
        fields["tools"] = [
            _tool(expect(each, dict, f"tools[{i}]"), f"tools[{i}]") for i, each in enumerate(tools)
        ]
    choice = optional(given, "tool_choice", dict)
    if choice is None:
        return fields
    kind = choose(choice.get("type"), tuple(_TOOL_CHOICES), "tool_choice.type")
    named = ("name",) if kind == "tool" else ()
    check_members(choice, "tool_choice", known=("type", "disable_parallel_tool_use", *named))
    fields["tool_choice"] = _TOOL_CHOICES[kind]
    if named:
        function = {"name": required(choice, "name", str, "tool_choice")}
        fields["tool_choice"] = {"type": "function", "function": function}
    alone = optional(choice, "disable_parallel_tool_use", bool, "tool_choice")
    return fields if alone is None else fields | {"parallel_tool_calls": not alone}


def _tool(tool: Mapping[str, Any], path: str) -> dict[str, Any]:
    if tool.get("type") not in (None, "custom"):
        refuse(f"{path}.type", "must be custom: this server runs no tools of its own", tool["type"])
    check_members(
        tool,
        path,
        known=("type", "name", "description", "input_schema", "strict", "cache_control"),
        idle={
            "allowed_callers": (["direct"],),
            "defer_loading": (False,),
            # Arguments are streamed as they are generated, whatever is asked.
            "eager_input_streaming": (True, False),
            "input_examples": ([],),
        },
    )
    _check_cache_control(tool, path)
    function: dict[str, Any] = {
        "name": required(tool, "name", str, path),
        "parameters": required(tool, "input_schema", dict, path),
    }
    for name, kind in (("description", str), ("strict", bool)):
        value = optional(tool, name, kind, path)
        if value is not None:
            function[name] = value
    return {"type": "function", "function": function}
