"""The budget rules as Triton kernels: one row of int32 state per request slot, never read by the host.

The same rules as `server.budget.machine`, which is their oracle, in another form: scripts of forced tokens,
and a step of conditional moves instead of branches. `triton` is imported directly, so that
`TRITON_INTERPRET=1` runs these kernels on a CPU, where vLLM substitutes its own `triton`.

Four kernels, in the order of a decoding step: `advance` commits what the last step appended, `plan_rows`
decides for each row of logits, `edit_logits` forces and masks, `post` edits the sampled ids. The ones that
step through scalars run as one warp: a scalar store is one thread's, and others must not read before it.
"""

from __future__ import annotations

import triton
import triton.language as tl

from server.budget.machine import MAX_BLANK_ANSWER_TOKENS
from server.budget.spec import LOOP_REPEATS, MAX_WAIT_TEXTS, MAX_WAIT_TOKENS
from server.engine.ended_by import EndedBy
from server.engine.scripts import Script
from server.engine.state import PERIODS, WAIT_ROW, WORD, Class, Column, Demand, Phase

_MAX: tl.constexpr = tl.constexpr(int(Column.MAX))
_MIN: tl.constexpr = tl.constexpr(int(Column.MIN))
_NUM_WAITS: tl.constexpr = tl.constexpr(int(Column.NUM_WAITS))
_LANDING: tl.constexpr = tl.constexpr(int(Column.LANDING))
_FREE_ANSWER: tl.constexpr = tl.constexpr(int(Column.FREE_ANSWER))
_PROMPT: tl.constexpr = tl.constexpr(int(Column.PROMPT))
_LOOP_GUARD: tl.constexpr = tl.constexpr(int(Column.LOOP_GUARD))
_WAIT_TEXTS: tl.constexpr = tl.constexpr(int(Column.WAIT_TEXTS))
_BEGIN: tl.constexpr = tl.constexpr(int(Column.BEGIN))
_MIN_OUTPUT: tl.constexpr = tl.constexpr(int(Column.MIN_OUTPUT))
_PHASE: tl.constexpr = tl.constexpr(int(Column.PHASE))
_SCRIPT: tl.constexpr = tl.constexpr(int(Column.SCRIPT))
_SCRIPT_POS: tl.constexpr = tl.constexpr(int(Column.SCRIPT_POS))
_THINKING: tl.constexpr = tl.constexpr(int(Column.THINKING))
_WAITS: tl.constexpr = tl.constexpr(int(Column.WAITS))
_BLANKS: tl.constexpr = tl.constexpr(int(Column.BLANKS))
_JUST_WAITED: tl.constexpr = tl.constexpr(int(Column.JUST_WAITED))
_SEEN: tl.constexpr = tl.constexpr(int(Column.SEEN))
_END: tl.constexpr = tl.constexpr(int(Column.END))
_ANSWER_BEGIN: tl.constexpr = tl.constexpr(int(Column.ANSWER_BEGIN))
_ENDED_BY: tl.constexpr = tl.constexpr(int(Column.ENDED_BY))
_ENDED_AT: tl.constexpr = tl.constexpr(int(Column.ENDED_AT))
_TOLD_AT: tl.constexpr = tl.constexpr(int(Column.TOLD_AT))
_TOLD_BY: tl.constexpr = tl.constexpr(int(Column.TOLD_BY))
_COLUMNS: tl.constexpr = tl.constexpr(len(Column))

_PLAN_COLUMNS: tl.constexpr = tl.constexpr(len(Demand))
_PLAN_FORCED: tl.constexpr = tl.constexpr(int(Demand.FORCED))
_PLAN_MASK: tl.constexpr = tl.constexpr(int(Demand.MASK))
_PLAN_REPLACEMENT: tl.constexpr = tl.constexpr(int(Demand.REPLACEMENT))
_PLAN_ENDS_ANSWER: tl.constexpr = tl.constexpr(int(Demand.ENDS_ANSWER))

