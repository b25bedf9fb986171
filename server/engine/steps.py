"""The budget rules over V1's batch, compiled for the host: rows of int32 state, stepped one after another.

The rules are those of `server.budget.machine`, their oracle, on the state of `server.engine.state`. A step
looks at every budgeted row, which takes it nanoseconds, allocates nothing and never runs Python per row.
Compiled with numba, which vLLM itself depends on, when the engine starts. Nothing here knows vLLM or torch.
"""

from __future__ import annotations

from typing import Any

import numba
import numpy as np
import numpy.typing as npt

from server.budget.machine import MAX_BLANK_ANSWER_TOKENS, Mask
from server.budget.spec import LOOP_REPEATS, MAX_WAIT_TEXTS, MAX_WAIT_TOKENS
from server.engine.ended_by import EndedBy
from server.engine.scripts import Script
from server.engine.state import WORD, Class, Column, Demand, Phase

Int32s = npt.NDArray[np.int32]
Int64s = npt.NDArray[np.int64]

# Compiled code takes plain numbers for constants, not members of an enumeration.
_MAX, _MIN, _NUM_WAITS = int(Column.MAX), int(Column.MIN), int(Column.NUM_WAITS)
_LANDING, _FREE_ANSWER = int(Column.LANDING), int(Column.FREE_ANSWER)
_LOOP_GUARD, _WAIT_TEXTS = int(Column.LOOP_GUARD), int(Column.WAIT_TEXTS)
_BEGIN, _MIN_OUTPUT, _PHASE = int(Column.BEGIN), int(Column.MIN_OUTPUT), int(Column.PHASE)
_SCRIPT, _SCRIPT_POS = int(Column.SCRIPT), int(Column.SCRIPT_POS)
_THINKING, _WAITS, _BLANKS = int(Column.THINKING), int(Column.WAITS), int(Column.BLANKS)
_JUST_WAITED, _SEEN, _END = int(Column.JUST_WAITED), int(Column.SEEN), int(Column.END)
_ANSWER_BEGIN, _ENDED_BY = int(Column.ANSWER_BEGIN), int(Column.ENDED_BY)
_ENDED_AT, _TOLD_AT, _TOLD_BY = int(Column.ENDED_AT), int(Column.TOLD_AT), int(Column.TOLD_BY)
_FORCED, _REPLACEMENT = int(Demand.FORCED), int(Demand.REPLACEMENT)
_ENDS_ANSWER = int(Demand.ENDS_ANSWER)
_C_END, _C_BLANK, _C_MARKER = int(Class.END), int(Class.BLANK), int(Class.MARKER)
_C_SENTENCE_END, _C_LINE_END = int(Class.SENTENCE_END), int(Class.LINE_END)
_P_THINKING, _P_ANSWER_START = int(Phase.THINKING), int(Phase.ANSWER_START)
_P_ANSWER = int(Phase.ANSWER)
_S_NONE, _S_WAIT, _S_END = int(Script.NONE), int(Script.WAIT), int(Script.END)
_S_EXIT, _S_EXIT_NEWLINE = int(Script.EXIT), int(Script.EXIT_NEWLINE)
_S_EXIT_PLAIN_NEWLINE = int(Script.EXIT_PLAIN_NEWLINE)
_BY_MAXIMUM, _BY_MODEL = int(EndedBy.MAX_THINKING_TOKENS), int(EndedBy.MODEL)
_BY_LOOP = int(EndedBy.LOOP)
_M_NONE, _M_ENDS, _M_MARKERS = int(Mask.NONE), int(Mask.ENDS), int(Mask.MARKERS)
_M_START, _M_START_VISIBLE = int(Mask.ANSWER_START), int(Mask.ANSWER_START_VISIBLE)
_M_CONSTRAINED = int(Mask.CONSTRAINED_START)

_compiled: Any = numba.njit(error_model="numpy")


@_compiled
def _waits_now(state: Int32s, slot: int) -> bool:
    return state[slot, _WAITS] < state[slot, _NUM_WAITS] or state[slot, _THINKING] < state[slot, _MIN]


@_compiled
def _script_length(state: Int32s, slot: int, wait_rows: Int32s, lengths: Int32s) -> int:
    if state[slot, _SCRIPT] == _S_WAIT:
        return wait_rows[slot, (max(state[slot, _WAITS], 1) - 1) % state[slot, _WAIT_TEXTS]]
    return lengths[state[slot, _SCRIPT]]


