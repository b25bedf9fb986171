"""Read a request's body as a JSON object, within a size."""

from __future__ import annotations

import asyncio
from typing import Any

import orjson
from starlette.requests import Request

from server.gateway.errors import BodyTooLarge, BodyTooSlow, InvalidRequest, UnsupportedMediaType
from server.gateway.settings import Settings

_MOST_LEVELS = 200
"""Of objects and arrays in one another. orjson writes 254, and a request is put into others."""
_DRAINED_MULTIPLE = 4
"""Up to so many times the limit is read and dropped: a client that is still sending would otherwise see a
reset connection instead of the 413."""


async def read_body(request: Request, settings: Settings) -> dict[str, Any]:
    """Raises: as `read_json_object`."""
    return await read_json_object(
        request, max_bytes=settings.max_body_bytes, timeout_s=settings.body_timeout_s
    )


async def read_json_object(request: Request, *, max_bytes: int, timeout_s: float = 30.0) -> dict[str, Any]:
    """The body as a dict.

    Raises:
        BodyTooSlow: it isn't complete after `timeout_s`.
        UnsupportedMediaType: the content type says it isn't JSON.
        BodyTooLarge: it is longer than `max_bytes`, announced or not.
        InvalidRequest: it isn't JSON, or not an object; `param` is "body".
    """
    _check_content_type(request.headers.get("content-type"))
    try:
        async with asyncio.timeout(timeout_s):
            raw = await _read(request, max_bytes)
    except TimeoutError:
        raise BodyTooSlow(f"the body must arrive within {timeout_s:g} s", param="body") from None
    try:
        fields = orjson.loads(raw)
    except orjson.JSONDecodeError as error:
        raise InvalidRequest(f"the body is not valid JSON: {error}", param="body") from None
    if raw.count(b"[") + raw.count(b"{") > _MOST_LEVELS:
        _check_depth(fields)
    if not isinstance(fields, dict):
        raise InvalidRequest(f"the body must be a JSON object. Given: {_kind(fields)}", param="body")
    return fields


def _check_depth(whole: dict[str, Any]) -> None:
    level: list[Any] = [whole]
    depth = 0
    while level:
        depth += 1
        if depth > _MOST_LEVELS:
            raise InvalidRequest(f"the body must be <= {_MOST_LEVELS} levels deep", param="body")
        level = [
            inner
            for outer in level
            for inner in (outer.values() if isinstance(outer, dict) else outer)
            if isinstance(inner, dict | list)
        ]


def _check_content_type(content_type: str | None) -> None:
    if content_type is None:
        return
    media_type = content_type.partition(";")[0].strip().lower()
    if media_type != "application/json" and not media_type.endswith("+json"):
        raise UnsupportedMediaType(
            f"the content-type must be application/json. Given: {media_type}", param="content-type"
        )


async def _read(request: Request, max_bytes: int) -> bytes:
    announced = request.headers.get("content-length", "")
    if announced.isdecimal() and int(announced) > max_bytes * _DRAINED_MULTIPLE:
        raise _too_large(max_bytes, announced)
    parts = []
    total = 0
    async for part in request.stream():
        total += len(part)
        if total <= max_bytes:
            parts.append(part)
        elif total > max_bytes * _DRAINED_MULTIPLE:
            break
    if total > max_bytes:
        raise _too_large(max_bytes, announced or f"at least {total}")
    return b"".join(parts)


def _too_large(max_bytes: int, given: str) -> BodyTooLarge:
    return BodyTooLarge(f"the body must be <= {max_bytes} bytes. Given: {given} bytes", param="body")


def _kind(value: object) -> str:
    names = {list: "an array", str: "a string", bool: "a boolean", type(None): "null"}
    return names.get(type(value), "a number")
