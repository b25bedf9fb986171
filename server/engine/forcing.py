"""The budget rules over a whole batch: each choice's machine, run only where a token decides something.

Most thinking tokens decide nothing, and every choice's machine knows how many are coming. Meanwhile its row
*sleeps*: a step compares the row's length with where it has to wake, and looks its sampled token up among
those that wake it before. Both are one operation for all rows, so a step costs by what happens in it, not by
how many rows have a budget. Nothing here knows vLLM or torch.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import numpy as np
import numpy.typing as npt

from server.budget.machine import BudgetMachine, Mask, Phase
from server.budget.markers import MarkerIds
from server.budget.receipt import EngineReceipt
from server.engine.loop_watch import LoopWatch
from server.engine.rows import Choice, Plan, Rows
from server.engine.scripts import EndedBy
from server.engine.token_classes import END_ATTEMPT, MARKER, SENTENCE_END, TokenClasses

_WORTH_SLEEPING = 4
"""Falling asleep and waking cost about what so many tokens do."""
_NEVER = np.iinfo(np.int32).max
_NO_ROWS: Rows = np.empty(0, dtype=np.intp)


class ForcingBatch:
    """Budget state of a batch of at most `capacity` rows."""

    def __init__(self, ids: MarkerIds, *, capacity: int) -> None:
        self.ids = ids
        self.choices: dict[int, Choice] = {}
        self._classes = TokenClasses(ids)
        self._an_end = ids.end[0]
        self._loops = LoopWatch(capacity)
        self._awake: dict[int, Choice] = {}
        self._moved = False
        """Whether rows came, went or changed places since they were last listed."""
        self._rows = _NO_ROWS
        self._outputs: list[list[int]] = []
        # By row: the output lengths between which it sleeps or answers, the classes of tokens that are looked
        # for, and what becomes of them.
        self._slept_at = np.zeros(capacity, dtype=np.int32)
        self._wakes_after = np.full(capacity, _NEVER, dtype=np.int32)
        self._watched = np.zeros(capacity, dtype=np.uint8)
        self._replacements = np.zeros(capacity, dtype=np.int64)

    # -- rows come, move and go -----------------------------------------------------------------------

    def add(self, row: int, choice: Choice) -> None:
        """Put a new or resumed choice into `row`."""
        self.choices[row] = choice
        self._moved = True
        choice.ended_at = None
        if choice.machine.position > len(choice.output):
            self._replay(choice)
        self._slept_at[row], self._wakes_after[row] = 0, _NEVER
        self._loops.add(row, choice)

    def remove(self, row: int) -> Choice | None:
        """Take the choice out of `row`; None if the row had no budget."""
        choice = self.choices.get(row)
        if choice is None:
            return None
        self._catch_up(row, choice)
        del self.choices[row]
        self._moved = True
        self._watched[row] = 0
        return choice

    def move(self, source: int, target: int, *, swap: bool) -> None:
        moved, displaced = self.choices.pop(source, None), self.choices.pop(target, None)
        for table in (self._slept_at, self._wakes_after, self._watched, self._replacements):
            table[[target, source]] = table[[source, target]]
        self._loops.move(source, target)
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
        return self.choices[row].machine.thinking_end is None

    def tell(self, row: int, ended_by: EndedBy) -> None:
        choice = self.choices[row]
        self._catch_up(row, choice)
        if choice.told_by is None:
            choice.told_at, choice.told_by = choice.machine.position, ended_by
            choice.machine.end_thinking(ended_by.word)

    def receipt(self, choice: Choice) -> EngineReceipt:
        """The record of a choice that `remove` has just returned."""
        return choice.machine.receipt(choice.receipt_id)

    # -- one decoding step ----------------------------------------------------------------------------

    @property
    def idle(self) -> bool:
        return not self.choices

    def advance(self) -> None:
        """Commit the tokens that vLLM has appended to the outputs since the last step."""
        if self._moved:
            self._list_rows()
        if len(self._awake) < len(self._rows) or self._loops.guarded:
            self._wake_due()
        for row, choice in self._awake.items():
            output, machine = choice.output, choice.machine
            if len(output) - machine.position == 1 and machine.phase is not Phase.ANSWER:
                machine.commit(self._an_end if choice.ended_at == machine.position else output[-1])
            elif len(output) != machine.position:
                self._catch_up(row, choice)

    def plan(self) -> Plan:
        """What the coming step must force and mask. Call after `advance`, and before `replace`."""
        if self._moved:
            self._list_rows()
        forced: dict[int, int] = {}
        masked: dict[Mask, list[int]] = {}
        settled: list[int] = []
        for row, choice in self._awake.items():
            machine, token = choice.machine, choice.machine.forced
            choice.ended_at = None
            if token is not None:
                forced[row] = token
                self._watched[row] = 0
                continue
            self._aim(row, machine)
            if (mask := machine.mask) is not Mask.NONE:
                masked.setdefault(mask, []).append(row)
            elif machine.phase is Phase.ANSWER:
                self._slept_at[row] = machine.position
                settled.append(row)
            elif machine.calm_tokens >= _WORTH_SLEEPING:
                self._put_to_sleep(row, choice)
                settled.append(row)
        for row in settled:
            del self._awake[row]
        return Plan(
            _array(forced.keys()) if forced else _NO_ROWS,
            _array(forced.values()) if forced else _NO_ROWS,
            tuple((mask, _array(rows)) for mask, rows in masked.items()),
            self._rows,
        )

    def replace(self, sampled: npt.NDArray[Any]) -> bool:
        """Replace end attempts and stray markers by what has to stand there.

        Args:
            sampled: [rows] token ids from row 0 on, edited in place.

        Returns:
            Whether anything was edited.
        """
        hits = self._classes.of(sampled) & self._watched[: len(sampled)]
        if not np.count_nonzero(hits):
            return False
        rows = np.flatnonzero(hits)
        edited = False
        for row, hit in zip(rows.tolist(), hits[rows].tolist(), strict=True):
            choice = self.choices[row]
            if choice.asleep:
                self._wake(row, choice, len(choice.output))
            if hit & END_ATTEMPT:
                choice.ended_at = choice.machine.position
            if hit & (END_ATTEMPT | MARKER):
                sampled[row] = self._replacements[row]
                edited = True
        return edited

    # -- asleep and awake -----------------------------------------------------------------------------

    def _aim(self, row: int, machine: BudgetMachine) -> None:
        """Note what is looked for in the sampled token of a free row, and what becomes of it."""
        if machine.phase is Phase.THINKING:
            self._watched[row] = END_ATTEMPT
            self._replacements[row] = machine.replace(self._an_end)
        elif machine.phase is Phase.ANSWER and self.ids.family.marker_ends_answer:
            self._watched[row] = MARKER
            self._replacements[row] = self.ids.eos_token
        else:
            self._watched[row] = 0

    def _put_to_sleep(self, row: int, choice: Choice) -> None:
        machine = choice.machine
        calm = machine.calm_tokens
        if machine.may_land(calm):
            self._watched[row] |= SENTENCE_END
        choice.asleep = True
        self._slept_at[row], self._wakes_after[row] = machine.position, machine.position + calm

    def _wake_due(self) -> None:
        lengths = np.fromiter(map(len, self._outputs), dtype=np.int32, count=len(self._outputs))
        due = (lengths > self._wakes_after[self._rows]) | (lengths < self._slept_at[self._rows])
        if self._loops.guarded:
            due |= self._loops.look(self._rows, lengths, self._outputs)
        if np.count_nonzero(due):
            for row in self._rows[due].tolist():
                self._catch_up(row, self.choices[row])

    def _wake(self, row: int, choice: Choice, until: int) -> None:
        """Count the tokens before position `until`, which decided nothing."""
        machine = choice.machine
        choice.asleep = False
        self._awake[row] = choice
        self._slept_at[row], self._wakes_after[row] = 0, _NEVER
        if until > machine.position:
            machine.skip(choice.output[machine.position : until])

    def _list_rows(self) -> None:
        rows = sorted(self.choices)
        self._rows = np.array(rows, dtype=np.intp)
        self._outputs = [self.choices[row].output for row in rows]
        self._awake = {row: choice for row in rows if not (choice := self.choices[row]).asleep}
        self._loops.list_rows(self.choices, rows)
        self._moved = False

    # -- committing -----------------------------------------------------------------------------------

    def _catch_up(self, row: int, choice: Choice) -> None:
        """Commit however many tokens are new; start over if vLLM took tokens back."""
        machine, output = choice.machine, choice.output
        if choice.asleep:
            # The last one may decide something.
            calm = int(self._wakes_after[row])
            self._wake(row, choice, min(len(output) - 1, calm))
        if len(output) < machine.position:
            self._replay(choice)
            self._loops.add(row, choice)
            self._wake(row, choice, 0)
            return
        for position in range(machine.position, len(output)):
            if machine.phase is Phase.ANSWER:
                machine.position = len(output)
                return
            machine.commit(self._an_end if choice.ended_at == position else output[position])

    def _replay(self, choice: Choice) -> None:
        """Rebuild the machine from the tokens and the recorded events (a first arrival has none)."""
        waits = set(choice.machine.wait_positions)
        machine = choice.machine = choice.new_machine()
        choice.asleep = False
        told_by, told_at = choice.told_by, min(choice.told_at or 0, len(choice.output))
        for position, token in enumerate(choice.output):
            if told_by is not None and position == told_at:
                machine.end_thinking(told_by.word)
            machine.commit(self._an_end if position in waits else token)
        if told_by is not None:
            machine.end_thinking(told_by.word)


def _array(numbers: Iterable[int]) -> npt.NDArray[np.int64]:
    return np.fromiter(numbers, dtype=np.int64)
