"""How many token ids, and how many entries of other fields, one request may bring to vLLM.

Its front end counts neither. Its Model Runner V2 counts token ids, in the worker, and a request with more
ends the engine with every stream on it. Source: vLLM 0.32, `vllm/v1/worker/gpu/sample/logit_bias.py`. Other
entries the front end checks one by one and keeps an error for each that is wrong, while everybody waits.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from pydantic import TypeAdapter, ValidationError

from server.budget.shown import cut, show
from server.gateway.errors import InvalidRequest

MAX_LOGIT_BIAS = 1024
MAX_ALLOWED_TOKEN_IDS = 1024
MAX_MASKED_STOPS = 120
"""Stop tokens of a request with `min_tokens`: vLLM takes 128, the model's own end tokens included."""

MAX_ENTRIES = 16_384
"""Of each other list and object whose entries vLLM, or this gateway, checks one by one; of `vllm_xargs` and a
structural tag with all that is in them."""
_CHECKED_ONE_BY_ONE = frozenset(
    {
        "bad_words",
        "chat_template_kwargs",
        "documents",
        "logprob_token_ids",
        "media_io_kwargs",
        "mm_processor_kwargs",
        "response_format",
        "stop_token_ids",
        "tool_choice",
        "tools",
        "vllm_xargs",
    }
)
_SCHEMAS = frozenset({"json_schema", "schema"})
"""Of a structural tag: what vLLM doesn't look into."""


def _is_string(value: object) -> bool:
    return isinstance(value, str)


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) or _taken(_NUMBER, value)


def _is_integer(value: object) -> bool:
    return isinstance(value, int) or _taken(_INTEGER, value)


def _is_text_or_number(value: object) -> bool:
    return isinstance(value, str | int | float)


def _is_object(value: object) -> bool:
    return isinstance(value, dict)


def _taken(type_: TypeAdapter[Any], value: object) -> bool:
    """vLLM takes "5" and 5.0 for a number, too."""
    try:
        type_.validate_python(value)
    except ValidationError:
        return False
    return True


_NUMBER: TypeAdapter[Any] = TypeAdapter(float)
_INTEGER: TypeAdapter[Any] = TypeAdapter(int)
_SWITCH: TypeAdapter[Any] = TypeAdapter(bool | None)
_ENTRIES: Mapping[str, tuple[Callable[[object], bool], str]] = {
    "allowed_token_ids": (_is_integer, "an integer"),
    "bad_words": (_is_string, "a string"),
    "documents": (_is_object, "an object"),
    "logit_bias": (_is_number, "a number"),
    "logprob_token_ids": (_is_integer, "an integer"),
    "media_io_kwargs": (_is_object, "an object"),
    "stop_token_ids": (_is_integer, "an integer"),
}
"""What vLLM wants each to be."""


def check_sampling_limits(fields: Mapping[str, Any]) -> None:
    """Refuse what would end a vLLM engine or stop it for a while; other wrong types aren't looked for.

    Raises:
        InvalidRequest: `param` names the field.
    """
    _check(fields, "logit_bias", MAX_LOGIT_BIAS)
    _check(fields, "allowed_token_ids", MAX_ALLOWED_TOKEN_IDS)
    # vLLM takes "5" and true for numbers, too.
    if fields.get("min_tokens"):
        _check(fields, "stop_token_ids", MAX_MASKED_STOPS, " with `min_tokens` above 0")
    for name in _CHECKED_ONE_BY_ONE & fields.keys():
        _check(fields, name, MAX_ENTRIES)
    for name in ("structured_outputs", "vllm_xargs"):
        held = fields.get(name)
        for member, value in held.items() if isinstance(held, dict) else ():
            _check_size(value, f"{name}.{cut(member)}", MAX_ENTRIES)
    for name in _ENTRIES.keys() & fields.keys():
        check_entries(fields, name)
    _check_documents(fields.get("documents"))
    _check_structured_outputs(fields.get("structured_outputs"))
    _check_xargs(fields.get("vllm_xargs"))
    _check_response_format(fields.get("response_format"))
    _check_deferred(fields.get("tools"))


def check_entries(fields: Mapping[str, Any], name: str) -> None:
    """Refuse the first entry of a field that isn't as vLLM wants each of them; and too many.

    Raises:
        InvalidRequest: `param` is the entry's path, or names the field.
    """
    _check(fields, name, MAX_ENTRIES)
    _check_each(fields.get(name), name, *_ENTRIES[name])


def _check_documents(documents: object) -> None:
    for place, document in enumerate(documents) if isinstance(documents, list) else ():
        _check_size(document, f"documents[{place}]", MAX_ENTRIES)
        _check_each(document, f"documents[{place}]", _is_string, "a string")


def _check_structured_outputs(given: object) -> None:
    if isinstance(given, dict):
        _check_each(given.get("choice"), "structured_outputs.choice", _is_string, "a string")


def _check_xargs(xargs: object) -> None:
    if not isinstance(xargs, dict):
        return
    _check_total(
        "vllm_xargs", len(xargs) + sum(len(held) for held in xargs.values() if isinstance(held, list))
    )
    for name, value in xargs.items():
        path = f"vllm_xargs.{cut(name)}"
        if isinstance(value, list):
            _check_each(value, path, _is_text_or_number, "a string or a number")
        elif not _is_text_or_number(value):
            raise _wrong(path, "a string, a number, or an array of them", value)


def _check_response_format(given: object) -> None:
    if not isinstance(given, dict):
        return
    _check_size(given.get("json_schema"), "response_format.json_schema", MAX_ENTRIES)
    total = 0
    rest: list[Any] = [given]
    while rest:
        held = rest.pop()
        total += len(held)
        _check_total("response_format", total)
        inner = (value for name, value in held.items() if name not in _SCHEMAS) if _is_object(held) else held
        rest += [value for value in inner if isinstance(value, dict | list)]


def _check_deferred(tools: object) -> None:
    for place, tool in enumerate(tools) if isinstance(tools, list) else ():
        function = tool.get("function") if isinstance(tool, dict) else None
        for path, held in ((f"tools[{place}]", tool), (f"tools[{place}].function", function)):
            if isinstance(held, dict) and not _taken(_SWITCH, held.get("defer_loading")):
                raise _wrong(f"{path}.defer_loading", "true or false", held["defer_loading"])


def _check_each(held: object, path: str, is_right: Callable[[object], bool], expectation: str) -> None:
    if isinstance(held, list):
        for place, value in enumerate(held):
            if not is_right(value):
                raise _wrong(f"{path}[{place}]", expectation, value)
    elif isinstance(held, dict):
        for name, value in held.items():
            if not is_right(value):
                raise _wrong(f"{path}.{cut(name)}", expectation, value)


def _wrong(path: str, expectation: str, value: object) -> InvalidRequest:
    return InvalidRequest(f"`{path}` must be {expectation}. Given: {show(value)}", param=path)


def _check_total(name: str, given: int) -> None:
    if given > MAX_ENTRIES:
        raise InvalidRequest(
            f"`{name}` must have at most {MAX_ENTRIES} entries in all. Given: at least {given}", param=name
        )


def _check(fields: Mapping[str, Any], name: str, most: int, where: str = "") -> None:
    _check_size(fields.get(name), name, most, where)


def _check_size(value: object, path: str, most: int, where: str = "") -> None:
    if isinstance(value, list | dict) and len(value) > most:
        raise InvalidRequest(
            f"`{path}` must have at most {most} entries{where}. Given: {len(value)}", param=path
        )
