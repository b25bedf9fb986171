"""Tokens that decide something when the model samples them, as bits in a table by token id."""

from __future__ import annotations

from typing import Any, Final

import numpy as np
import numpy.typing as npt

from server.budget.markers import MarkerIds

# Plain numbers: members of an enumeration would cost as much as everything else in a step.
END_ATTEMPT: Final = 1
MARKER: Final = 2
"""Opens or closes thinking."""
SENTENCE_END: Final = 4


class TokenClasses:
    """Look tokens up, many at once. Ids beyond the table, as of padding, are of no class."""

    def __init__(self, ids: MarkerIds) -> None:
        members = {
            END_ATTEMPT: ids.end_attempt,
            MARKER: frozenset({ids.start[0], ids.end[0]}),
            SENTENCE_END: ids.sentence_end,
        }
        # One place more than needed: whatever lies beyond is clipped to it.
        self._bits = np.zeros(max(max(tokens, default=0) for tokens in members.values()) + 2, dtype=np.uint8)
        for bit, tokens in members.items():
            self._bits[sorted(tokens)] |= bit

    def of(self, tokens: npt.NDArray[Any]) -> npt.NDArray[np.uint8]:
        """`tokens`: [n] ids, not negative; returns [n] sums of the classes above."""
        return self._bits.take(tokens, mode="clip")
