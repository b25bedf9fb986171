"""Rule 9 over a batch: which rows' last thinking tokens are one sequence, several times over.

For each period p a row keeps its *run*: how many tokens in a row equal the token p places before. The last
`window` tokens have the period p exactly if that run is at least `window - p`, so a step costs one comparison
per period, and no look at the window. `server.budget.machine` compares the window itself and is the oracle.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from server.budget.spec import LOOP_REPEATS, MAX_LOOP_GUARD_TOKENS

PERIODS = MAX_LOOP_GUARD_TOKENS // LOOP_REPEATS
"""Longest period that is looked for."""
_NO_TOKEN = -1


class LoopGuards:
    """Runs of up to `capacity` rows. Memory is taken when the first guarded choice comes."""

    def __init__(self, capacity: int) -> None:
        self._capacity = capacity
        self._periods = np.arange(1, PERIODS + 1, dtype=np.int32)
        self._recent: npt.NDArray[np.int64] = np.empty((0, PERIODS), dtype=np.int64)
        """[rows, periods]: the token p places before the next one."""
        self._runs: npt.NDArray[np.int32] = np.empty((0, PERIODS), dtype=np.int32)

    def reset(self, row: int, thoughts: list[int]) -> None:
        """Take over a row whose thinking so far is `thoughts`."""
        if not len(self._recent):
            self._recent = np.full((self._capacity, PERIODS), _NO_TOKEN, dtype=np.int64)
            self._runs = np.zeros((self._capacity, PERIODS), dtype=np.int32)
        self._recent[row], self._runs[row] = _NO_TOKEN, 0
        tokens = np.array(thoughts[-(MAX_LOOP_GUARD_TOKENS + PERIODS) :], dtype=np.int64)
        last = tokens[: -PERIODS - 1 : -1]
        self._recent[row, : last.size] = last
        for period in range(1, min(PERIODS, tokens.size - 1) + 1):
            differs = np.flatnonzero(tokens[period:] != tokens[:-period])
            self._runs[row, period - 1] = tokens.size - period - (differs[-1] + 1 if differs.size else 0)

    def commit(
        self, rows: npt.NDArray[np.intp], tokens: npt.NDArray[np.int64], windows: npt.NDArray[np.int32]
    ) -> npt.NDArray[np.bool_]:
        """Append one thinking token to each row; returns, [rows], whether its last window is a loop."""
        recent = self._recent[rows]
        runs = np.where(recent == tokens[:, None], self._runs[rows] + 1, 0)
        self._runs[rows] = runs
        self._recent[rows, 1:] = recent[:, :-1]
        self._recent[rows, 0] = tokens
        windows = windows[:, None]
        looped = (runs >= windows - self._periods) & (self._periods <= windows // LOOP_REPEATS)
        return np.asarray(looped.any(axis=1), dtype=np.bool_)

    def move(self, source: int, target: int) -> None:
        if len(self._recent):
            for state in (self._recent, self._runs):
                state[[target, source]] = state[[source, target]]
