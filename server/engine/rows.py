"""What a batch row of budget state holds, and what one decoding step is told to do with the rows."""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import IntEnum

import numpy as np
import numpy.typing as npt

from server.budget.spec import EffectiveBudget

Rows = npt.NDArray[np.intp]
Tokens = npt.NDArray[np.int64]


class Phase(IntEnum):
    THINKING = 1
    ANSWER_START = 2
    ANSWER = 3


class Mask(IntEnum):
    NONE = 0
    ENDS = 1
    ANSWER_START = 2
    ANSWER_START_VISIBLE = 3


ROW = np.dtype(
    [
        ("phase", np.int8),
        ("script", np.int8),
        ("script_pos", np.int16),
        ("thinking", np.int32),
        ("seen", np.int32),
        ("waits", np.int32),
        ("blanks", np.int16),
        ("just_waited", np.bool_),
        ("free_answer", np.bool_),
        ("max", np.int32),
        ("min", np.int32),
        ("num_waits", np.int32),
        ("landing", np.int32),
        ("loop_guard", np.int32),
        ("wait_texts", np.int8),
        ("begin", np.int32),
        ("end", np.int32),
        ("answer_begin", np.int32),
        ("ended_by", np.int8),
        # Rule 10: from so many committed tokens on, leave; and on whose word.
        ("told_at", np.int32),
        ("told_by", np.int8),
        # The tentative part: a sampled end token, not yet known to be committed.
        ("ended_at", np.int32),
    ]
)
UNSET = -1


@dataclass(slots=True)
class Choice:
    """One choice's identity and rare events; it outlives the row it stands in."""

    receipt_id: str
    budget: EffectiveBudget
    opened: bool
    answer_prompt: bool
    output: list[int]
    """vLLM's own running list of output token ids."""
    wait_positions: list[int] = field(default_factory=list)
    told_at: int = UNSET
    """From so many output tokens on, the thinking is to be left (rule 10)."""
    told_by: int = 0
    """A `scripts.EndedBy`."""
    saved: np.void | None = None
    """The row's state while it is out of the batch (preempted)."""


@dataclass(frozen=True, slots=True)
class Plan:
    """What the next sampling step must do. Row arrays index the batch; empty arrays where nothing is due."""

    forced_rows: Rows
    forced_tokens: Tokens
    masked: tuple[tuple[Mask, Rows], ...]
    thinking_rows: Rows
    """Rows whose sampled end token is to be replaced by `thinking_replacements`."""
    thinking_replacements: Tokens
    answer_rows: Rows
    """Rows in which a sampled marker is to be replaced by the end-of-sequence token."""
    budgeted_rows: Rows
    """All rows with a budget: ids beyond the vocabulary can't be sampled in them."""