@_compiled
def _is_loop(recent: Int32s, runs: Int32s, slot: int, token: int, window: int) -> bool:
    """One more thinking token; whether the last `window` are a loop.

    `recent`: [slots, periods] the tokens 1, 2, … places before it.
    """
    found = False
    for i in range(runs.shape[1]):
        runs[slot, i] = runs[slot, i] + 1 if recent[slot, i] == token else 0
        if i + 1 <= window // LOOP_REPEATS and runs[slot, i] >= window - (i + 1):
            found = True
    for i in range(recent.shape[1] - 1, 0, -1):
        recent[slot, i] = recent[slot, i - 1]
    recent[slot, 0] = token
    return found


@_compiled
def _leave(state: Int32s, slot: int, newline: bool, ended_by: int) -> None:
    """Force the early exit."""
    if newline:
        state[slot, _SCRIPT] = _S_EXIT_NEWLINE if state[slot, _FREE_ANSWER] else _S_EXIT_PLAIN_NEWLINE
    else:
        state[slot, _SCRIPT] = _S_EXIT if state[slot, _FREE_ANSWER] else _S_END
    state[slot, _SCRIPT_POS] = 0
    state[slot, _JUST_WAITED] = 0
    state[slot, _ENDED_BY] = ended_by
    state[slot, _END] = state[slot, _SEEN] + 1 if newline else state[slot, _SEEN]


