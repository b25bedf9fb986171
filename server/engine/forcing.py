"""The budget rules over a whole batch: numpy arrays with one element per batch row.

The same rules as `server.budget.machine`, which is their oracle; this module decides for all rows of a
decoding step at once, so that the cost of a step hardly depends on how many rows have a budget.
Nothing here knows vLLM or torch.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from server.budget.machine import MAX_BLANK_ANSWER_TOKENS
from server.budget.markers import MarkerIds
from server.budget.receipt import EngineReceipt
from server.budget.spec import MAX_WAIT_TEXTS, MAX_WAIT_TOKENS
from server.engine.loop_guard import LoopGuards
from server.engine.rows import ROW, UNSET, Choice, Mask, Phase, Plan, Rows, Tokens
from server.engine.scripts import EndedBy, Script, script_tokens, wait_rows, wait_texts


class ForcingBatch:
    """Budget state of a batch of at most `capacity` rows, vectorised over its budgeted rows."""

    def __init__(self, ids: MarkerIds, *, capacity: int) -> None:
        self.ids = ids
        self.state = np.zeros(capacity, dtype=ROW)
        self.choices: dict[int, Choice] = {}
        self._rows: Rows = np.empty(0, dtype=np.intp)
        self._budgeted: Rows = np.empty(0, dtype=np.intp)
        self._outputs: list[list[int]] = []
        self._stale = False
        scripts = script_tokens(ids)
        width = max(len(tokens) for tokens in scripts.values())
        self._script_tokens = np.zeros((len(scripts), width), dtype=np.int64)
        self._script_length = np.array([len(scripts[s]) for s in Script], dtype=np.int16)
        for script, tokens in scripts.items():
            self._script_tokens[script, : len(tokens)] = tokens
        self._wait_tokens = np.zeros((capacity, MAX_WAIT_TEXTS, MAX_WAIT_TOKENS), dtype=np.int64)
        self._wait_length = np.zeros((capacity, MAX_WAIT_TEXTS), dtype=np.int16)
        self._loops = LoopGuards(capacity)
        self._blank = np.array(sorted(ids.blank), dtype=np.int64)
        self._line_end = np.array(sorted(ids.line_end), dtype=np.int64)
        self._sentence_end = np.array(sorted(ids.sentence_end), dtype=np.int64)

    # -- rows come, move and go -----------------------------------------------------------------------

    def add(self, row: int, choice: Choice) -> None:
        """Put a new or resumed choice into `row`."""
        self.choices[row] = choice
        self._stale = True
        self._wait_length[row], self._wait_tokens[row] = wait_rows(wait_texts(self.ids, choice.budget))
        if choice.saved is not None and int(choice.saved["seen"]) <= len(choice.output):
            self.state[row] = choice.saved
            self.state["ended_at"][row] = UNSET
            if choice.budget.loop_guard:
                begin, seen = int(choice.saved["begin"]), int(choice.saved["seen"])
                self._loops.reset(row, choice.output[begin:seen])
        else:
            self._replay(row, choice)

    def remove(self, row: int) -> Choice | None:
        """Take the choice out of `row`, its state saved for a resumption; None if the row had no budget."""
        choice = self.choices.get(row)
        if choice is None:
            return None
        self._catch_up(row, choice)
        del self.choices[row]
        self._stale = True
        choice.saved = self.state[row].copy()
        return choice

    def move(self, source: int, target: int, *, swap: bool) -> None:
        moved, displaced = self.choices.pop(source, None), self.choices.pop(target, None)
        for state in (self.state, self._wait_tokens, self._wait_length):
            state[[target, source]] = state[[source, target]]
        self._loops.move(source, target)
        if moved is not None:
            self.choices[target] = moved
        if swap and displaced is not None:
            self.choices[source] = displaced
        self._stale = True

    def end_thinking(self, receipt_id: str, ended_by: EndedBy) -> bool | None:
        """Rule 10: leave the thinking of a choice after its next token.

        Returns:
            Whether it is still thinking; None if no row has this receipt id.
        """
        row = next((row for row, choice in self.choices.items() if choice.receipt_id == receipt_id), None)
        if row is None:
            return None
        self.tell(row, ended_by)
        return int(self.state["phase"][row]) == Phase.THINKING and int(self.state["end"][row]) == UNSET

    def tell(self, row: int, ended_by: EndedBy) -> None:
        choice = self.choices[row]
        self._catch_up(row, choice)
        if choice.told_at == UNSET:
            choice.told_at, choice.told_by = int(self.state["seen"][row]) + 1, ended_by
            self.state["told_at"][row], self.state["told_by"][row] = choice.told_at, choice.told_by

    def receipt(self, choice: Choice) -> EngineReceipt:
        """The record of a choice that `remove` has just returned."""
        row = choice.saved
        if row is None:
            raise ValueError("the choice is still in the batch")
        ended = int(row["end"]) != UNSET
        return EngineReceipt(
            receipt_id=choice.receipt_id,
            effective_min=choice.budget.min,
            effective_max=choice.budget.max,
            effective_num_waits=choice.budget.num_waits,
            clamped_by=choice.budget.clamped_by,
            output_tokens=int(row["seen"]),
            thinking_begin=int(row["begin"]),
            thinking_end=int(row["end"]) if ended else None,
            answer_begin=int(row["answer_begin"]) if int(row["answer_begin"]) != UNSET else None,
            wait_positions=tuple(choice.wait_positions),
            ended_by=EndedBy(int(row["ended_by"])).word if ended else None,
        )

    # -- one decoding step ----------------------------------------------------------------------------

    @property
    def idle(self) -> bool:
        return not self.choices

    def advance(self) -> None:
        """Commit the tokens that vLLM has appended to the outputs since the last step."""
        self._refresh()
        rows = self._rows
        if not rows.size:
            return
        lengths = np.fromiter(map(len, self._outputs), dtype=np.int32, count=rows.size)
        new = lengths - self.state["seen"][rows]
        if (one := new == 1).any():
            fresh = np.flatnonzero(one)
            tokens = np.fromiter((self._outputs[i][-1] for i in fresh), dtype=np.int64, count=fresh.size)
            self._commit(rows[fresh], tokens)
        for i in np.flatnonzero((new < 0) | (new > 1)):
            self._catch_up(int(rows[i]), self.choices[int(rows[i])])

    def plan(self) -> Plan:
        """What the coming step must force, mask and watch. Call after `advance`."""
        self._refresh()
        rows, state = self._rows, self.state
        state["ended_at"][rows] = UNSET
        script, phase = state["script"][rows], state["phase"][rows]
        free = script == Script.NONE
        forced = rows[~free]
        thinking = rows[free & (phase == Phase.THINKING)]
        wait_begins = self._wait_tokens[thinking, state["waits"][thinking] % state["wait_texts"][thinking], 0]
        return Plan(
            forced_rows=forced,
            forced_tokens=self._forced_tokens(forced),
            masked=self._masks(rows[free & (phase == Phase.ANSWER_START)], thinking),
            thinking_rows=thinking,
            thinking_replacements=np.where(self._waits_now(thinking), wait_begins, self.ids.end[0]),
            answer_rows=rows[phase == Phase.ANSWER],
            budgeted_rows=self._budgeted,
        )

    def sampled_ends(self, rows: Rows) -> None:
        """Note that these rows sampled an end token: tentative, until `advance` sees it committed."""
        self.state["ended_at"][rows] = self.state["seen"][rows]

    # -- the rules ------------------------------------------------------------------------------------

    def _waits_now(self, rows: Rows) -> npt.NDArray[np.bool_]:
        state = self.state
        unused: npt.NDArray[np.bool_] = state["waits"][rows] < state["num_waits"][rows]
        return unused | (state["thinking"][rows] < state["min"][rows])

    def _current_wait(self, rows: Rows) -> Rows:
        """Which of its wait texts each row is in, or was in last."""
        last, texts = self.state["waits"][rows] - 1, np.maximum(self.state["wait_texts"][rows], 1)
        current: Rows = (last % texts).astype(np.intp)
        return current

    def _forced_tokens(self, rows: Rows) -> Tokens:
        script, position = self.state["script"][rows], self.state["script_pos"][rows]
        tokens: Tokens = self._script_tokens[script, np.minimum(position, self._script_tokens.shape[1] - 1)]
        waiting = script == Script.WAIT
        if waiting.any():
            inside = rows[waiting]
            tokens[waiting] = self._wait_tokens[inside, self._current_wait(inside), position[waiting]]
        return tokens

    def _script_lengths(self, rows: Rows) -> npt.NDArray[np.int16]:
        script = self.state["script"][rows]
        waits = self._wait_length[rows, self._current_wait(rows)]
        lengths: npt.NDArray[np.int16] = np.where(script == Script.WAIT, waits, self._script_length[script])
        return lengths

    def _masks(self, answer_start: Rows, thinking: Rows) -> tuple[tuple[Mask, Rows], ...]:
        state = self.state
        too_blank = (state["blanks"][answer_start] >= MAX_BLANK_ANSWER_TOKENS) & state["free_answer"][
            answer_start
        ]
        candidates = (
            (Mask.ENDS, thinking[state["just_waited"][thinking]]),
            (Mask.ANSWER_START, answer_start[~too_blank]),
            (Mask.ANSWER_START_VISIBLE, answer_start[too_blank]),
        )
        return tuple((mask, masked) for mask, masked in candidates if masked.size)

    def _commit(self, rows: Rows, tokens: Tokens) -> None:
        """Advance every row of `rows` by its one new token."""
        state = self.state
        forced = state["script"][rows] != Script.NONE
        phase = state["phase"][rows]
        ended = state["ended_at"][rows] == state["seen"][rows]
        thinking = ~forced & (phase == Phase.THINKING)
        self._commit_forced(rows[forced])
        thought = rows[thinking & ~ended]
        state["thinking"][thought] += 1
        state["just_waited"][thought] = False
        self._commit_ends(rows[thinking & ended])
        starting = ~forced & (phase == Phase.ANSWER_START)
        if starting.any():
            state["blanks"][rows[starting]] += 1
            visible = starting & ~np.isin(tokens, self._blank)
            state["phase"][rows[visible]] = Phase.ANSWER
            self._stale = True
        state["seen"][rows] += 1
        self._finish_scripts(rows[forced | (thinking & ended)])
        self._check_limits(rows, tokens)

    def _commit_forced(self, rows: Rows) -> None:
        state = self.state
        counts = (state["phase"][rows] == Phase.THINKING) & (state["script"][rows] == Script.WAIT)
        state["thinking"][rows[counts]] += 1
        state["script_pos"][rows] += 1

    def _commit_ends(self, rows: Rows) -> None:
        """Rule 2: the end token was replaced by the first token of a wait or of the end marker."""
        if not rows.size:
            return
        state = self.state
        waits = self._waits_now(rows)
        waiting, ending = rows[waits], rows[~waits]
        state["script_pos"][rows] = 1
        state["script"][waiting] = Script.WAIT
        state["waits"][waiting] += 1
        state["thinking"][waiting] += 1
        for row in waiting.tolist():
            self.choices[row].wait_positions.append(int(state["seen"][row]))
        state["script"][ending] = Script.END
        state["ended_by"][ending] = EndedBy.MODEL
        state["end"][ending] = state["seen"][ending]

    def _finish_scripts(self, rows: Rows) -> None:
        """Leave the scripts that are at their end. `seen` already counts the last token."""
        state = self.state
        done = rows[state["script_pos"][rows] >= self._script_lengths(rows)]
        if not done.size:
            return
        script = state["script"][done]
        state["script"][done] = Script.NONE
        state["script_pos"][done] = 0
        waited, closed = done[script == Script.WAIT], done[script >= Script.END]
        state["just_waited"][waited] = True
        state["phase"][closed] = Phase.ANSWER_START
        state["answer_begin"][closed] = state["seen"][closed]

    def _check_limits(self, rows: Rows, tokens: Tokens) -> None:
        """Rules 1, 3, 6, 9 and 10 for the rows that are still thinking."""
        state = self.state
        looped = self._looped(rows, tokens)
        script = state["script"][rows]
        open_ = (state["phase"][rows] == Phase.THINKING) & ((script == Script.NONE) | (script == Script.WAIT))
        limit = np.maximum(state["max"][rows] - 1, 0)
        full = open_ & (state["thinking"][rows] >= limit)
        may_leave = open_ & ~full & (script == Script.NONE) & ~state["just_waited"][rows]
        self._force_exit(rows[full], newline=state["max"][rows[full]] > 0)
        near = may_leave & (state["landing"][rows] > 0)
        near &= state["thinking"][rows] >= state["max"][rows] - state["landing"][rows]
        if near.any():
            near &= np.isin(tokens, self._sentence_end)
            self._force_exit(rows[near], newline=~np.isin(tokens[near], self._line_end))
        looped &= may_leave & ~near
        if looped.any():
            newline = ~np.isin(tokens[looped], self._line_end)
            self._force_exit(rows[looped], newline=newline, ended_by=EndedBy.LOOP)
        told_at = state["told_at"][rows]
        told = may_leave & ~near & ~looped & (told_at != UNSET) & (state["seen"][rows] >= told_at)
        if told.any():
            by = state["told_by"][rows[told]]
            self._force_exit(rows[told], newline=~np.isin(tokens[told], self._line_end), ended_by=by)

    def _looped(self, rows: Rows, tokens: Tokens) -> npt.NDArray[np.bool_]:
        """Whether each row's last thinking tokens are a loop; `seen` already counts `tokens`."""
        state = self.state
        looped = np.zeros(rows.size, dtype=np.bool_)
        guarded = (state["loop_guard"][rows] > 0) & (state["phase"][rows] == Phase.THINKING)
        guarded &= state["seen"][rows] > state["begin"][rows]
        if guarded.any():
            inside = rows[guarded]
            looped[guarded] = self._loops.commit(inside, tokens[guarded], state["loop_guard"][inside])
        return looped

    def _force_exit(
        self,
        rows: Rows,
        *,
        newline: npt.NDArray[np.bool_],
        ended_by: EndedBy | npt.NDArray[np.int8] = EndedBy.MAX_THINKING_TOKENS,
    ) -> None:
        if not rows.size:
            return
        state = self.state
        free = state["free_answer"][rows]
        state["script"][rows] = np.where(
            newline,
            np.where(free, Script.EXIT_NEWLINE, Script.EXIT_PLAIN_NEWLINE),
            np.where(free, Script.EXIT, Script.END),
        )
        state["script_pos"][rows] = 0
        state["just_waited"][rows] = False
        state["thinking"][rows] += newline
        state["ended_by"][rows] = ended_by
        state["end"][rows] = state["seen"][rows] + newline

    # -- bookkeeping ----------------------------------------------------------------------------------

    def _refresh(self) -> None:
        """Rebuild the list of rows that still need a look at every step."""
        if not self._stale:
            return
        self._budgeted = np.array(sorted(self.choices), dtype=np.intp)
        watched = [row for row in self._budgeted.tolist() if self._watched(row)]
        self._rows = np.array(watched, dtype=np.intp)
        self._outputs = [self.choices[row].output for row in watched]
        self._stale = False

    def _watched(self, row: int) -> bool:
        return self.ids.family.marker_ends_answer or int(self.state["phase"][row]) != Phase.ANSWER

    def _replay(self, row: int, choice: Choice) -> None:
        """Rebuild a row from its tokens and the recorded events (a first arrival has none)."""
        ends = set(choice.wait_positions)
        if choice.saved is not None and choice.saved["ended_by"] == EndedBy.MODEL:
            ends.add(int(choice.saved["end"]))
        choice.wait_positions.clear()
        choice.told_at = min(choice.told_at, len(choice.output) + 1)
        self._reset(row, choice)
        for position, token in enumerate(choice.output):
            self.state["ended_at"][row] = position if position in ends else UNSET
            self._commit(np.array([row]), np.array([token]))

    def _reset(self, row: int, choice: Choice) -> None:
        budget = choice.budget
        self.state[row] = np.zeros((), dtype=ROW)
        for name, value in (
            ("phase", Phase.THINKING),
            ("script", Script.NONE if choice.opened else Script.OPEN),
            ("free_answer", choice.answer_prompt),
            ("max", budget.max),
            ("min", budget.min),
            ("num_waits", budget.num_waits),
            ("landing", budget.landing),
            ("loop_guard", budget.loop_guard),
            ("wait_texts", len(wait_texts(self.ids, budget))),
            ("begin", 0 if choice.opened else len(self.ids.start)),
            ("end", UNSET),
            ("answer_begin", UNSET),
            ("ended_at", UNSET),
            ("told_at", choice.told_at),
            ("told_by", choice.told_by),
        ):
            self.state[name][row] = value
        if budget.loop_guard:
            self._loops.reset(row, [])
        if choice.opened:
            self._check_limits(np.array([row]), np.array([UNSET]))

    def _catch_up(self, row: int, choice: Choice) -> None:
        """Commit however many tokens are new; start over if vLLM took tokens back."""
        seen = int(self.state["seen"][row])
        if len(choice.output) < seen:
            choice.saved = self.state[row].copy()
            self._replay(row, choice)
            return
        for position in range(seen, len(choice.output)):
            if not self._watched(row):
                self.state["seen"][row] = len(choice.output)
                return
            self._commit(np.array([row]), np.array([choice.output[position]]))
