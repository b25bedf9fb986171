"""A choice's budget state as one row of int32, and the tables that its rules look tokens up in.

Two implementations step such rows, with `server.budget.machine` for their oracle: `server.engine.steps`,
compiled for the host, behind vLLM's V1 runner, and `server.engine.kernels` on the device behind V2.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from enum import IntEnum

import numpy as np
import numpy.typing as npt

from server.budget.markers import MarkerIds
from server.budget.receipt import EngineReceipt
from server.budget.spec import (
    LOOP_REPEATS,
    MAX_LOOP_GUARD_TOKENS,
    MAX_WAIT_TEXTS,
    MAX_WAIT_TOKENS,
    EffectiveBudget,
)
from server.engine.ended_by import EndedBy
from server.engine.scripts import Script, script_tokens, wait_rows, wait_texts


class Column(IntEnum):
    """A row of state. The first ten are constant for a request."""

    MAX = 0
    """-1: no budget in this slot."""
    MIN = 1
    NUM_WAITS = 2
    LANDING = 3
    FREE_ANSWER = 4
    PROMPT = 5
    """Prompt tokens: where the output begins among the slot's tokens (V2)."""
    LOOP_GUARD = 6
    WAIT_TEXTS = 7
    """How many wait texts stand in the slot's row of them."""
    BEGIN = 8
    """Output position of the first thinking token."""
    MIN_OUTPUT = 9
    """Before so many output tokens no marker can be sampled in the answer."""
    PHASE = 10
    SCRIPT = 11
    SCRIPT_POS = 12
    THINKING = 13
    WAITS = 14
    BLANKS = 15
    JUST_WAITED = 16
    SEEN = 17
    """Output tokens that are committed to this state."""
    END = 18
    ANSWER_BEGIN = 19
    ENDED_BY = 20
    """An `EndedBy`; means something once END is set."""
    ENDED_AT = 21
    """Tentative: output position at which an end token was sampled and replaced; -1 for none."""
    TOLD_AT = 22
    """From so many output tokens on, leave the thinking (rule 10); -1: nobody said so."""
    TOLD_BY = 23
    """An `EndedBy`."""


class Demand(IntEnum):
    """What the next token of a row must be."""

    FORCED = 0
    """The token that must come, or -1."""
    MASK = 1
    """Classes of tokens that can't be sampled."""
    REPLACEMENT = 2
    """What stands for a sampled end token, or -1: the row is not thinking."""
    ENDS_ANSWER = 3
    """Whether a sampled marker becomes the end-of-sequence token."""


class Class(IntEnum):
    """Bits of the token classes that the rules speak of."""

    END = 1
    NOT_FIRST_IN_ANSWER = 2
    BLANK = 4
    SENTENCE_END = 8
    LINE_END = 16
    MARKER = 32
    UNKNOWN = 64


class Phase(IntEnum):
    THINKING = 1
    ANSWER_START = 2
    ANSWER = 3


WAIT_ROW = MAX_WAIT_TEXTS * (1 + MAX_WAIT_TOKENS)
"""Width of a slot's row of wait texts: their lengths, then the tokens of each."""
WORD = 32
"""Output positions per int32 of a slot's wait bits: position >> 5 is its word, position & 31 its bit."""
PERIODS = MAX_LOOP_GUARD_TOKENS // LOOP_REPEATS
"""Longest period that rule 9 looks for.

For each period p a row keeps its *run*: how many tokens in a row equal the token p places before. The last
`window` tokens have the period p exactly if that run is at least `window - p`, so a token costs one
comparison per period, and no look at the window. `server.budget.machine` compares the window itself.
"""


def words(max_model_len: int) -> int:
    """Width of a slot's wait bits."""
    return max_model_len // WORD + 1


def no_budget() -> list[int]:
    """A slot's row of state, and its wait texts, while nobody with a budget is in it."""
    return [-1] + [0] * (len(Column) - 1 + WAIT_ROW)


