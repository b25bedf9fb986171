"""Turn a pydantic failure into one sentence that names field, limit and value."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pydantic import BaseModel, ValidationError
from pydantic_core import ErrorDetails

from server.budget.shown import cut, show
from server.gateway.errors import InvalidRequest

MOST_LABELS = 16

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


def check_members_known(given: object, model: type[BaseModel], path: str = "") -> None:
    """Refuse the first member that `model` doesn't have and forbids: pydantic would collect them all.

    Raises:
        InvalidRequest: `param` is its path.
    """
    if isinstance(given, Mapping) and not given.keys() <= model.model_fields.keys():
        name = next(name for name in given if name not in model.model_fields)
        field = _path((path, name) if path else (name,))
        raise InvalidRequest(
            f"`{field}` {_EXPECTED['extra_forbidden']}. Given: {show(given[name])}", param=field
        )


def check_labels(labels: object, field: str) -> None:
    """Labels that clients give their requests, for their own books.

    Raises:
        InvalidRequest: they aren't an object of at most 16 strings.
    """
    if labels is None:
        return
    if not isinstance(labels, Mapping):
        raise InvalidRequest(f"`{field}` must be an object. Given: {show(labels)}", param=field)
    if len(labels) > MOST_LABELS:
        raise InvalidRequest(
            f"`{field}` must have at most {MOST_LABELS} members. Given: {len(labels)}", param=field
        )
    for name, value in labels.items():
        if not isinstance(value, str):
            where = f"{field}.{cut(name)}"
            raise InvalidRequest(f"`{where}` must be a string. Given: {show(value)}", param=where)


def invalid_request(error: ValidationError) -> InvalidRequest:
    """The first problem pydantic found."""
    detail = error.errors(include_url=False)[0]
    field = _path(detail["loc"])
    if detail["type"] == "missing":
        return InvalidRequest(f"`{field}` is required", param=field)
    return InvalidRequest(
        f"`{field}` {describe_problem(detail)}. Given: {show(detail['input'])}", param=field
    )


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
        path += f"[{part}]" if isinstance(part, int) else f".{cut(part)}" if path else cut(part)
    return path or "body"
