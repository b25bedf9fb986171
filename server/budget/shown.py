"""What a message repeats of a request: enough to find it, however long it is.

A name or a value may be as long as a body may be. Neither is spelt out, or compared, beyond what is shown.
"""

from __future__ import annotations

import difflib
from collections.abc import Collection, Iterator, Mapping

MOST_CHARACTERS = 120


def show(value: object) -> str:
    """Its repr, cut."""
    text = ""
    for piece in _pieces(value):
        text += piece
        if len(text) > MOST_CHARACTERS:
            break
    return cut(text)


def cut(text: str) -> str:
    return text if len(text) <= MOST_CHARACTERS else f"{text[:MOST_CHARACTERS]}…"


def did_you_mean(name: str, known: Collection[str]) -> str:
    nearest = difflib.get_close_matches(cut(name), sorted(known), n=1, cutoff=0.6)
    return f" Did you mean `{nearest[0]}`?" if nearest else ""


def _pieces(value: object) -> Iterator[str]:
    """Of the repr of a JSON value; a long string is one piece, cut where nothing of it is shown any more."""
    if isinstance(value, str):
        yield repr(value[: MOST_CHARACTERS + 1])
    elif isinstance(value, Mapping):
        before = "{"
        for name, member in value.items():
            yield before
            yield from _pieces(name)
            yield ": "
            yield from _pieces(member)
            before = ", "
        yield "}" if value else "{}"
    elif isinstance(value, list):
        before = "["
        for element in value:
            yield before
            yield from _pieces(element)
            before = ", "
        yield "]" if value else "[]"
    else:
        yield repr(value)
