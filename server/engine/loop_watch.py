"""Which guarded rows' last thinking tokens are a loop (rule 9), for all such rows in a few operations."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import numpy.typing as npt

from server.budget.machine import Phase
from server.engine.loop_guard import LoopGuards
from server.engine.rows import Choice, Rows


class LoopWatch:
    """Wakes a sleeping row whose window is full of one sequence; its machine then decides."""

    def __init__(self, capacity: int) -> None:
        self._guards = LoopGuards(capacity)
        self._seen = np.zeros(capacity, dtype=np.int32)
        """By row: how many output tokens the guards know."""
        self._windows = np.zeros(capacity, dtype=np.int32)
        """By row; 0: no guard."""
        self.guarded = False

    def add(self, row: int, choice: Choice) -> None:
        window = choice.budget.loop_guard
        self._windows[row] = window
        if window:
            self._reset(row, choice.output, choice.machine.thinking_begin)

    def move(self, source: int, target: int) -> None:
        for table in (self._seen, self._windows):
            table[[target, source]] = table[[source, target]]
        self._guards.move(source, target)

    def list_rows(self, choices: Mapping[int, Choice], rows: Sequence[int]) -> None:
        """Rows were taken: only those that think are looked at."""
        for row in rows:
            if self._windows[row] and choices[row].machine.phase not in (Phase.OPENING, Phase.THINKING):
                self._windows[row] = 0
        self.guarded = bool(np.count_nonzero(self._windows[np.array(rows, dtype=np.intp)]))

    def look(
        self, rows: Rows, lengths: npt.NDArray[np.int32], outputs: Sequence[list[int]]
    ) -> npt.NDArray[np.bool_]:
        """Take note of the rows' new tokens.

        Args:
            rows: [n] rows, in whose `outputs` there are `lengths` tokens.

        Returns:
            [n] whether a row's last window of thinking tokens is a loop.
        """
        windows = self._windows[rows]
        new = (lengths - self._seen[rows]) * (windows > 0)
        looped = np.zeros(len(rows), dtype=np.bool_)
        one = np.flatnonzero(new == 1)
        if one.size:
            tokens = np.fromiter((outputs[i][-1] for i in one), dtype=np.int64, count=one.size)
            looped[one] = self._guards.commit(rows[one], tokens, windows[one])
            self._seen[rows[one]] = lengths[one]
        for i in np.flatnonzero((new < 0) | (new > 1)):
            self._reset(int(rows[i]), outputs[i], 0)
            looped[i] = True
        return looped

    def _reset(self, row: int, output: Sequence[int], begin: int) -> None:
        self._guards.reset(row, list(output[begin:]))
        self._seen[row] = len(output)