_C_END: tl.constexpr = tl.constexpr(int(Class.END))
_C_NOT_FIRST: tl.constexpr = tl.constexpr(int(Class.NOT_FIRST_IN_ANSWER))
_C_BLANK: tl.constexpr = tl.constexpr(int(Class.BLANK))
_C_SENTENCE_END: tl.constexpr = tl.constexpr(int(Class.SENTENCE_END))
_C_LINE_END: tl.constexpr = tl.constexpr(int(Class.LINE_END))
_C_MARKER: tl.constexpr = tl.constexpr(int(Class.MARKER))
_C_UNKNOWN: tl.constexpr = tl.constexpr(int(Class.UNKNOWN))

_P_THINKING: tl.constexpr = tl.constexpr(int(Phase.THINKING))
_P_ANSWER_START: tl.constexpr = tl.constexpr(int(Phase.ANSWER_START))
_P_ANSWER: tl.constexpr = tl.constexpr(int(Phase.ANSWER))

_S_NONE: tl.constexpr = tl.constexpr(int(Script.NONE))
_S_WAIT: tl.constexpr = tl.constexpr(int(Script.WAIT))
_S_END: tl.constexpr = tl.constexpr(int(Script.END))
_S_EXIT: tl.constexpr = tl.constexpr(int(Script.EXIT))
_S_EXIT_NEWLINE: tl.constexpr = tl.constexpr(int(Script.EXIT_NEWLINE))
_S_EXIT_PLAIN_NEWLINE: tl.constexpr = tl.constexpr(int(Script.EXIT_PLAIN_NEWLINE))

_MAX_BLANKS: tl.constexpr = tl.constexpr(MAX_BLANK_ANSWER_TOKENS)
_WORD: tl.constexpr = tl.constexpr(WORD)

_BY_MAXIMUM: tl.constexpr = tl.constexpr(int(EndedBy.MAX_THINKING_TOKENS))
_BY_MODEL: tl.constexpr = tl.constexpr(int(EndedBy.MODEL))
_BY_LOOP: tl.constexpr = tl.constexpr(int(EndedBy.LOOP))
_TEXTS: tl.constexpr = tl.constexpr(MAX_WAIT_TEXTS)
_TEXT_TOKENS: tl.constexpr = tl.constexpr(MAX_WAIT_TOKENS)
_WAIT_ROW: tl.constexpr = tl.constexpr(WAIT_ROW)
_PERIODS: tl.constexpr = tl.constexpr(PERIODS)
_REPEATS: tl.constexpr = tl.constexpr(LOOP_REPEATS)


@triton.jit
def _waits_now(waits, thinking, num_waits, minimum):
    return (waits < num_waits) | (thinking < minimum)


