"""A choice that stands in a batch row, and what one decoding step is told to do with the rows."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from server.budget.machine import BudgetMachine, Mask
from server.budget.markers import MarkerIds
from server.budget.spec import EffectiveBudget
from server.engine.scripts import EndedBy

Rows = npt.NDArray[np.intp]
Tokens = npt.NDArray[np.int64]


@dataclass(slots=True)
class Choice:
    """It outlives the row it stands in: vLLM preempts and resumes requests."""

    ids: MarkerIds
    receipt_id: str
    budget: EffectiveBudget
    opened: bool
    answer_prompt: bool
    output: list[int]
    """vLLM's own running list of output token ids."""
    machine: BudgetMachine = field(init=False)
    """Its state after those tokens that have been committed."""
    asleep: bool = False
    """Whether the tokens after those decide nothing."""
    ended_at: int | None = None
    """The position at which an end token was sampled; tentative until that position is committed."""
    told_at: int | None = None
    """Position at which somebody said that the thinking is to be left (rule 10)."""
    told_by: EndedBy | None = None

    def __post_init__(self) -> None:
        self.machine = self.new_machine()

    def new_machine(self) -> BudgetMachine:
        """Before the first token."""
        return BudgetMachine(self.ids, self.budget, opened=self.opened, answer_prompt=self.answer_prompt)


class Plan(NamedTuple):
    """What the next sampling step must do. Row arrays index the batch; empty arrays where nothing is due."""

    forced_rows: Rows
    forced_tokens: Tokens
    masked: tuple[tuple[Mask, Rows], ...]
    budgeted_rows: Rows
    """All rows with a budget: ids beyond the vocabulary can't be sampled in them."""
