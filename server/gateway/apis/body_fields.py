"""Reading the JSON of another API's request: each step checks, and names what it refuses by its path."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any, NoReturn, TypeVar

from server.budget.shown import cut, did_you_mean, show
from server.budget.spec import BUDGET_FIELDS
from server.gateway.errors import InvalidRequest

Kind = TypeVar("Kind")

ENGINE_FIELDS = frozenset(
    [
        "allowed_token_ids",
        "bad_words",
        "cache_salt",
        "chat_template_kwargs",
        "frequency_penalty",
        "ignore_eos",
        "include_stop_str_in_output",
        "logit_bias",
        "min_p",
        "min_tokens",
        "presence_penalty",
        "priority",
        "repetition_penalty",
        "request_id",
        "seed",
        "skip_special_tokens",
        "stop_token_ids",
        "top_k",
    ]
)
"""Of the chat API's own fields, those that the other APIs take at the root of a request, too."""

PASSED_ON = ENGINE_FIELDS | frozenset(BUDGET_FIELDS) | {"model", "stream", "temperature", "top_p"}
"""Named and checked as in a chat request."""

_KINDS = {str: "a string", list: "an array", dict: "an object", bool: "true or false", int: "an integer"}


def refuse(path: str, expectation: str, value: object) -> NoReturn:
    raise InvalidRequest(f"`{path}` {expectation}. Given: {show(value)}", param=path)


def expect(value: object, kind: type[Kind], path: str) -> Kind:
    """Raises: InvalidRequest: `value` is of another kind."""
    if not isinstance(value, kind) or (kind is int and isinstance(value, bool)):
        refuse(path, f"must be {_KINDS[kind]}", value)
    return value


def required(held: Mapping[str, Any], name: str, kind: type[Kind], path: str) -> Kind:
    whole = f"{path}.{name}" if path else name
    if held.get(name) is None:
        raise InvalidRequest(f"`{whole}` is required", param=whole)
    return expect(held[name], kind, whole)


def optional(held: Mapping[str, Any], name: str, kind: type[Kind], path: str = "") -> Kind | None:
    value = held.get(name)
    return None if value is None else expect(value, kind, f"{path}.{name}" if path else name)


def choose(value: object, choices: Collection[str], path: str) -> str:
    if not isinstance(value, str) or value not in choices:
        refuse(path, f"must be one of {', '.join(choices)}", value)
    return value


def check_members(
    held: Mapping[str, Any],
    path: str,
    *,
    known: Collection[str],
    idle: Mapping[str, Collection[Any]] | None = None,
) -> None:
    """Refuse members that aren't `known`; null means absent.

    Args:
        idle: members that can't be honoured, with the values that ask for nothing.
    """
    idle = idle or {}
    for name, value in held.items():
        if name in known or value is None:
            continue
        whole = f"{path}.{cut(name)}" if path else cut(name)
        if name not in idle:
            hint = did_you_mean(name, known)
            raise InvalidRequest(
                f"`{whole}` is not a field that is known here.{hint} Given: {show(value)}", param=whole
            )
        if value not in idle[name]:
            refuse(whole, "is not supported by this server", value)