def first_state(
    ids: MarkerIds, budget: EffectiveBudget, *, opened: bool, answer_prompt: bool, prompt_tokens: int = 0
) -> list[int]:
    """A slot's row of state before the first output token, and its wait texts."""
    texts = wait_texts(ids, budget)
    lengths, tokens = wait_rows(texts)
    row = dict.fromkeys(Column, 0) | {
        Column.MAX: budget.max,
        Column.MIN: budget.min,
        Column.NUM_WAITS: budget.num_waits,
        Column.LANDING: budget.landing,
        Column.FREE_ANSWER: int(answer_prompt),
        Column.PROMPT: prompt_tokens,
        Column.LOOP_GUARD: budget.loop_guard,
        Column.WAIT_TEXTS: len(texts),
        Column.BEGIN: 0 if opened else len(ids.start),
        Column.MIN_OUTPUT: budget.min_output,
        Column.PHASE: Phase.THINKING,
        Column.SCRIPT: Script.NONE if opened else Script.OPEN,
        Column.END: -1,
        Column.ANSWER_BEGIN: -1,
        Column.ENDED_AT: -1,
        Column.TOLD_AT: -1,
    }
    if opened and budget.max <= 1:  # rule 1 holds before the first token
        newline = budget.max
        row[Column.SCRIPT] = {
            (0, True): Script.EXIT,
            (0, False): Script.END,
            (1, True): Script.EXIT_NEWLINE,
            (1, False): Script.EXIT_PLAIN_NEWLINE,
        }[newline, answer_prompt]
        row[Column.THINKING] = row[Column.END] = newline
    return [*(int(row[column]) for column in Column), *lengths, *(token for text in tokens for token in text)]


def receipt_of(
    state: Sequence[int], waits: Iterable[int], receipt_id: str, budget: EffectiveBudget
) -> EngineReceipt:
    """
    Args:
        state: a row of state.
        waits: the output positions at which its wait texts begin.
    """
    end, answer_begin = int(state[Column.END]), int(state[Column.ANSWER_BEGIN])
    return EngineReceipt(
        receipt_id=receipt_id,
        effective_min=budget.min,
        effective_max=budget.max,
        effective_num_waits=budget.num_waits,
        clamped_by=budget.clamped_by,
        output_tokens=int(state[Column.SEEN]),
        thinking_begin=int(state[Column.BEGIN]),
        thinking_end=end if end >= 0 else None,
        answer_begin=answer_begin if answer_begin >= 0 else None,
        wait_positions=tuple(int(position) for position in waits),
        ended_by=EndedBy(int(state[Column.ENDED_BY])).word if end >= 0 else None,
    )


def positions(bits: npt.NDArray[np.int32]) -> list[int]:
    """The output positions whose bits are set in a slot's wait bits."""
    found = np.flatnonzero(np.unpackbits(bits.astype("<i4").view(np.uint8), bitorder="little"))
    return [int(position) for position in found]


def script_table(ids: MarkerIds) -> tuple[npt.NDArray[np.int32], npt.NDArray[np.int32]]:
    """The scripts' tokens, [scripts, width], and their lengths, [scripts]."""
    scripts = script_tokens(ids)
    lengths = np.array([len(scripts[script]) for script in Script], dtype=np.int32)
    tokens = np.zeros((len(Script), int(lengths.max()) + 1), dtype=np.int32)
    for script, content in scripts.items():
        tokens[script, : len(content)] = content
    return tokens, lengths


def class_table(ids: MarkerIds, vocab_size: int | None = None) -> npt.NDArray[np.int32]:
    """[vocabulary]: the bits of `Class` for every token id; by default up to the last that has any."""
    members = {
        Class.END: ids.end_attempt,
        Class.NOT_FIRST_IN_ANSWER: ids.not_first_in_answer,
        Class.BLANK: ids.blank,
        Class.SENTENCE_END: ids.sentence_end,
        Class.LINE_END: ids.line_end,
        Class.MARKER: frozenset({ids.start[0], ids.end[0]}),
        Class.UNKNOWN: ids.unknown,
    }
    if vocab_size is None:
        vocab_size = 1 + max(max(tokens, default=0) for tokens in members.values())
    classes = np.zeros(vocab_size, dtype=np.int32)
    for bit, tokens in members.items():
        classes[[token for token in tokens if token < vocab_size]] |= int(bit)
    return classes
