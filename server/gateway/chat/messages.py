"""Messages of a request, checked so far that vLLM's own models take them.

vLLM's type of a message is a union of eight, of a part one of sixteen. A message that none of them takes
costs up to forty errors, which are all collected, on the one thread that serves everybody: a request of some
megabytes would stop every stream of its engine for a minute. Each of the eight looks at every member, too.
Source: vLLM 0.32, `vllm/renderers/chat_utils.py`.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from typing import Annotated, Any, Literal, NoReturn

from pydantic import BaseModel, Field, TypeAdapter, ValidationError

from server.budget.shown import cut, show
from server.gateway.errors import InvalidRequest

MAX_MESSAGES = 16_384
MAX_PARTS = 16_384
"""Content parts, tools and tool calls, of all messages of a request."""
MAX_MEMBERS = 131_072
"""Of all messages and content parts of a request: each that vLLM doesn't know costs it some microseconds."""
_MAY_LACK_CONTENT = ("assistant", "function")
_CALL_MEMBERS: Mapping[str, tuple[str, str]] = {
    "function": ("name", "arguments"),
    "custom": ("name", "input"),
}
"""By a tool call's type, which is also its member's name: what that has, as strings."""
_ASSISTANTS: Mapping[str, tuple[str, ...]] = {"audio": ("id",), "function_call": ("name", "arguments")}
"""Objects of an assistant's message: what each has, as strings."""
_CUSTOM_TEXTS = ("reasoning", "reasoning_content", "task")


class _Function(BaseModel):
    name: str
    description: str = ""
    parameters: dict[str, Any] = {}
    strict: bool | None = None


class _Tool(BaseModel):
    type: Literal["function"]
    function: _Function


_TOOLS: TypeAdapter[Any] = TypeAdapter(Annotated[list[_Tool], Field(fail_fast=True)] | None)
_EMBEDS = ("image_embeds", "audio_embeds", "video_embeds")
_EMBEDDED: TypeAdapter[Any] = TypeAdapter(Annotated[list[int | float], Field(fail_fast=True)])


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
    num_parts = num_members = 0
    for i, message in enumerate(messages):
        if not isinstance(message, dict):
            _refuse(f"messages[{i}]", "must be an object", message)
        _check_role(message, i, roles)
        content = message.get("content")
        if len(message) == 2 and isinstance(content, str):
            # A role and a text, as most are.
            continue
        calls, tools = message.get("tool_calls"), message.get("tools")
        num_parts += sum(len(held) for held in (content, calls, tools) if isinstance(held, list))
        _check_total(num_parts, MAX_PARTS, "content parts, tools and tool calls")
        num_members += len(message)
        if isinstance(content, list):
            num_members += sum(len(part) for part in content if isinstance(part, dict))
        _check_total(num_members, MAX_MEMBERS, "members")
        for path, expectation, value in _problems(message, content, calls):
            _refuse(f"messages[{i}].{path}", expectation, value)


def _check_total(given: int, most: int, things: str) -> None:
    if given > most:
        raise InvalidRequest(
            f"`messages` must have at most {most} {things} in all. Given: at least {given}", param="messages"
        )


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
    problem = next(_role_problems(message, content), None)
    if problem is not None:
        # vLLM's own type has room for any other message, but not for a content that is null.
        yield from (problem,) if "content" in message and content is None else _custom_problems(message)


def _role_problems(message: dict[str, Any], content: Any) -> Iterator[_Problem]:
    """Why a message isn't OpenAI's of its role; the rest of it is right."""
    role = message["role"]
    if role == "assistant":
        yield from _assistant_problems(message)
    elif role == "function":
        if not isinstance(message.get("name"), str):
            yield ("name", "must be a string", message.get("name"))
        if not isinstance(content, str) and ("content" not in message or content is not None):
            yield ("content", "must be a string", content)
    elif role in ("developer", "system", "user", "tool"):
        if content is None:
            yield ("content", "must be a string or an array of content parts", content)
        if role == "tool" and message.get("tool_call_id") is None:
            yield ("tool_call_id", "must be a string", None)
    else:
        yield ("role", "must be one of OpenAI's", role)


def _assistant_problems(message: dict[str, Any]) -> Iterator[_Problem]:
    if message.get("tool_calls", ()) is None:
        yield ("tool_calls", "must be an array", None)
    refusal = message.get("refusal")
    if refusal is not None and not isinstance(refusal, str):
        yield ("refusal", "must be a string", refusal)
    for name, members in _ASSISTANTS.items():
        held = message.get(name)
        if held is None:
            continue
        if not isinstance(held, dict):
            yield (name, "must be an object", held)
            return
        for member in members:
            if not isinstance(held.get(member), str):
                yield (f"{name}.{member}", "must be a string", held.get(member))


def _custom_problems(message: dict[str, Any]) -> Iterator[_Problem]:
    """Why a message isn't vLLM's own, which takes any role; the rest of it is right."""
    if not isinstance(message.get("name", ""), str):
        yield ("name", "must be a string", message["name"])
    for name in _CUSTOM_TEXTS:
        text = message.get(name)
        if text is not None and not isinstance(text, str):
            yield (name, "must be a string", text)
    for i, call in enumerate(message.get("tool_calls") or ()):
        if call["type"] != "function":
            yield (f"tool_calls[{i}].type", "must be 'function'", call["type"])
    tools: Any = message.get("tools")
    try:
        _TOOLS.validate_python(tools)
    except ValidationError as error:
        place = error.errors()[0]["loc"][:1]
        path, value = (f"tools[{place[0]}]", tools[place[0]]) if place else ("tools", tools)
        yield (path, 'must be {"type": "function", "function": {"name": …}}', value)


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
    for name in _EMBEDS:
        if name in part:
            yield from _embeds_problems(part[name], f"{path}.{name}")


def _embeds_problems(embeds: Any, path: str) -> Iterator[_Problem]:
    if embeds is None or isinstance(embeds, str):
        return
    if not isinstance(embeds, dict):
        yield (path, "must be a string or an object", embeds)
        return
    for name, value in embeds.items():
        if isinstance(value, str):
            continue
        try:
            _EMBEDDED.validate_python(value)
        except ValidationError:
            yield (f"{path}.{cut(name)}", "must be a string or an array of numbers", value)
            return


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
