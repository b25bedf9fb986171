"""Turn a pydantic failure into one sentence that names field, limit and value."""

from __future__ import annotations

import difflib
from collections.abc import Collection
from typing import Any

from pydantic import ValidationError
from pydantic_core import ErrorDetails

from server.gateway.errors import InvalidRequest

_SHOWN_CHARACTERS = 120

_EXPECTED = {
    "greater_than_equal": "must be >= {ge}",
    "greater_than": "must be > {gt}",
    "less_than_equal": "must be <= {le}",
    "less_than": "must be < {lt}",
    "too_long": "must have at most {max_length} elements",
    "too_short": "must have at least {min_length} elements",
    "string_too_short": "must have at least {min_length} characters",
    "string_too_long": "must have at most {max_length} characters",
    "string_pattern_mismatch": "must match {pattern}",
    "literal_error": "must be one of {expected}",
    "int_type": "must be an integer",
    "float_type": "must be a number",
    "finite_number": "must be a finite number",
    "bool_type": "must be true or false",
    "string_type": "must be a string",
    "list_type": "must be an array",
    "dict_type": "must be an object",
    "model_type": "must be an object",
    "extra_forbidden": "is not a field that is known here",
    "missing": "is required",
}


def invalid_request(error: ValidationError) -> InvalidRequest:
    """The first problem pydantic found."""
    detail = error.errors(include_url=False)[0]
    field = _path(detail["loc"])
    if detail["type"] == "missing":
        return InvalidRequest(f"`{field}` is required", param=field)
    return InvalidRequest(
        f"`{field}` {describe_problem(detail)}. Given: {show(detail['input'])}", param=field
    )


def show(value: object) -> str:
    text = repr(value)
    return text if len(text) <= _SHOWN_CHARACTERS else f"{text[:_SHOWN_CHARACTERS]}…"


def did_you_mean(name: str, known: Collection[str]) -> str:
    nearest = difflib.get_close_matches(name, sorted(known), n=1, cutoff=0.6)
    return f" Did you mean `{nearest[0]}`?" if nearest else ""


def describe_problem(detail: ErrorDetails) -> str:
    """What pydantic expected, in our words."""
    template = _EXPECTED.get(detail["type"])
    if template is None:
        return detail["msg"]
    context: dict[str, Any] = detail.get("ctx", {})
    return template.format(**context)


def _path(location: tuple[int | str, ...]) -> str:
    path = ""
    for part in location:
        path += f"[{part}]" if isinstance(part, int) else f".{part}" if path else part
    return path or "body"
