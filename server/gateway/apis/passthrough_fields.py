"""What is checked of bodies that go to the engine as they are: what would cost it too much. Everything else
in them is the engine's to check.

vLLM tells of a malformed list with several complaints for each of its elements, and makes them in the process
that serves everybody.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from server.budget.shown import show
from server.budget.spec import MAX_TOKENS
from server.gateway.chat.chat_request import MAX_CHOICES
from server.gateway.chat.messages import check_messages
from server.gateway.errors import InvalidRequest

MOST_ELEMENTS = 16_384
"""Tools, texts to embed."""
MOST_TOKEN_IDS = 1_048_576
"""Of a text to be told; about as many as the longest contexts have."""


def check_completion(fields: Mapping[str, Any]) -> int:
    """How many choices are asked for.

    Raises:
        InvalidRequest: as all of these; `param` names the field.
    """
    _check_integer(fields, "max_tokens", 0, MAX_TOKENS)
    prompts = sum(_texts(fields, name, MAX_CHOICES) for name in ("prompt", "prompt_embeds")) or 1
    each = 1
    for name in ("n", "best_of"):
        _check_integer(fields, name, 1, MAX_CHOICES)
        value = fields.get(name, 1)
        if value * prompts > MAX_CHOICES:
            raise InvalidRequest(
                f"`{name}` times the number of prompts must be <= {MAX_CHOICES}. Given: {value} × {prompts}",
                param=name,
            )
        each = max(each, value)
    return each * prompts


def check_embedding(fields: Mapping[str, Any]) -> None:
    _texts(fields, "input", MOST_ELEMENTS)
    check_messages(fields)


def check_tokenize(fields: Mapping[str, Any]) -> None:
    prompt = fields.get("prompt", "")
    if not isinstance(prompt, str):
        raise InvalidRequest(f"`prompt` must be a string. Given: {show(prompt)}", param="prompt")
    check_messages(fields)
    _check_tools(fields.get("tools", []))


def check_detokenize(fields: Mapping[str, Any]) -> None:
    tokens = fields.get("tokens", [])
    if not isinstance(tokens, list):
        raise InvalidRequest(f"`tokens` must be an array of token ids. Given: {show(tokens)}", param="tokens")
    _check_ids(tokens, "tokens")


def _check_tools(tools: Any) -> None:
    if not isinstance(tools, list):
        raise InvalidRequest(f"`tools` must be an array of objects. Given: {show(tools)}", param="tools")
    _check_length(tools, "tools", MOST_ELEMENTS)
    for place, element in enumerate(tools):
        if not isinstance(element, dict):
            where = f"tools[{place}]"
            raise InvalidRequest(f"`{where}` must be an object. Given: {show(element)}", param=where)


def _texts(fields: Mapping[str, Any], name: str, most: int) -> int:
    """How many are in a field that has one or several, as strings or as token ids; 0 if it is absent."""
    value = fields.get(name)
    if value is None:
        return 0
    if isinstance(value, str):
        return 1
    if not isinstance(value, list) or not value:
        raise InvalidRequest(
            f"`{name}` must be a string, an array of token ids, or a non-empty array of either. "
            f"Given: {show(value)}",
            param=name,
        )
    if not isinstance(value[0], str | list):
        _check_ids(value, name)
        return 1
    _check_length(value, name, most)
    for place, element in enumerate(value):
        where = f"{name}[{place}]"
        if type(element) is not type(value[0]):
            raise InvalidRequest(f"`{where}` must be as `{name}[0]`. Given: {show(element)}", param=where)
        if isinstance(element, list):
            _check_ids(element, where)
    return len(value)


def _check_ids(values: list[Any], field: str) -> None:
    _check_length(values, field, MOST_TOKEN_IDS)
    for place, value in enumerate(values):
        # true is an integer, too, for Python.
        if type(value) is not int or value < 0:
            where = f"{field}[{place}]"
            raise InvalidRequest(f"`{where}` must be an integer >= 0. Given: {show(value)}", param=where)


def _check_length(values: list[Any], field: str, most: int) -> None:
    if len(values) > most:
        raise InvalidRequest(
            f"`{field}` must have at most {most} elements. Given: {len(values)}", param=field
        )


def _check_integer(fields: Mapping[str, Any], name: str, least: int, most: int) -> None:
    value = fields.get(name, least)
    if type(value) is not int or not least <= value <= most:
        raise InvalidRequest(
            f"`{name}` must be an integer from {least} to {most}. Given: {show(value)}", param=name
        )
