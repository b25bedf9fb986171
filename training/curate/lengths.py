"""How long a question's trace is, or what stands in for it where there is none."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Literal

from training.curate.errors import CurationError
from training.curate.schema import Question

LengthOf = Literal["thinking", "solver", "text"]


def _thinking(question: Question) -> int | None:
    return question.thinking_tokens


def _solver(question: Question) -> int | None:
    counts = [
        attempt.completion_tokens if attempt.thinking_tokens is None else attempt.thinking_tokens
        for attempt in question.attempts
    ]
    return max((count for count in counts if count is not None), default=None)


def _text(question: Question) -> int | None:
    return len(question.question.split()) + len((question.solution or "").split())


LENGTHS: Mapping[LengthOf, Callable[[Question], int | None]] = {
    "thinking": _thinking,
    "solver": _solver,
    "text": _text,
}


def lengths(questions: Sequence[Question], length_of: LengthOf) -> list[int]:
    """By question: tokens of its trace; tokens of its longest solver; words of question and solution.

    Raises:
        CurationError: a question has none.
    """
    found = []
    for question in questions:
        length = LENGTHS[length_of](question)
        if length is None:
            raise CurationError(
                f"question {question.id} ({question.source}) has no length of {length_of!r}: run `s1 traces` "
                "(with --tokenizer where the API counts nothing) or `s1 curate difficulty` first, "
                "or pass --length text"
            )
        found.append(length)
    return found
