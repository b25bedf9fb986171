"""Fixed sequences of forced tokens, and each choice's wait texts: what the rules of both runners force from.

A row stands at one position of one script, or of none. The wait script's tokens are the choice's own: its
wait texts are used in turn.
"""

from __future__ import annotations

from collections.abc import Sequence
from enum import IntEnum

from server.budget.markers import MarkerIds
from server.budget.spec import MAX_WAIT_TEXTS, MAX_WAIT_TOKENS, EffectiveBudget


class Script(IntEnum):
    NONE = 0
    OPEN = 1
    WAIT = 2
    END = 3
    EXIT = 4
    EXIT_NEWLINE = 5
    EXIT_PLAIN_NEWLINE = 6
    """As EXIT_NEWLINE without the answer prompt; END is EXIT without it."""


def script_tokens(ids: MarkerIds) -> dict[Script, tuple[int, ...]]:
    """The tokens of every script; the wait script's stand in `wait_rows`."""
    return {
        Script.NONE: (),
        Script.OPEN: ids.start,
        Script.WAIT: (),
        Script.END: ids.end,
        Script.EXIT: ids.end + ids.answer_prompt,
        Script.EXIT_NEWLINE: (ids.newline, *ids.end, *ids.answer_prompt),
        Script.EXIT_PLAIN_NEWLINE: (ids.newline, *ids.end),
    }


def wait_texts(ids: MarkerIds, budget: EffectiveBudget) -> tuple[tuple[int, ...], ...]:
    """The wait texts of a choice: its own, else the family's."""
    return budget.wait_ids or (ids.wait,)


def wait_rows(texts: Sequence[Sequence[int]]) -> tuple[list[int], list[list[int]]]:
    """`MAX_WAIT_TEXTS` lengths, and as many rows of `MAX_WAIT_TOKENS` token ids, padded with zeros."""
    padded = [[*text, *[0] * (MAX_WAIT_TOKENS - len(text))] for text in texts]
    missing = MAX_WAIT_TEXTS - len(texts)
    return [*map(len, texts), *[0] * missing], [*padded, *[[0] * MAX_WAIT_TOKENS] * missing]
