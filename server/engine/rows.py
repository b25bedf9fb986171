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


class Plan(NamedTuple):
    """What the next sampling step must do. Row arrays index the batch; empty arrays where nothing is due."""

    forced_rows: Rows
    forced_tokens: Tokens
    masked: tuple[tuple[Mask, Rows], ...]
    budgeted_rows: Rows
    """All rows with a budget: ids beyond the vocabulary can't be sampled in them."""
