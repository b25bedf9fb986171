"""JSON from outside, files of users and replies of models: what Python's reader lets through or dies of."""

from __future__ import annotations

import json
import re
from typing import Any

_SURROGATES = re.compile("[\ud800-\udfff]")
_MAX_DEPTH = 100
_NO_CHARACTER = "\ufffd"


def read_json(text: str | bytes) -> Any:
    """Its text can be written again, as UTF-8.

    Raises:
        ValueError: it is not JSON, or Python can't hold it; says why. A JSONDecodeError where it is not JSON.
    """
    content = _loads(text)
    if _may_hold_surrogates(text):
        try:
            json.dumps(content, ensure_ascii=False).encode()
        except UnicodeEncodeError as error:
            half = error.object[error.start : error.end]
            raise ValueError(f"it holds {ascii(half)}, half of a pair, which is no character") from error
    return content


def read_json_leniently(text: str | bytes) -> Any:
    """As `read_json`, with U+FFFD for what is no character: a model's reply can't be sent back."""
    content = _loads(text)
    return _with_characters_only(content) if _may_hold_surrogates(text) else content


def _loads(text: str | bytes) -> Any:
    too_deep = f"it is nested more than {_MAX_DEPTH} deep"
    try:
        content = json.loads(text)
    except RecursionError as error:
        raise ValueError(too_deep) from error
    if _is_deep(content):
        raise ValueError(too_deep)
    return content


def _is_deep(content: Any) -> bool:
    """What is read just so may be too deep for what comes after."""
    level = [content] if _is_nest(content) else []
    for _ in range(_MAX_DEPTH):
        if not level:
            return False
        inner = [nest.values() if isinstance(nest, dict) else nest for nest in level]
        level = [part for parts in inner for part in parts if _is_nest(part)]
    return bool(level)


def _is_nest(content: Any) -> bool:
    return isinstance(content, dict | list)


def _may_hold_surrogates(text: str | bytes) -> bool:
    """As escapes, or as bytes that Python's reader lets through."""
    if isinstance(text, str):
        return "\\ud" in text.lower() or _SURROGATES.search(text) is not None
    return b"\\ud" in text.lower() or b"\xed" in text


def _with_characters_only(content: Any) -> Any:
    if isinstance(content, str):
        return _SURROGATES.sub(_NO_CHARACTER, content)
    if isinstance(content, list):
        return [_with_characters_only(part) for part in content]
    if isinstance(content, dict):
        return {_with_characters_only(key): _with_characters_only(part) for key, part in content.items()}
    return content
