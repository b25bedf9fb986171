"""Messages of a request, checked so far that vLLM's own models take them.

vLLM's type of a message is a union of eight, of a part one of sixteen. A message that none of them takes
costs up to twenty errors, which are all collected, on the one thread that serves everybody: a request of some
megabytes would stop every stream of its engine for a minute. Source: vLLM 0.32,
`vllm/renderers/chat_utils.py`.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from typing import Any, NoReturn

from server.budget.shown import show
from server.gateway.errors import InvalidRequest

MAX_MESSAGES = 16_384
MAX_PARTS = 16_384
"""Content parts and tool calls, of all messages of a request."""
_MAY_LACK_CONTENT = ("assistant", "function")
_CALL_MEMBERS: Mapping[str, tuple[str, str]] = {
    "function": ("name", "arguments"),
    "custom": ("name", "input"),
}
"""By a tool call's type, which is also its member's name: what that has, as strings."""


def check_messages(fields: Mapping[str, Any], *, roles: Collection[str] | None = None) -> None:
    """Refuse the first thing in `messages` that vLLM's models don't take; a body without it passes.

    Args:
        roles: that are taken; None takes any, as vLLM does.

    Raises:
        InvalidRequest: `param` is the path of what is wrong.
    """
    if "messages" not in fields:
        return
    messages = fields["messages"]
    if not isinstance(messages, list):
        _refuse("messages", "must be an array", messages)
    if len(messages) > MAX_MESSAGES:
        raise InvalidRequest(
            f"`messages` must have at most {MAX_MESSAGES} elements. Given: {len(messages)}", param="messages"
        )
    num_parts = 0
    for i, message in enumerate(messages):
        if not isinstance(message, dict):
            _refuse(f"messages[{i}]", "must be an object", message)
        content, calls = message.get("content"), message.get("tool_calls")
        if isinstance(content, list):
            num_parts += len(content)
        if isinstance(calls, list):
            num_parts += len(calls)
        if num_parts > MAX_PARTS:
            raise InvalidRequest(
                f"`messages` must have at most {MAX_PARTS} content parts and tool calls in all. "
                f"Given: at least {num_parts}",
                param="messages",
            )
        _check_role(message, i, roles)
        if len(message) == 2 and isinstance(content, str):
            # A role and a text, as most are.
            continue
        for path, expectation, value in _problems(message, content, calls):
            _refuse(f"messages[{i}].{path}", expectation, value)


def _check_role(message: dict[str, Any], index: int, roles: Collection[str] | None) -> None:
    role = message.get("role")
    if isinstance(role, str) and (roles is None or role in roles):
        return
    path = f"messages[{index}].role"
    if "role" not in message:
        raise InvalidRequest(f"`{path}` is required", param=path)
    _refuse(
        path, "must be a string" if roles is None else f"must be one of {', '.join(map(repr, roles))}", role
    )


_Problem = tuple[str, str, Any]
"""Path, expectation, value."""


def _problems(message: dict[str, Any], content: Any, calls: Any) -> Iterator[_Problem]:
    role = message["role"]
    if isinstance(content, list):
        for i, part in enumerate(content):
            yield from _part_problems(part, f"content[{i}]")
    elif content is None:
        if "content" in message and role not in _MAY_LACK_CONTENT:
            yield ("content", "must be a string or an array of content parts", content)
    elif not isinstance(content, str):
        yield ("content", "must be a string or an array of content parts", content)
    name = message.get("name", "")
    # vLLM doesn't read the name of a tool's message.
    if not isinstance(name, str) and not (name is None and role == "tool"):
        yield ("name", "must be a string", name)
    call_id = message.get("tool_call_id")
    if call_id is not None and not isinstance(call_id, str):
        yield ("tool_call_id", "must be a string", call_id)
    if calls is not None:
        yield from _calls_problems(calls)


def _part_problems(part: Any, path: str) -> Iterator[_Problem]:
    if not isinstance(part, dict):
        yield (path, "must be an object", part)
        return
    kind = part.get("type")
    if kind is not None and not isinstance(kind, str):
        yield (f"{path}.type", "must be a string", kind)
    if kind == "text" and not isinstance(part.get("text"), str):
        yield (f"{path}.text", "must be a string", part.get("text"))
    uuid = part.get("uuid")
    if uuid is not None and not isinstance(uuid, str):
        yield (f"{path}.uuid", "must be a string", uuid)
    if part.get("image_pil") is not None:
        yield (f"{path}.image_pil", "can't be given in JSON", part["image_pil"])


def _calls_problems(calls: Any) -> Iterator[_Problem]:
    if not isinstance(calls, list):
        yield ("tool_calls", "must be an array", calls)
        return
    for i, call in enumerate(calls):
        path = f"tool_calls[{i}]"
        if not isinstance(call, dict):
            yield (path, "must be an object", call)
            return
        kind = call.get("type")
        if kind not in ("function", "custom"):
            yield (f"{path}.type", "must be 'function' or 'custom'", kind)
            return
        if not isinstance(call.get("id"), str):
            yield (f"{path}.id", "must be a string", call.get("id"))
        called = call.get(kind)
        if not isinstance(called, dict):
            yield (f"{path}.{kind}", "must be an object", called)
            return
        for name in _CALL_MEMBERS[kind]:
            if not isinstance(called.get(name), str):
                yield (f"{path}.{kind}.{name}", "must be a string", called.get(name))


def _refuse(path: str, expectation: str, value: object) -> NoReturn:
    raise InvalidRequest(f"`{path}` {expectation}. Given: {show(value)}", param=path)
