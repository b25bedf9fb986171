"""The budget rules over a whole batch: which choice stands in which row, and its state while it does.

All that happens in every step is compiled (`server.engine.steps`), for all rows at once. What is rare is
Python: rows that come, move and go, and those of which vLLM has appended several tokens or taken some back.
Nothing here knows vLLM or torch.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from server.budget.markers import MarkerIds
from server.budget.receipt import EngineReceipt
from server.engine import steps
from server.engine.ended_by import EndedBy
from server.engine.rows import Choice, Parked, Plan, Rows
from server.engine.state import (
    PERIODS,
    WAIT_ROW,
    WORD,
    Column,
    Demand,
    class_table,
    first_state,
    positions,
    receipt_of,
    script_table,
    words,
)

_NO_ROWS: Rows = np.empty(0, dtype=np.int64)
_NO_SLOT = -1
_NO_TOKEN = -1


class ForcingBatch:
    """Budget state of a batch of at most `capacity` rows."""

    def __init__(self, ids: MarkerIds, *, capacity: int, max_model_len: int) -> None:
        self.ids = ids
        self.choices: dict[int, Choice] = {}
        """By row."""
        self._moved = False
        """Whether rows came, went or changed places since they were last listed."""
        self._rows = _NO_ROWS
        self._outputs: list[list[int]] = []
        self._row_slots = np.full(capacity, _NO_SLOT, dtype=np.int64)
        self._free_slots = list(range(capacity))
        # By slot.
        self._state = np.zeros((capacity, len(Column)), dtype=np.int32)
        self._bits = np.zeros((capacity, words(max_model_len)), dtype=np.int32)
        self._wait_rows = np.zeros((capacity, WAIT_ROW), dtype=np.int32)
        self._recent = np.zeros((capacity, PERIODS), dtype=np.int32)
        self._runs = np.zeros((capacity, PERIODS), dtype=np.int32)
        self._demands = np.zeros((capacity, len(Demand)), dtype=np.int32)
        self._last = np.full(capacity, _NO_TOKEN, dtype=np.int64)
        self._plan = Plan.of(capacity)
        self._odd = np.zeros(capacity, dtype=np.int64)
        self._scripts, self._lengths = script_table(ids)
        self._classes = class_table(ids)
        self._never_waited = np.zeros_like(self._bits[0])
        self._compile()

    # -- rows come, move and go -----------------------------------------------------------------------

    def add(self, row: int, choice: Choice) -> None:
        """Put a new or resumed choice into `row`."""
        slot = self._free_slots.pop()
        self.choices[row] = choice
        self._row_slots[row] = slot
        self._moved = True
        parked = choice.parked
        self._begin(slot, choice)
        if parked is None:
            return
        if parked.state[Column.SEEN] <= len(choice.output) and not choice.budget.loop_guard:
            self._state[slot] = parked.state
            self._bits[slot, : len(parked.wait_bits)] = parked.wait_bits
        else:
            # A loop guard's runs are not parked: they come back as the tokens are committed again.
            self._replay(slot, choice, parked)

    def remove(self, row: int) -> Choice | None:
        """Take the choice out of `row`; None if the row had no budget."""
        choice = self.choices.get(row)
        if choice is None:
            return None
        self._catch_up(row)
        choice.parked = self._park(int(self._row_slots[row]))
        del self.choices[row]
        self._free_slots.append(int(self._row_slots[row]))
        self._row_slots[row] = _NO_SLOT
        self._moved = True
        return choice

    def move(self, source: int, target: int, *, swap: bool) -> None:
        """`target`'s choice takes the other's place with `swap`; else it has been removed before."""
        moved, displaced = self.choices.pop(source, None), self.choices.pop(target, None)
        self._row_slots[[target, source]] = self._row_slots[[source, target]]
        if moved is not None:
            self.choices[target] = moved
        if swap and displaced is not None:
            self.choices[source] = displaced
        self._moved = True

    def end_thinking(self, receipt_id: str, ended_by: EndedBy) -> bool | None:
        """Rule 10: leave the thinking of a choice after its next token.

        Returns:
            Whether it is still thinking; None if no row has this receipt id.
        """
        row = next((row for row, choice in self.choices.items() if choice.receipt_id == receipt_id), None)
        if row is None:
            return None
        self.tell(row, ended_by)
        return bool(self._state[self._row_slots[row], Column.END] < 0)

    def tell(self, row: int, ended_by: EndedBy) -> None:
        """As `end_thinking`. The first word counts."""
        self._catch_up(row)
        state = self._state[self._row_slots[row]]
        if state[Column.TOLD_AT] < 0:
            state[Column.TOLD_AT], state[Column.TOLD_BY] = state[Column.SEEN] + 1, ended_by

    def receipt(self, choice: Choice) -> EngineReceipt:
        """The record of a choice that `remove` has just returned."""
        if choice.parked is None:
            raise ValueError("the choice has never left a row")
        waits = positions(choice.parked.wait_bits)
        return receipt_of(choice.parked.state.tolist(), waits, choice.receipt_id, choice.budget)

    # -- one decoding step ----------------------------------------------------------------------------

    @property
    def idle(self) -> bool:
        return not self.choices

    def advance(self) -> None:
        """Commit the tokens that vLLM has appended to the outputs since the last step."""
        if self._moved:
            self._list_rows()
        lengths = np.fromiter(map(len, self._outputs), dtype=np.int64, count=len(self._outputs))
        odd = self._advance(self._rows, lengths)
        if odd:
            for row in self._odd[:odd].tolist():
                self._catch_up(row)

    def plan(self) -> Plan:
        """What the coming step must force and mask; it holds until the next one.

        Call after `advance`, and before `replace`.
        """
        if self._moved:
            self._list_rows()
        self._decide(self._rows)
        return self._plan

    def replace(self, sampled: npt.NDArray[Any]) -> bool:
        """Replace end attempts and stray markers by what has to stand there.

        Args:
            sampled: [rows] token ids from row 0 on, edited in place.

        Returns:
            Whether anything was edited.
        """
        return self._replace(sampled, self._rows)

    def _advance(self, rows: Rows, lengths: npt.NDArray[np.int64]) -> int:
        return int(
            steps.advance(
                rows,
                self._row_slots,
                lengths,
                self._state,
                self._bits,
                self._wait_rows,
                self._lengths,
                self._recent,
                self._runs,
                self._classes,
                self._last,
                self._odd,
            )
        )

    def _decide(self, rows: Rows) -> None:
        plan = self._plan
        plan.budgeted_rows = rows
        plan.due = steps.plan(
            rows,
            self._row_slots,
            self._state,
            self._wait_rows,
            self._scripts,
            self._demands,
            plan.forced,
            plan.rows_by_mask,
            plan.counts,
            self.ids.end[0],
            self.ids.family.marker_ends_answer,
        )

    def _replace(self, sampled: npt.NDArray[Any], rows: Rows) -> bool:
        return bool(
            steps.replace(
                sampled,
                rows,
                self._row_slots,
                self._state,
                self._demands,
                self._classes,
                self._last,
                self.ids.eos_token,
            )
        )

    def _list_rows(self) -> None:
        rows = sorted(self.choices)
        self._rows = np.array(rows, dtype=np.int64)
        self._outputs = [self.choices[row].output for row in rows]
        self._moved = False

    def _compile(self) -> None:
        """Now, on no rows, rather than in front of the first request."""
        self._advance(_NO_ROWS, _NO_ROWS)
        self._decide(_NO_ROWS)
        for ids_type in (np.int64, np.int32):
            self._replace(np.empty(0, dtype=ids_type), _NO_ROWS)
        self._commit(0, _NO_ROWS, self._never_waited, ended_at=-1)

    # -- the state of one slot ------------------------------------------------------------------------

    def _begin(self, slot: int, choice: Choice) -> None:
        """The state before the first token."""
        first = first_state(self.ids, choice.budget, opened=choice.opened, answer_prompt=choice.answer_prompt)
        self._state[slot] = first[: len(Column)]
        self._wait_rows[slot] = first[len(Column) :]
        self._bits[slot] = 0
        self._recent[slot] = _NO_TOKEN
        self._runs[slot] = 0
        self._last[slot] = _NO_TOKEN

    def _park(self, slot: int) -> Parked:
        used = int(self._state[slot, Column.SEEN]) // WORD + 1
        return Parked(self._state[slot].copy(), self._bits[slot, :used].copy())

    def _catch_up(self, row: int) -> None:
        """Commit however many tokens are new; start over if vLLM took tokens back."""
        slot, choice = int(self._row_slots[row]), self.choices[row]
        state, output = self._state[slot], choice.output
        seen = int(state[Column.SEEN])
        if len(output) < seen:
            parked = self._park(slot)
            self._begin(slot, choice)
            self._replay(slot, choice, parked)
        elif len(output) > seen:
            tokens = np.array(output[seen:], dtype=np.int64)
            self._commit(slot, tokens, self._never_waited, ended_at=int(state[Column.ENDED_AT]))
        else:
            return
        state[Column.ENDED_AT] = -1
        self._last[slot] = _NO_TOKEN

    def _replay(self, slot: int, choice: Choice, parked: Parked) -> None:
        """Commit the output again, from the first token on, with the parked events as a guide."""
        before, state = parked.state, self._state[slot]
        if before[Column.TOLD_AT] >= 0:
            state[Column.TOLD_AT] = min(before[Column.TOLD_AT], len(choice.output) + 1)
            state[Column.TOLD_BY] = before[Column.TOLD_BY]
        waited = self._never_waited.copy()
        waited[: len(parked.wait_bits)] = parked.wait_bits
        by_model = before[Column.END] >= 0 and before[Column.ENDED_BY] == EndedBy.MODEL
        tokens = np.array(choice.output, dtype=np.int64)
        self._commit(slot, tokens, waited, ended_at=int(before[Column.END]) if by_model else -1)

    def _commit(
        self,
        slot: int,
        tokens: npt.NDArray[np.int64],
        waited: npt.NDArray[np.int32],
        *,
        ended_at: int,
    ) -> None:
        steps.commit_tokens(
            self._state,
            slot,
            self._bits,
            self._wait_rows,
            self._lengths,
            self._recent,
            self._runs,
            self._classes,
            tokens,
            waited,
            ended_at,
        )
