"""Where thinking ends in generated text: the end marker, the answer prompt, and what belongs to neither.

Text reaches a stream in pieces, and lags behind the token ids while vLLM looks for stop strings. Ids say
*whether* the end marker has come, text says where to cut.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from server.budget.markers import Family


@dataclass(frozen=True, slots=True)
class Pieces:
    """New text of each kind; None where there is none."""

    reasoning: str | None
    content: str | None


def split_text(text: str, family: Family) -> Pieces:
    """Split a whole output. A leading answer prompt and leading white space are never content."""
    text = text.removeprefix(family.think_start)
    reasoning, found, rest = text.partition(family.think_end)
    if not found:
        return Pieces(reasoning=reasoning or None, content=None)
    if family.answer_prompt.startswith(rest):
        # Cut inside the prompt, by a stop string or the length.
        rest = ""
    rest = rest.removeprefix(family.answer_prompt)
    return Pieces(reasoning=reasoning or None, content=rest.lstrip() or None)


class StreamSplitter:
    """Splits a growing text. `in_content` turns true when the first content has been given out."""

    def __init__(self, family: Family, *, start: Sequence[int], end: Sequence[int]) -> None:
        self._family = family
        self._start = tuple(start)
        self._end = tuple(end)
        self._prompt = family.answer_prompt
        self._opening_passed = False
        self._emitted = 0
        self._search_from = 0
        self._ids_seen = 0
        self._ended_by_ids = False
        self._content_from: int | None = None
        self.in_content = False

    def push(self, text: str, token_ids: Sequence[int]) -> Pieces:
        """Take the whole text and ids so far; give out what has become certain."""
        self._look_for_end(token_ids)
        if not self._pass_opening(text, token_ids):
            return Pieces(reasoning=None, content=None)
        if self._content_from is not None:
            return Pieces(reasoning=None, content=self._content(text))
        if not self._ended_by_ids:
            self._search_from = max(self._search_from, len(text) - len(self._family.think_end) + 1)
            return Pieces(reasoning=self._reasoning(text, self._certain(text, token_ids)), content=None)
        at = text.find(self._family.think_end, max(self._emitted, self._search_from))
        if at < 0:
            certain = len(text) - _partial_suffix(text, self._family.think_end)
            return Pieces(reasoning=self._reasoning(text, certain), content=None)
        reasoning = self._reasoning(text, at)
        self._content_from = at + len(self._family.think_end)
        return Pieces(reasoning=reasoning, content=self._content(text))

    def _look_for_end(self, token_ids: Sequence[int]) -> None:
        if self._ended_by_ids:
            return
        first = max(0, self._ids_seen - len(self._end) + 1)
        self._ended_by_ids = find(token_ids, self._end, first) is not None
        self._ids_seen = len(token_ids)

    def _pass_opening(self, text: str, token_ids: Sequence[int]) -> bool:
        """Skip a start marker at the very beginning; False while it may still be coming."""
        if self._opening_passed:
            return True
        opening = self._family.think_start
        if _begins(token_ids, self._start):
            if len(token_ids) < len(self._start) or len(text) < len(opening):
                return False
            self._emitted = len(opening)
        self._opening_passed = True
        return True

    def _certain(self, text: str, token_ids: Sequence[int]) -> int:
        """How much of the text is thinking whatever comes: a begun marker's text is not."""
        begun = any(tuple(token_ids[-n:]) == self._end[:n] for n in range(1, len(self._end)))
        return len(text) - (_partial_suffix(text, self._family.think_end) if begun else 0)

    def _reasoning(self, text: str, certain: int) -> str | None:
        fresh = text[self._emitted : certain]
        self._emitted = max(self._emitted, certain)
        return fresh or None

    def _content(self, text: str) -> str | None:
        if self._content_from is None:
            return None
        if self.in_content:
            fresh = text[self._emitted :]
            self._emitted = len(text)
            return fresh or None
        rest = text[self._content_from :]
        if self._prompt.startswith(rest):
            return None
        visible = rest.removeprefix(self._prompt).lstrip()
        if not visible:
            return None
        self.in_content = True
        self._emitted = len(text)
        return visible


def find(token_ids: Sequence[int], marker: Sequence[int], first: int = 0) -> int | None:
    """Index of the first occurrence of `marker` at or after `first`."""
    marker = list(marker)
    for i in range(first, len(token_ids) - len(marker) + 1):
        if token_ids[i] == marker[0] and list(token_ids[i : i + len(marker)]) == marker:
            return i
    return None


def find_last(token_ids: Sequence[int], marker: Sequence[int]) -> int | None:
    marker = list(marker)
    for i in range(len(token_ids) - len(marker), -1, -1):
        if token_ids[i] == marker[0] and list(token_ids[i : i + len(marker)]) == marker:
            return i
    return None


def _begins(token_ids: Sequence[int], marker: tuple[int, ...]) -> bool:
    shown = tuple(token_ids[: len(marker)])
    return shown == marker[: len(shown)]


def _partial_suffix(text: str, marker: str) -> int:
    """Length of the longest end of `text` that begins `marker`."""
    for n in range(min(len(marker), len(text)), 0, -1):
        if text.endswith(marker[:n]):
            return n
    return 0