@triton.jit
def _run_on(runs, before, token, window):
    """One more thinking token. `before`: the tokens 1, 2, … places before it, -1 where there is none.

    Returns the runs (see `server.engine.state.PERIODS`), and whether the last window is a loop.
    """
    periods = tl.arange(0, _PERIODS) + 1
    runs = tl.where(before == token, runs + 1, 0)
    found = (runs >= window - periods) & (periods <= window // _REPEATS)
    # What `tl.max` is made of: `tl.max` itself is compiled before the interpreter is on, and a combiner of
    # our own would be interpreted element by element.
    return runs, tl.reduce(found.to(tl.int32), 0, tl.standard._elementwise_max)


@triton.jit
def _step(
    token_class, ended, looped,
    phase, script, script_pos, thinking, waits, blanks, just_waited, seen, end, answer_begin,
    ended_by,
    maximum, minimum, num_waits, landing, free_answer, wait_count, wait_row, script_lengths,
    told_at, told_by,
):  # fmt: skip
    """Commit one token. `ended`: an end token was sampled here; the token that stands replaced it.

    `looped`: with this token the last window is a loop. Returns the eleven variable columns, and whether a
    wait text began here.
    """
    forced = script != _S_NONE
    thinks = (script == _S_NONE) & (phase == _P_THINKING)
    starts = (script == _S_NONE) & (phase == _P_ANSWER_START)
    thought = thinks & (ended == 0)
    attempt = thinks & (ended != 0)
    again = _waits_now(waits, thinking, num_waits, minimum)
    waiting = attempt & again
    ending = attempt & (again == 0)
    in_wait = (script == _S_WAIT) & (phase == _P_THINKING)

    thinking = tl.where(thought | waiting | in_wait, thinking + 1, thinking)
    just_waited = tl.where(thought, 0, just_waited)
    script_pos = tl.where(forced, script_pos + 1, tl.where(attempt, 1, script_pos))
    script = tl.where(waiting, _S_WAIT, tl.where(ending, _S_END, script))
    waits = tl.where(waiting, waits + 1, waits)
    ended_by = tl.where(ending, _BY_MODEL, ended_by)
    end = tl.where(ending, seen, end)
    blanks = tl.where(starts, blanks + 1, blanks)
    phase = tl.where(starts & ((token_class & _C_BLANK) == 0), _P_ANSWER, phase)
    seen = seen + 1

    # Leave a script that is at its end.
    wait_length = tl.load(wait_row + (tl.where(waits > 0, waits, 1) - 1) % wait_count)
    length = tl.where(script == _S_WAIT, wait_length, tl.load(script_lengths + script))
    done = (forced | attempt) & (script_pos >= length)
    closed = done & (script >= _S_END)
    just_waited = tl.where(done & (script == _S_WAIT), 1, just_waited)
    phase = tl.where(closed, _P_ANSWER_START, phase)
    answer_begin = tl.where(closed, seen, answer_begin)
    script = tl.where(done, _S_NONE, script)
    script_pos = tl.where(done, 0, script_pos)

    # Rules 1, 3, 6, 9 and 10.
    open_ = (phase == _P_THINKING) & ((script == _S_NONE) | (script == _S_WAIT))
    full = open_ & (thinking >= tl.where(maximum > 0, maximum - 1, 0))
    may_leave = open_ & (full == 0) & (script == _S_NONE) & (just_waited == 0)
    near = may_leave & (landing > 0) & (thinking >= maximum - landing)
    near = near & ((token_class & _C_SENTENCE_END) != 0)
    loops = may_leave & (near == 0) & (looped != 0)
    told = may_leave & (near == 0) & (loops == 0) & (told_at >= 0) & (seen >= told_at)
    leaves = full | near | loops | told
    bare = (token_class & _C_LINE_END) == 0
    newline = (full & (maximum > 0)) | ((near | loops | told) & bare)
    with_newline = tl.where(free_answer != 0, _S_EXIT_NEWLINE, _S_EXIT_PLAIN_NEWLINE)
    exit_script = tl.where(newline, with_newline, tl.where(free_answer != 0, _S_EXIT, _S_END))
    script = tl.where(leaves, exit_script, script)
    script_pos = tl.where(leaves, 0, script_pos)
    just_waited = tl.where(leaves, 0, just_waited)
    thinking = tl.where(newline, thinking + 1, thinking)
    by_rule = tl.where(loops, _BY_LOOP, tl.where(told, told_by, _BY_MAXIMUM))
    ended_by = tl.where(leaves, by_rule, ended_by)
    end = tl.where(leaves, tl.where(newline, seen + 1, seen), end)
    return (
        phase, script, script_pos, thinking, waits, blanks, just_waited, seen, end, answer_begin,
        ended_by,
        waiting,
    )  # fmt: skip


@triton.jit
def _token_class(classes_ptr, token, vocab_size):
    known = (token >= 0) & (token < vocab_size)
    return tl.load(classes_ptr + tl.where(known, token, 0), mask=known, other=0)


# Speculative verification hands out slices at any offset: one compiled variant has to serve them all.
@triton.jit(
    do_not_specialize=["tokens_stride", "words", "vocab_size"],
    do_not_specialize_on_alignment=["slots_ptr"],
)
def advance(
    slots_ptr,  # [requests], int64
    state_ptr,  # [slots, columns], int32
    bits_ptr,  # [slots, words], int32: the wait positions
    runs_ptr,  # [slots, periods], int32: the loop guards' runs
    wait_rows_ptr,  # [slots, WAIT_ROW], int32
    tokens_ptr,  # [slots, max_model_len], int32: prompt and committed output
    tokens_stride,
    total_ptr,  # [slots], int32: committed tokens, the prompt among them
    lengths_ptr,  # [scripts], int32
    classes_ptr,  # [vocabulary], int32
    parked_ptr,  # [requests, columns]: REPLAY: the states of the same requests before their preemption
    parked_bits_ptr,  # [requests, words]
    words,
    vocab_size,
    REPLAY: tl.constexpr,
    BLOCK: tl.constexpr,
):
    """Commit the tokens that vLLM has appended since the last call; one program per request.

    With REPLAY a resumed request takes over its parked state. If vLLM has meanwhile dropped tokens that this
    state has seen, its tokens are committed again from the first, with the parked events as a guide.
    """
    request = tl.program_id(0)
    slot = tl.load(slots_ptr + request).to(tl.int64)
    if slot < 0:
        return
    s = state_ptr + slot * _COLUMNS
    maximum = tl.load(s + _MAX)
    if maximum < 0:
        return
    bits = bits_ptr + slot * words
    prompt = tl.load(s + _PROMPT)
    output_tokens = tl.load(total_ptr + slot) - prompt

    minimum = tl.load(s + _MIN)
    num_waits = tl.load(s + _NUM_WAITS)
    landing = tl.load(s + _LANDING)
    free_answer = tl.load(s + _FREE_ANSWER)
    window = tl.load(s + _LOOP_GUARD)
    wait_count = tl.load(s + _WAIT_TEXTS)
    wait_row = wait_rows_ptr + slot * _WAIT_ROW
    begin = tl.load(s + _BEGIN)
    periods = tl.arange(0, _PERIODS) + 1
    runs_at = runs_ptr + slot * _PERIODS + tl.arange(0, _PERIODS)
    runs = tl.load(runs_at)
    output = tokens_ptr + slot * tokens_stride + prompt
    ended_at = tl.load(s + _ENDED_AT)
    told_at = tl.load(s + _TOLD_AT)
    told_by = tl.load(s + _TOLD_BY)
    source = s
    if REPLAY:
        parked = parked_ptr + request * _COLUMNS
        parked_bits = parked_bits_ptr + request * words
        ended_at = tl.where(tl.load(parked + _ENDED_BY) == _BY_MODEL, tl.load(parked + _END), -1)
        told_at = tl.load(parked + _TOLD_AT)
        told_at = tl.where(told_at > output_tokens + 1, output_tokens + 1, told_at)
        told_by = tl.load(parked + _TOLD_BY)
        # A loop guard's runs are not parked: they come back as the tokens are committed again.
        if (tl.load(parked + _SEEN) <= output_tokens) & (window == 0):
            source = parked
        for first in range(0, words, BLOCK):
            word = first + tl.arange(0, BLOCK)
            left = output_tokens - word * _WORD
            kept = tl.where(left >= _WORD, -1, (1 << tl.where((left > 0) & (left < _WORD), left, 0)) - 1)
            inside = word < words
            tl.store(bits + word, tl.load(parked_bits + word, mask=inside, other=0) & kept, mask=inside)
    phase = tl.load(source + _PHASE)
    script = tl.load(source + _SCRIPT)
    script_pos = tl.load(source + _SCRIPT_POS)
    thinking = tl.load(source + _THINKING)
    waits = tl.load(source + _WAITS)
    blanks = tl.load(source + _BLANKS)
    just_waited = tl.load(source + _JUST_WAITED)
    seen = tl.load(source + _SEEN)
    end = tl.load(source + _END)
    answer_begin = tl.load(source + _ANSWER_BEGIN)
    ended_by = tl.load(source + _ENDED_BY)
    for position in range(seen, output_tokens):
        token = tl.load(output + position)
        ended = (ended_at == position).to(tl.int32)
        looped = 0
        if window > 0:
            inside = position - periods >= begin
            before = tl.load(output + position - periods, mask=inside, other=-1)
            runs, looped = _run_on(runs, before, token, window)
        if REPLAY:
            waited = (tl.load(parked_bits + (position >> 5)) >> (position & 31)) & 1
            ended = ended | waited
        (
            phase, script, script_pos, thinking, waits, blanks, just_waited, seen, end, answer_begin,
            ended_by,
            waiting,
        ) = _step(
            _token_class(classes_ptr, token, vocab_size), ended, looped,
            phase, script, script_pos, thinking, waits, blanks, just_waited, seen, end, answer_begin,
            ended_by,
            maximum, minimum, num_waits, landing, free_answer, wait_count, wait_row, lengths_ptr,
            told_at, told_by,
        )  # fmt: skip
        if REPLAY == 0:
            tl.atomic_or(bits + (position >> 5), (waiting.to(tl.int32) << (position & 31)), mask=waiting)
    tl.store(s + _PHASE, phase)
    tl.store(s + _SCRIPT, script)
    tl.store(s + _SCRIPT_POS, script_pos)
    tl.store(s + _THINKING, thinking)
    tl.store(s + _WAITS, waits)
    tl.store(s + _BLANKS, blanks)
    tl.store(s + _JUST_WAITED, just_waited)
    tl.store(s + _SEEN, seen)
    tl.store(s + _END, end)
    tl.store(s + _ANSWER_BEGIN, answer_begin)
    tl.store(s + _ENDED_BY, ended_by)
    tl.store(s + _ENDED_AT, -1)
    if REPLAY:
        tl.store(s + _TOLD_AT, told_at)
        tl.store(s + _TOLD_BY, told_by)
    if window > 0:
        tl.store(runs_at, runs)


@triton.jit(
    do_not_specialize=["tokens_stride", "scripts_stride", "vocab_size", "end_token"],
    do_not_specialize_on_alignment=["row_slots_ptr", "row_places_ptr", "input_ids_ptr"],
)
def plan_rows(
    plan_ptr,  # [rows, plan columns], int32
    row_slots_ptr,  # [rows], int64: the slot of each row
    row_places_ptr,  # [rows], int32: its place among the rows of its request
    input_ids_ptr,  # [rows]: the token at each row's input; a draft token where the place is > 0
    state_ptr,
    runs_ptr,
    wait_rows_ptr,
    tokens_ptr,
    tokens_stride,
    scripts_ptr,  # [scripts, width], int32
    scripts_stride,
    lengths_ptr,
    classes_ptr,
    vocab_size,
    end_token,
    MARKER_ENDS_ANSWER: tl.constexpr,
):
    """Decide for one row of logits, as if the drafts before it had been accepted."""
    row = tl.program_id(0)
    slot = tl.load(row_slots_ptr + row).to(tl.int64)
    place = tl.load(row_places_ptr + row)
    plan = plan_ptr + row * _PLAN_COLUMNS
    tl.store(plan + _PLAN_FORCED, -1)
    tl.store(plan + _PLAN_MASK, 0)
    tl.store(plan + _PLAN_REPLACEMENT, -1)
    tl.store(plan + _PLAN_ENDS_ANSWER, 0)
    if slot < 0:
        return
    s = state_ptr + slot * _COLUMNS
    maximum = tl.load(s + _MAX)
    if maximum < 0:
        return
    minimum = tl.load(s + _MIN)
    num_waits = tl.load(s + _NUM_WAITS)
    landing = tl.load(s + _LANDING)
    free_answer = tl.load(s + _FREE_ANSWER)
    window = tl.load(s + _LOOP_GUARD)
    wait_count = tl.load(s + _WAIT_TEXTS)
    wait_row = wait_rows_ptr + slot * _WAIT_ROW
    phase = tl.load(s + _PHASE)
    script = tl.load(s + _SCRIPT)
    script_pos = tl.load(s + _SCRIPT_POS)
    thinking = tl.load(s + _THINKING)
    waits = tl.load(s + _WAITS)
    blanks = tl.load(s + _BLANKS)
    just_waited = tl.load(s + _JUST_WAITED)
    seen = tl.load(s + _SEEN)
    end = tl.load(s + _END)
    answer_begin = tl.load(s + _ANSWER_BEGIN)
    ended_by = tl.load(s + _ENDED_BY)
    told_at = tl.load(s + _TOLD_AT)
    told_by = tl.load(s + _TOLD_BY)
    first_draft = input_ids_ptr + row - place + 1
    begin = tl.load(s + _BEGIN)
    committed = seen
    periods = tl.arange(0, _PERIODS) + 1
    output = tokens_ptr + slot * tokens_stride + tl.load(s + _PROMPT)
    runs = tl.load(runs_ptr + slot * _PERIODS + tl.arange(0, _PERIODS))
    for i in range(0, place):
        # A draft that can't stand is cut by `post`, and whatever this row then holds is dropped with it.
        draft = tl.load(first_draft + i).to(tl.int32)
        token_class = _token_class(classes_ptr, draft, vocab_size)
        ended = ((token_class & _C_END) != 0).to(tl.int32)
        looped = 0
        if window > 0:
            at = committed + i - periods
            settled = tl.load(output + at, mask=(at >= begin) & (at < committed), other=-1)
            drafted = tl.load(
                first_draft + at - committed, mask=(at >= begin) & (at >= committed), other=-1
            ).to(tl.int32)
            runs, looped = _run_on(runs, tl.where(at < committed, settled, drafted), draft, window)
        (
            phase, script, script_pos, thinking, waits, blanks, just_waited, seen, end, answer_begin,
            ended_by,
            _waiting,
        ) = _step(
            token_class, ended, looped,
            phase, script, script_pos, thinking, waits, blanks, just_waited, seen, end, answer_begin,
            ended_by,
            maximum, minimum, num_waits, landing, free_answer, wait_count, wait_row, lengths_ptr,
            told_at, told_by,
        )  # fmt: skip

    free = script == _S_NONE
    thinks = free & (phase == _P_THINKING)
    starts = free & (phase == _P_ANSWER_START)
    waits_before = tl.where(waits > 0, waits, 1) - 1
    in_wait = script == _S_WAIT
    wait_tokens = wait_row + _TEXTS
    wait_token = tl.load(
        wait_tokens + (waits_before % wait_count) * _TEXT_TOKENS + script_pos, mask=in_wait, other=0
    )
    forced = tl.load(scripts_ptr + script * scripts_stride + script_pos, mask=in_wait == 0, other=0)
    forced = tl.where(in_wait, wait_token, forced)
    start_mask = tl.where(blanks >= _MAX_BLANKS, _C_NOT_FIRST | _C_BLANK, _C_NOT_FIRST)
    start_mask = tl.where(free_answer != 0, start_mask, _C_END | _C_MARKER)
    mask = tl.where(starts, start_mask, tl.where(thinks & (just_waited != 0), _C_END, 0)) | _C_UNKNOWN
    if MARKER_ENDS_ANSWER:
        can_not_end = free & (phase == _P_ANSWER) & (seen < tl.load(s + _MIN_OUTPUT))
        mask = tl.where(can_not_end, mask | _C_MARKER, mask)
    next_wait = tl.load(wait_tokens + (waits % wait_count) * _TEXT_TOKENS)
    replacement = tl.where(_waits_now(waits, thinking, num_waits, minimum), next_wait, end_token)
    tl.store(plan + _PLAN_FORCED, tl.where(free, -1, forced))
    tl.store(plan + _PLAN_MASK, mask)
    tl.store(plan + _PLAN_REPLACEMENT, tl.where(thinks, replacement, -1))
    if MARKER_ENDS_ANSWER:
        tl.store(plan + _PLAN_ENDS_ANSWER, (free & (phase == _P_ANSWER)).to(tl.int32))


@triton.jit(do_not_specialize=["logits_stride", "vocab_size", "known_tokens"])
def edit_logits(
    logits_ptr,  # [rows, vocabulary], float32
    logits_stride,
    plan_ptr,
    classes_ptr,
    vocab_size,
    known_tokens,
    BLOCK: tl.constexpr,
):
    """Force or mask one block of one row; most programs find nothing to do.

    Below `known_tokens` no id is of the class UNKNOWN.
    """
    row = tl.program_id(0)
    plan = plan_ptr + row * _PLAN_COLUMNS
    forced = tl.load(plan + _PLAN_FORCED)
    mask = tl.load(plan + _PLAN_MASK)
    only_unknown = (mask & ~_C_UNKNOWN) == 0
    before_unknown = (tl.program_id(1) + 1) * BLOCK <= known_tokens
    if (forced < 0) & ((mask == 0) | (only_unknown & before_unknown)):
        return
    tokens = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    inside = tokens < vocab_size
    block = logits_ptr + row.to(tl.int64) * logits_stride + tokens
    if forced >= 0:
        tl.store(block, tl.where(tokens == forced, 0.0, float("-inf")), mask=inside)
    else:
        classes = tl.load(classes_ptr + tokens, mask=inside, other=0)
        tl.store(block, float("-inf"), mask=inside & ((classes & mask) != 0))


@triton.jit(
    do_not_specialize=["sampled_stride", "vocab_size", "eos_token"],
    do_not_specialize_on_alignment=["sampled_ptr", "num_sampled_ptr", "row_starts_ptr", "slots_ptr"],
)
def post(
    sampled_ptr,  # [requests, places], edited in place
    sampled_stride,
    num_sampled_ptr,  # [requests], edited in place (SPECULATIVE)
    row_starts_ptr,  # [requests + 1]: the first row of each request (SPECULATIVE)
    slots_ptr,  # [requests], int64
    state_ptr,
    plan_ptr,
    classes_ptr,
    vocab_size,
    eos_token,
    SPECULATIVE: tl.constexpr,
):
    """Put the demanded token in place of the sampled one; what was sampled after a changed one is dropped."""
    request = tl.program_id(0)
    slot = tl.load(slots_ptr + request).to(tl.int64)
    if slot < 0:
        return
    s = state_ptr + slot * _COLUMNS
    if tl.load(s + _MAX) < 0:
        return
    seen = tl.load(s + _SEEN)
    first_row = request
    places = 1
    if SPECULATIVE:
        first_row = tl.load(row_starts_ptr + request).to(tl.int32)
        places = tl.load(num_sampled_ptr + request).to(tl.int32)
    ended_at = seen * 0 - 1
    kept = places
    for place in range(0, places):
        if place < kept:
            at = sampled_ptr + request * sampled_stride + place
            plan = plan_ptr + (first_row + place) * _PLAN_COLUMNS
            sampled = tl.load(at).to(tl.int32)
            token_class = _token_class(classes_ptr, sampled, vocab_size)
            forced = tl.load(plan + _PLAN_FORCED)
            replacement = tl.load(plan + _PLAN_REPLACEMENT)
            attempt = (replacement >= 0) & ((token_class & _C_END) != 0)
            ends_answer = (tl.load(plan + _PLAN_ENDS_ANSWER) != 0) & ((token_class & _C_MARKER) != 0)
            token = tl.where(attempt, replacement, tl.where(ends_answer, eos_token, sampled))
            token = tl.where(forced >= 0, forced, token)
            ended_at = tl.where(attempt, seen + place, ended_at)
            kept = tl.where(token != sampled, place + 1, kept)
            tl.store(at, token)
    tl.store(s + _ENDED_AT, ended_at)
    if SPECULATIVE:
        tl.store(num_sampled_ptr + request, kept)
