"""Why thinking ended, as the engine's processes tell one another."""

from __future__ import annotations

from enum import IntEnum


class EndedBy(IntEnum):
    """Why thinking ended, as a number that fits a row of state."""

    MAX_THINKING_TOKENS = 0
    MODEL = 1
    LOOP = 2
    REQUEST = 3
    TIME = 4

    @property
    def word(self) -> str:
        """As receipts spell it."""
        return self.name.lower()
