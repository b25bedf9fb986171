"""Can a benchmark be graded at all? Every reference must grade itself right, and a changed one wrong."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass

from training.grading import forms
from training.grading.answers import looks_checkable
from training.grading.program import Kind, grade

_DIGIT = re.compile(r"\d")
_COMMAND = re.compile(r"\\[a-zA-Z]+")
_LETTER = re.compile(r"[a-z](?=[^a-z]|\Z)", re.IGNORECASE)


@dataclass(frozen=True, slots=True)
class ReferenceCheck:
    """References that the grader gets wrong, as (reference, what was said)."""

    num_references: int
    num_by_words: int
    """Compared word for word: an answer that says it otherwise is wrong unless a grader model is asked."""
    refused: tuple[str, ...]
    """Not right against themselves."""
    accepted: tuple[tuple[str, str], ...]
    """Right although changed."""


def check_references(references: Iterable[tuple[str, Kind]]) -> ReferenceCheck:
    """Grades each reference as it is and boxed, and a changed one. Main thread only."""
    num_references, num_by_words = 0, 0
    refused: list[str] = []
    accepted: list[tuple[str, str]] = []
    for reference, kind in references:
        num_references += 1
        said = (_boxed(reference), f"Final Answer: {reference}")
        if not all(grade(reference, attempt, kind).correct for attempt in said[kind == "exact" :]):
            refused.append(reference)
        changed = perturbed(reference)
        verdict = grade(reference, changed if kind == "exact" else _boxed(changed), kind)
        num_by_words += verdict.graded_by == "words"
        if verdict.correct:
            accepted.append((reference, changed))
    return ReferenceCheck(num_references, num_by_words, tuple(refused), tuple(accepted))


def perturbed(reference: str) -> str:
    """Another answer of the same form: the last digit one up, else another letter, else one word more."""
    digits = list(_DIGIT.finditer(reference))
    if digits:
        at = digits[-1].start()
        return reference[:at] + str((int(reference[at]) + 1) % 10) + reference[at + 1 :]
    if looks_checkable(reference) and not forms.has_words(reference):
        commands = [match.span() for match in _COMMAND.finditer(reference)]
        for match in reversed(list(_LETTER.finditer(reference))):
            if not any(begin <= match.start() < end for begin, end in commands):
                at = match.start()
                return reference[:at] + _next_letter(reference[at]) + reference[at + 1 :]
        # Infinity and one is infinity.
        return f"-{reference}" if "\\infty" in reference else f"{reference}+1"
    return f"not {reference}"


def _next_letter(letter: str) -> str:
    return {"z": "a", "Z": "A"}.get(letter) or chr(ord(letter) + 1)


def _boxed(text: str) -> str:
    return f"\\boxed{{{text}}}"
