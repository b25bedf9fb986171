"""OpenAI's Responses request as a chat request. Pure; what can't be honoured is refused by name."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from typing import Any

from server.budget.aliases import read_responses
from server.gateway.apis.body_fields import (
    PASSED_ON,
    check_members,
    choose,
    expect,
    optional,
    refuse,
    required,
)
from server.gateway.apis.namespaces import plain_name
from server.gateway.chat.messages import MAX_MESSAGES, MAX_PARTS
from server.gateway.validation import check_labels

_KNOWN = PASSED_ON | {
    "client_metadata",
    "include_reasoning",
    "input",
    "instructions",
    "max_output_tokens",
    "metadata",
    "parallel_tool_calls",
    # A hint: every prefix is cached by the engine itself.
    "prompt_cache_key",
    "reasoning",
    "text",
    "tool_choice",
    "tools",
    "user",
}
_IDLE: Mapping[str, tuple[Any, ...]] = {
    "access_programs": (),
    "background": (False,),
    "background_options": (),
    "context_management": ([],),
    "conversation": (),
    "image": (),
    # Nothing is encrypted: reasoning is readable, and is what the client can send again.
    "include": ([], ["reasoning.encrypted_content"]),
    "max_tool_calls": (),
    "moderation": (),
    "prompt": (),
    "prompt_cache_options": (),
    "prompt_cache_retention": (),
    "safety_identifier": (),
    "service_tier": ("auto",),
    "store": (False,),
    "stream_options": ({}, {"include_obfuscation": False}),
    "top_logprobs": (0,),
    "truncation": ("disabled",),
}
_NOTHING_STORED = (
    "this server stores nothing. Send the items themselves, with `store: false` "
    "(AI SDK: `providerOptions.openai.store = false`, or @ai-sdk/openai-compatible)"
)
_SUMMARIES = ("auto", "detailed")
_REASONING = ("reasoning.summary", "reasoning.generate_summary", "reasoning.context", "reasoning.mode")
_ITEMS = ("message", "reasoning", "function_call", "function_call_output")


def chat_fields_of_responses(body: Mapping[str, Any]) -> dict[str, Any]:
    """The chat request that asks for the same.

    Raises:
        InvalidRequest, BudgetError: `param` is the path in the Responses request.
    """
    given = {name: value for name, value in body.items() if value is not None}
    _check_nothing_is_stored(given)
    check_members(given, "", known=_KNOWN, idle=_IDLE)
    read_responses(given, also=_REASONING)
    _check_reasoning(given.get("reasoning", {}))
    for name in ("metadata", "client_metadata"):
        check_labels(given.get(name), name)
    optional(given, "prompt_cache_key", str)
    same = PASSED_ON | {"include_reasoning", "parallel_tool_calls", "user"}
    fields = {name: given[name] for name in same if name in given}
    effort = given.get("reasoning", {}).get("effort")
    if effort is not None:
        fields["reasoning"] = {"effort": effort}
    most = optional(given, "max_output_tokens", int)
    if most is not None:
        if most < 1:
            refuse("max_output_tokens", "must be >= 1", most)
        fields["max_completion_tokens"] = most
    fields["messages"] = [*_instructions(given), *_input(given)]
    return fields | _text(given) | _tools(given)


def wants_summary(body: Mapping[str, Any]) -> bool:
    """Whether the thinking is to come as a summary: it is then the thinking itself."""
    return (body.get("reasoning") or {}).get("summary") is not None


def _check_reasoning(reasoning: Mapping[str, Any]) -> None:
    idle = {"generate_summary": (), "context": ("auto",), "mode": ("standard",)}
    check_members(reasoning, "reasoning", known=("effort", "summary"), idle=idle)
    if reasoning.get("summary") is not None:
        # Nothing here could make it concise.
        choose(reasoning["summary"], _SUMMARIES, "reasoning.summary")


def _check_nothing_is_stored(given: Mapping[str, Any]) -> None:
    if given.get("store") is True:
        refuse("store", f"must be false: {_NOTHING_STORED}", True)
    if "previous_response_id" in given:
        refuse("previous_response_id", f"can't be found: {_NOTHING_STORED}", given["previous_response_id"])


def _instructions(given: Mapping[str, Any]) -> list[dict[str, Any]]:
    text = optional(given, "instructions", str)
    return [{"role": "system", "content": text}] if text else []


def _input(given: Mapping[str, Any]) -> list[dict[str, Any]]:
    items = given.get("input")
    if isinstance(items, str) and items:
        return [{"role": "user", "content": items}]
    if not isinstance(items, list) or not items:
        refuse("input", "must be a string or an array of items, and not empty", items)
    if len(items) > MAX_MESSAGES:
        refuse("input", f"must have at most {MAX_MESSAGES} elements", len(items))
    conversation = _Conversation()
    for i, item in enumerate(items):
        conversation.read(expect(item, dict, f"input[{i}]"), f"input[{i}]")
    return conversation.end()


class _Conversation:
    """Items into chat messages: reasoning, text and calls of one turn of the model are one message."""

    def __init__(self) -> None:
        self._messages: list[dict[str, Any]] = []
        self._called: set[str] = set()
        self._turn: dict[str, Any] | None = None
        self._reasoning_at = ""
        """Where the last reasoning stands."""

    def read(self, item: Mapping[str, Any], path: str) -> None:
        if item.get("type") == "item_reference":
            refuse(f"{path}.type", f"can't be item_reference: {_NOTHING_STORED}", item.get("id"))
        kind = choose(item.get("type", "message"), _ITEMS, f"{path}.type")
        if kind == "reasoning":
            self._reasoning(item, path)
        elif kind == "function_call":
            self._call(item, path)
        elif kind == "function_call_output":
            self._output(item, path)
        else:
            self._message(item, path)

    def end(self) -> list[dict[str, Any]]:
        if self._turn is not None and _only_thinks(self._turn):
            refuse(
                self._reasoning_at, "must not come last: thinking can't be begun for the model", "reasoning"
            )
        self._flush()
        return self._messages

    def _reasoning(self, item: Mapping[str, Any], path: str) -> None:
        known = ("type", "id", "summary", "content", "status")
        check_members(item, path, known=known, idle={"encrypted_content": ()})
        summary, content = (
            _joined(item.get(name) or [], f"{path}.{name}", kind)
            for name, kind in (("summary", "summary_text"), ("content", "reasoning_text"))
        )
        if summary and content and summary != content:
            refuse(f"{path}.summary", "disagrees with `content`: give one of them", summary)
        turn = self._turn
        if turn is None or turn["content"] is not None or "tool_calls" in turn:
            self._flush()
            turn = self._open()
        turn["reasoning"] = turn.get("reasoning", "") + (content or summary)
        self._reasoning_at = path

    def _message(self, item: Mapping[str, Any], path: str) -> None:
        check_members(
            item, path, known=("type", "role", "content", "id", "status"), idle={"phase": ("final_answer",)}
        )
        role = choose(item.get("role"), ("user", "assistant", "system", "developer"), f"{path}.role")
        content = _content(item.get("content"), f"{path}.content", role)
        if role != "assistant":
            self._flush()
            self._messages.append({"role": role, "content": content})
            return
        turn = self._turn
        if turn is None or turn["content"] is not None or "tool_calls" in turn:
            self._flush()
            turn = self._open()
        turn["content"] = content

    def _call(self, item: Mapping[str, Any], path: str) -> None:
        known = ("type", "id", "call_id", "name", "arguments", "status")
        idle = {"caller": ({"type": "direct"},), "async": (False,)}
        check_members(item, path, known=(*known, "namespace"), idle=idle)
        turn = self._turn or self._open()
        call_id, name = (required(item, field, str, path) for field in ("call_id", "name"))
        called = plain_name(optional(item, "namespace", str, path), name)
        function = {"name": called, "arguments": required(item, "arguments", str, path)}
        turn.setdefault("tool_calls", []).append({"id": call_id, "type": "function", "function": function})
        self._called.add(call_id)

    def _output(self, item: Mapping[str, Any], path: str) -> None:
        known = ("type", "id", "call_id", "output", "status")
        check_members(
            item, path, known=known, idle={"caller": ({"type": "direct"},), "name": (), "namespace": ()}
        )
        call_id = required(item, "call_id", str, path)
        if call_id not in self._called:
            refuse(f"{path}.call_id", "must be the call_id of an earlier function_call", call_id)
        self._flush()
        said = item.get("output")
        if said != "":
            said = _content(said, f"{path}.output", "user")
        self._messages.append({"role": "tool", "tool_call_id": call_id, "content": said})

    def _open(self) -> dict[str, Any]:
        self._turn = {"role": "assistant", "content": None}
        return self._turn

    def _flush(self) -> None:
        turn = self._turn
        if turn is not None:
            if _only_thinks(turn):
                # Its tokens ran out there.
                turn["content"] = ""
            self._messages.append(turn)
        self._turn = None


def _only_thinks(turn: Mapping[str, Any]) -> bool:
    return turn["content"] is None and "tool_calls" not in turn


def _joined(parts: object, path: str, kind: str) -> str:
    texts = []
    for i, part in enumerate(expect(parts, list, path)):
        where = f"{path}[{i}]"
        expect(part, dict, where)
        check_members(part, where, known=("type", "text"))
        choose(part.get("type"), (kind,), f"{where}.type")
        texts.append(expect(part.get("text"), str, f"{where}.text"))
    return "".join(texts)


def _content(content: object, path: str, role: str) -> Any:
    if isinstance(content, str):
        return content
    if not isinstance(content, list):
        refuse(path, "must be a string or an array of content parts", content)
    if len(content) > MAX_PARTS:
        refuse(path, f"must have at most {MAX_PARTS} elements", len(content))
    kinds = ("output_text", "input_text") if role == "assistant" else ("input_text", "input_image")
    parts = [
        _part(expect(part, dict, f"{path}[{i}]"), f"{path}[{i}]", kinds) for i, part in enumerate(content)
    ]
    if role == "assistant":
        return "".join(part["text"] for part in parts)
    return parts[0]["text"] if len(parts) == 1 and parts[0]["type"] == "text" else parts


def _part(part: Mapping[str, Any], path: str, kinds: tuple[str, ...]) -> dict[str, Any]:
    kind = choose(part.get("type"), kinds, f"{path}.type")
    if kind != "input_image":
        idle: Mapping[str, tuple[Any, ...]] = {
            "annotations": ([],),
            "logprobs": ([],),
            "prompt_cache_breakpoint": (),
        }
        check_members(part, path, known=("type", "text"), idle=idle)
        return {"type": "text", "text": expect(part.get("text"), str, f"{path}.text")}
    check_members(
        part, path, known=("type", "image_url", "detail"), idle={"file_id": (), "prompt_cache_breakpoint": ()}
    )
    image = {"url": required(part, "image_url", str, path)}
    detail = optional(part, "detail", str, path)
    return {"type": "image_url", "image_url": image if detail is None else image | {"detail": detail}}


def _text(given: Mapping[str, Any]) -> dict[str, Any]:
    text = optional(given, "text", dict) or {}
    check_members(text, "text", known=("format",), idle={"verbosity": ("medium",)})
    wanted, path = optional(text, "format", dict, "text"), "text.format"
    if wanted is None:
        return {}
    kind = choose(wanted.get("type"), ("text", "json_object", "json_schema"), f"{path}.type")
    if kind != "json_schema":
        check_members(wanted, path, known=("type",))
        return {} if kind == "text" else {"response_format": {"type": kind}}
    check_members(wanted, path, known=("type", "name", "schema", "strict", "description"))
    schema = {
        "name": required(wanted, "name", str, path),
        "schema": required(wanted, "schema", dict, path),
        "strict": optional(wanted, "strict", bool, path),
        "description": optional(wanted, "description", str, path),
    }
    given_parts = {name: value for name, value in schema.items() if value is not None}
    return {"response_format": {"type": kind, "json_schema": given_parts}}


def _tools(given: Mapping[str, Any]) -> dict[str, Any]:
    fields: dict[str, Any] = {}
    tools = optional(given, "tools", list)
    if tools:
        fields["tools"] = _functions(tools)
    choice = given.get("tool_choice")
    if isinstance(choice, dict):
        check_members(choice, "tool_choice", known=("type", "name"), idle={"mode": (), "tools": ()})
        choose(choice.get("type"), ("function",), "tool_choice.type")
        function = {"name": required(choice, "name", str, "tool_choice")}
        fields["tool_choice"] = {"type": "function", "function": function}
    elif choice is not None:
        fields["tool_choice"] = choose(choice, ("none", "auto", "required"), "tool_choice")
    if not tools and fields.get("tool_choice") == "auto":
        # The API's own default.
        del fields["tool_choice"]
    return fields


def _functions(tools: list[Any]) -> list[dict[str, Any]]:
    """Those of namespaces among the others."""
    found: list[dict[str, Any]] = []
    for i, tool in enumerate(tools):
        path = f"tools[{i}]"
        if expect(tool, dict, path).get("type") == "namespace":
            found += _namespace(tool, path)
        else:
            found.append(_tool(tool, path))
    if len(found) > len(tools):
        _check_told_apart(found)
    return found


def _namespace(tool: Mapping[str, Any], path: str) -> list[dict[str, Any]]:
    check_members(tool, path, known=("type", "name", "description", "tools"))
    namespace, members = required(tool, "name", str, path), required(tool, "tools", list, path)
    found = [
        _tool(expect(each, dict, f"{path}.tools[{i}]"), f"{path}.tools[{i}]", namespace)
        for i, each in enumerate(members)
    ]
    description = optional(tool, "description", str, path)
    if description and found:
        first = found[0]["function"]
        first["description"] = "\n\n".join(filter(None, (description, first.get("description"))))
    return found


def _check_told_apart(functions: list[dict[str, Any]]) -> None:
    names = [each["function"]["name"] for each in functions]
    twice = next((name for name, count in Counter(names).items() if count > 1), None)
    if twice is not None:
        refuse("tools", "must have different names, a namespace's with two underscores before its own", twice)


def _tool(tool: Mapping[str, Any], path: str, namespace: str | None = None) -> dict[str, Any]:
    kind = tool.get("type")
    if kind != "function":
        hint = ' (Codex leaves it out with web_search = "disabled")' if kind == "web_search" else ""
        kinds = "function or namespace" if namespace is None else "function"
        refuse(f"{path}.type", f"must be {kinds}: this server runs no tools of its own{hint}", kind)
    check_members(
        tool,
        path,
        known=("type", "name", "description", "parameters", "strict"),
        idle={
            "allowed_callers": (["direct"],),
            "async": (False,),
            "defer_loading": (False,),
            "output_schema": (),
        },
    )
    function: dict[str, Any] = {"name": plain_name(namespace, required(tool, "name", str, path))}
    for name, kind in (("description", str), ("parameters", dict), ("strict", bool)):
        value = optional(tool, name, kind, path)
        if value is not None:
            function[name] = value
    return {"type": "function", "function": function}