@_compiled
def _commit(
    state: Int32s,
    slot: int,
    bits: Int32s,
    wait_rows: Int32s,
    lengths: Int32s,
    recent: Int32s,
    runs: Int32s,
    token: int,
    token_class: int,
    ended: bool,
) -> None:
    """Take the token that stands at the next position. `ended`: it stands for an end that was sampled."""
    looped = False
    if state[slot, _LOOP_GUARD] > 0 and state[slot, _SEEN] >= state[slot, _BEGIN]:
        looped = _is_loop(recent, runs, slot, token, state[slot, _LOOP_GUARD])
    if state[slot, _SCRIPT] != _S_NONE:
        state[slot, _SCRIPT_POS] += 1
        if state[slot, _SCRIPT] == _S_WAIT:
            state[slot, _THINKING] += 1
    elif state[slot, _PHASE] == _P_THINKING:
        if not ended:
            state[slot, _THINKING] += 1
            state[slot, _JUST_WAITED] = 0
        elif _waits_now(state, slot):
            state[slot, _SCRIPT], state[slot, _SCRIPT_POS] = _S_WAIT, 1
            state[slot, _THINKING] += 1
            state[slot, _WAITS] += 1
            bits[slot, state[slot, _SEEN] // WORD] |= np.int32(1) << np.int32(state[slot, _SEEN] % WORD)
        else:
            state[slot, _SCRIPT], state[slot, _SCRIPT_POS] = _S_END, 1
            state[slot, _ENDED_BY], state[slot, _END] = _BY_MODEL, state[slot, _SEEN]
    elif state[slot, _PHASE] == _P_ANSWER_START:
        state[slot, _BLANKS] += 1
        if not token_class & _C_BLANK:
            state[slot, _PHASE] = _P_ANSWER
    state[slot, _SEEN] += 1
    if state[slot, _SCRIPT] != _S_NONE and state[slot, _SCRIPT_POS] >= _script_length(
        state, slot, wait_rows, lengths
    ):
        if state[slot, _SCRIPT] == _S_WAIT:
            state[slot, _JUST_WAITED] = 1
        elif state[slot, _SCRIPT] >= _S_END:
            state[slot, _PHASE], state[slot, _ANSWER_BEGIN] = _P_ANSWER_START, state[slot, _SEEN]
        state[slot, _SCRIPT], state[slot, _SCRIPT_POS] = _S_NONE, 0
    if state[slot, _PHASE] == _P_THINKING and (
        state[slot, _SCRIPT] == _S_NONE or state[slot, _SCRIPT] == _S_WAIT
    ):
        _check_exit(state, slot, token_class, looped)


@_compiled
def _check_exit(state: Int32s, slot: int, token_class: int, looped: bool) -> None:
    """Rules 1, 3, 6, 9 and 10, after a token of an open thinking."""
    newline = not token_class & _C_LINE_END
    if state[slot, _THINKING] >= max(0, state[slot, _MAX] - 1):
        _leave(state, slot, state[slot, _MAX] > 0, _BY_MAXIMUM)
    elif state[slot, _SCRIPT] == _S_NONE and not state[slot, _JUST_WAITED]:
        near = (
            state[slot, _LANDING] > 0 and state[slot, _THINKING] >= state[slot, _MAX] - state[slot, _LANDING]
        )
        if near and token_class & _C_SENTENCE_END:
            _leave(state, slot, newline, _BY_MAXIMUM)
        elif looped:
            _leave(state, slot, newline, _BY_LOOP)
        elif state[slot, _TOLD_AT] >= 0 and state[slot, _SEEN] >= state[slot, _TOLD_AT]:
            _leave(state, slot, newline, state[slot, _TOLD_BY])


@_compiled
def _class_of(classes: Int32s, token: int) -> int:
    """Ids beyond the table, as of padding, are of no class."""
    return classes[token] if 0 <= token < classes.size else 0


@_compiled
def commit_tokens(
    state: Int32s,
    slot: int,
    bits: Int32s,
    wait_rows: Int32s,
    lengths: Int32s,
    recent: Int32s,
    runs: Int32s,
    classes: Int32s,
    tokens: Int64s,
    waited: Int32s,
    ended_at: int,
) -> None:
    """Commit any number of tokens to one slot.

    Args:
        state, bits, wait_rows, recent, runs: [slots, …].
        lengths: [scripts].
        classes: [vocabulary].
        tokens: [n], those from the slot's next position on.
        waited: [words], where the tokens are committed once more: the positions at which wait texts begin.
        ended_at: the position at which an end was sampled and replaced; -1 for none.
    """
    for i in range(tokens.size):
        at = state[slot, _SEEN]
        ended = at == ended_at or (waited[at // WORD] >> np.int32(at % WORD)) & 1 != 0
        _commit(
            state, slot, bits, wait_rows, lengths, recent, runs, tokens[i],
            _class_of(classes, tokens[i]), ended,
        )  # fmt: skip


@_compiled
def advance(
    rows: Int64s,
    row_slots: Int64s,
    outputs: Int64s,
    state: Int32s,
    bits: Int32s,
    wait_rows: Int32s,
    lengths: Int32s,
    recent: Int32s,
    runs: Int32s,
    classes: Int32s,
    last: Int64s,
    odd: Int64s,
) -> int:
    """Commit what `replace` left in each row, if vLLM has appended it.

    Args:
        rows: [n] batch rows with a budget.
        row_slots: [batch rows] the slot of each.
        outputs: [n] how many output tokens each of `rows` has.
        state, bits, wait_rows, recent, runs: [slots, …].
        last: [slots] what `replace` left; -1 afterwards.
        odd: [n] filled with the rows that have more new tokens than that one, or fewer than before.

    Returns:
        How many rows are odd. They are as they were.
    """
    count = 0
    for i in range(rows.size):
        slot = row_slots[rows[i]]
        token = last[slot]
        new = outputs[i] - state[slot, _SEEN]
        last[slot] = -1
        if new == 1 and token >= 0:
            _commit(
                state, slot, bits, wait_rows, lengths, recent, runs, token,
                _class_of(classes, token), state[slot, _ENDED_AT] == state[slot, _SEEN],
            )  # fmt: skip
        elif new != 0:
            odd[count] = rows[i]
            count += 1
            continue
        state[slot, _ENDED_AT] = -1
    return count


@_compiled
def plan(
    rows: Int64s,
    row_slots: Int64s,
    state: Int32s,
    wait_rows: Int32s,
    scripts: Int32s,
    demands: Int32s,
    forced: Int64s,
    rows_by_mask: Int64s,
    counts: Int64s,
    end_token: int,
    marker_ends_answer: bool,
) -> int:
    """Decide what the next token of each row must be.

    Args:
        scripts: [scripts, width] their tokens.
        demands: [slots, demands] filled for `replace`.
        forced: [2, n] filled with the rows whose token is forced, and with those tokens.
        rows_by_mask: [masks, n] filled, by `machine.Mask`, with the rows of which tokens can't be sampled.
        counts: [masks] filled with how many rows of each mask there are; of NONE, with how many are forced.

    Returns:
        How many rows are forced or masked.
    """
    counts[:] = 0
    for i in range(rows.size):
        slot = row_slots[rows[i]]
        demands[slot, _FORCED] = demands[slot, _REPLACEMENT] = -1
        demands[slot, _ENDS_ANSWER] = 0
        script, mask = state[slot, _SCRIPT], _M_NONE
        if script != _S_NONE:
            if script == _S_WAIT:
                text = (max(state[slot, _WAITS], 1) - 1) % state[slot, _WAIT_TEXTS]
                demands[slot, _FORCED] = wait_rows[
                    slot, MAX_WAIT_TEXTS + text * MAX_WAIT_TOKENS + state[slot, _SCRIPT_POS]
                ]
            else:
                demands[slot, _FORCED] = scripts[script, state[slot, _SCRIPT_POS]]
            forced[0, counts[_M_NONE]], forced[1, counts[_M_NONE]] = rows[i], demands[slot, _FORCED]
            counts[_M_NONE] += 1
            continue
        if state[slot, _PHASE] == _P_THINKING:
            text = state[slot, _WAITS] % state[slot, _WAIT_TEXTS]
            next_wait = wait_rows[slot, MAX_WAIT_TEXTS + text * MAX_WAIT_TOKENS]
            demands[slot, _REPLACEMENT] = next_wait if _waits_now(state, slot) else end_token
            if state[slot, _JUST_WAITED]:
                mask = _M_ENDS
        elif state[slot, _PHASE] == _P_ANSWER_START:
            if not state[slot, _FREE_ANSWER]:
                mask = _M_CONSTRAINED
            else:
                mask = _M_START_VISIBLE if state[slot, _BLANKS] >= MAX_BLANK_ANSWER_TOKENS else _M_START
        elif marker_ends_answer:
            demands[slot, _ENDS_ANSWER] = 1
            if state[slot, _SEEN] < state[slot, _MIN_OUTPUT]:
                mask = _M_MARKERS
        if mask != _M_NONE:
            rows_by_mask[mask, counts[mask]] = rows[i]
            counts[mask] += 1
    return counts.sum()


@_compiled
def edit(
    values: npt.NDArray[np.float32],
    forced: Int64s,
    rows_by_mask: Int64s,
    counts: Int64s,
    rows: Int64s,
    tokens: Int64s,
    begins: Int64s,
    unknown: Int64s,
) -> None:
    """Carry a plan out on logits.

    Args:
        values: [batch rows, vocabulary], edited in place.
        forced, rows_by_mask, counts: of `plan`.
        rows: [n] batch rows with a budget.
        tokens, begins: the tokens of mask m are `tokens[begins[m]:begins[m + 1]]`.
        unknown: [runs, 2] begin and end of each run of ids that are not in the vocabulary.
    """
    for i in range(rows.size):
        for run in range(unknown.shape[0]):
            values[rows[i], unknown[run, 0] : unknown[run, 1]] = -np.inf
    for mask in range(_M_NONE + 1, counts.size):
        for i in range(counts[mask]):
            for at in range(begins[mask], begins[mask + 1]):
                values[rows_by_mask[mask, i], tokens[at]] = -np.inf
    for i in range(counts[_M_NONE]):
        values[forced[0, i]] = -np.inf
        values[forced[0, i], forced[1, i]] = 0.0


@_compiled
def replace(
    sampled: Int64s,
    rows: Int64s,
    row_slots: Int64s,
    state: Int32s,
    demands: Int32s,
    classes: Int32s,
    last: Int64s,
    eos_token: int,
) -> bool:
    """Put the demanded token in place of a sampled one, as `plan` has decided.

    Args:
        sampled: [batch rows] token ids, edited in place.

    Returns:
        Whether anything was edited.
    """
    edited = False
    for i in range(rows.size):
        row = rows[i]
        slot = row_slots[row]
        token = sampled[row]
        stands, token_class = token, _class_of(classes, token)
        if demands[slot, _FORCED] >= 0:
            stands = demands[slot, _FORCED]
        elif demands[slot, _REPLACEMENT] >= 0 and token_class & _C_END:
            stands = demands[slot, _REPLACEMENT]
            state[slot, _ENDED_AT] = state[slot, _SEEN]
        elif demands[slot, _ENDS_ANSWER] and token_class & _C_MARKER:
            stands = eos_token
        if stands != token:
            sampled[row] = stands
            edited = True
        last[slot] = stands
    return edited
