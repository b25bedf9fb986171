"""One choice's output as text, while it grows: what is thinking, what is answer, and stop strings in either.

The same text rules as the engine's own reasoning parser: the end marker, a leading answer prompt and leading
white space belong to neither part.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from server.budget.markers import Family

_PARTIAL = "\ufffd"
"""What an unfinished UTF-8 sequence decodes to."""


@dataclass(frozen=True, slots=True)
class StopMatch:
    text: str
    begin: int
    """Where it begins in the output's text; nothing from there on is delivered."""


class Transcript:
    def __init__(self, family: Family, *, opened: bool, stops: Sequence[str]) -> None:
        self._family = family
        self._stops = tuple(stops)
        self._held = max(map(len, stops), default=1) - 1
        """Characters at the end that may yet turn out to begin a stop string."""
        self._reasoning_at = 0 if opened else len(family.think_start)
        self._content_at: int | None = None
        self._in_content = False
        self._ends_from: int | None = None
        self.text = ""

    def grow(self, text: str, *, ended: bool) -> StopMatch | None:
        """Take the whole text so far; the stop string that it completes first, if any.

        Args:
            ended: the end marker is in `text`, or follows at once.
        """
        text = text.rstrip(_PARTIAL)
        old = len(self.text)
        if ended and self._ends_from is None:
            self._ends_from = old
        if len(text) <= old:
            return None
        self.text = text
        found = [
            StopMatch(stop, begin)
            for stop in self._stops
            if (begin := text.find(stop, max(0, old - len(stop) + 1))) >= 0
        ]
        return min(found, key=lambda match: match.begin + len(match.text), default=None)

    def cut(self, end: int) -> None:
        self.text = self.text[:end]

    def take(self, *, final: bool) -> tuple[str, str]:
        """New reasoning and new content that have become certain."""
        certain = max(0, len(self.text) - (0 if final else self._held))
        marker_at = -1
        if self._content_at is None and self._ends_from is not None:
            marker_at = self.text.find(self._family.think_end, self._ends_from)
            if marker_at >= 0 and (final or certain >= marker_at + len(self._family.think_end)):
                reasoning = self._reasoning(marker_at)
                self._content_at = marker_at + len(self._family.think_end)
                return reasoning, self._content(certain)
        if self._content_at is not None:
            return "", self._content(certain)
        return self._reasoning(min(certain, marker_at) if marker_at >= 0 else certain), ""

    def _reasoning(self, end: int) -> str:
        fresh = self.text[self._reasoning_at : max(self._reasoning_at, end)]
        self._reasoning_at = max(self._reasoning_at, end)
        return fresh

    def _content(self, certain: int) -> str:
        if self._content_at is None:
            return ""
        fresh = self.text[self._content_at : max(self._content_at, certain)]
        if not self._in_content:
            if self._family.answer_prompt.startswith(fresh):
                return ""
            fresh = fresh.removeprefix(self._family.answer_prompt).lstrip()
            if not fresh:
                return ""
            self._in_content = True
        self._content_at = max(self._content_at, certain)
        return fresh
