"""Whether an engine that works still makes tokens: /health can stay 200 after a GPU has failed."""

from __future__ import annotations

import re
from collections.abc import Callable, Hashable

_TOKENS_MADE = re.compile(
    rb"^vllm:(?:generation|prompt)_tokens_total(?:\{[^}]*\})? ([0-9.e+]+)$", re.MULTILINE
)


class ProgressWatch:
    """Fed at every look; says when nothing has changed for too long while there was work."""

    def __init__(self, stall_timeout_s: float, clock: Callable[[], float]) -> None:
        self._stall_timeout_s = stall_timeout_s
        self._clock = clock
        self._marker: Hashable = None
        self._since: float | None = None

    def stalled(self, *, generations: int, marker: Hashable) -> bool:
        """
        Args:
            generations: under way now.
            marker: changes whenever the engine has made a token.
        """
        now = self._clock()
        if not generations or marker != self._marker or self._since is None:
            self._marker, self._since = marker, now if generations else None
            return False
        return now - self._since >= self._stall_timeout_s


def tokens_made(metrics: bytes) -> float | None:
    """Prompt and generated tokens so far, by vLLM's own metrics; None if they aren't vLLM's."""
    found = _TOKENS_MADE.findall(metrics)
    return sum(map(float, found)) if found else None
