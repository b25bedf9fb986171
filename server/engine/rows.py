"""A choice that stands in a batch row, and what one decoding step is told to do with the rows."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from server.budget.machine import Mask
from server.budget.spec import EffectiveBudget

Rows = npt.NDArray[np.int64]
Tokens = npt.NDArray[np.int64]


class Parked(NamedTuple):
    """The state of a choice that stands in no row. Nobody changes it."""

    state: npt.NDArray[np.int32]
    """[columns], see `server.engine.state`."""
    wait_bits: npt.NDArray[np.int32]
    """[words]"""


@dataclass(slots=True)
class Choice:
    """It outlives the row it stands in: vLLM preempts and resumes requests."""

    receipt_id: str
    budget: EffectiveBudget
    opened: bool
    answer_prompt: bool
    output: list[int]
    """vLLM's own running list of output token ids."""
    parked: Parked | None = None
    """Its state when it last left a row."""


@dataclass(slots=True)
class Plan:
    """What the next sampling step must do. The arrays are filled anew for every step."""

    forced: Tokens
    """[2, rows]: batch rows, and the token of each."""
    rows_by_mask: Rows
    """[masks, rows]: by `machine.Mask`, the batch rows of which tokens can't be sampled."""
    counts: Tokens
    """[masks]: how many rows of each mask there are; of `Mask.NONE`, how many are forced."""
    budgeted_rows: Rows
    """All rows with a budget: ids beyond the vocabulary can't be sampled in them."""
    due: int = 0
    """How many rows are forced or masked."""

    @classmethod
    def of(cls, capacity: int) -> Plan:
        return cls(
            np.zeros((2, capacity), dtype=np.int64),
            np.zeros((len(Mask), capacity), dtype=np.int64),
            np.zeros(len(Mask), dtype=np.int64),
            np.empty(0, dtype=np.int64),
        )

    @property
    def forced_rows(self) -> Rows:
        return self.forced[0, : self.counts[Mask.NONE]]

    @property
    def forced_tokens(self) -> Tokens:
        return self.forced[1, : self.counts[Mask.NONE]]

    @property
    def masked(self) -> tuple[tuple[Mask, Rows], ...]:
        counts = self.counts.tolist()
        return tuple((mask, self.rows_by_mask[mask, : counts[mask]]) for mask in _MASKS if counts[mask])


_MASKS = tuple(mask for mask in Mask if mask is not Mask.NONE)
