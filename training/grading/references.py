"""Can a benchmark be graded at all? Every reference must grade itself right, and a changed one wrong."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass

from training.grading import forms, units
from training.grading.answers import looks_checkable
from training.grading.program import Kind, grade

_DIGIT = re.compile(r"\d")
_COMMAND = re.compile(r"\\[a-zA-Z]+")
_LETTER = re.compile(r"[a-z](?=[^a-z]|\Z)", re.IGNORECASE)
_SUBSCRIPT = re.compile(r"_\{?(?P<digit>\d)")
_NO_VARIABLES = "eEiI"
"""Of these one case is a number, or both are."""


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
        for number, changed in enumerate(perturbations(reference, kind)):
            verdict = grade(reference, changed if kind == "exact" else _boxed(changed), kind)
            num_by_words += number == 0 and verdict.graded_by == "words"
            if verdict.correct:
                accepted.append((reference, changed))
                break
    return ReferenceCheck(num_references, num_by_words, tuple(refused), tuple(accepted))


def perturbations(reference: str, kind: Kind) -> list[str]:
    """`perturbed`, and of mathematics the same with a letter's case swapped and with another subscript.

    After the last equals sign: of `P(X_n = 4) = 5/8` the value alone is an answer.
    """
    changed = [perturbed(reference)]
    if kind != "math" or not _is_formula(reference):
        return changed
    value = reference.rfind("=") + 1
    letter = _last_letter(reference)
    if (
        letter is not None
        and letter >= value
        and len(reference) > 1
        and reference[letter] not in _NO_VARIABLES
    ):
        changed.append(_replaced(reference, letter, reference[letter].swapcase()))
    if subscripts := list(_SUBSCRIPT.finditer(reference, value)):
        at = subscripts[-1].start("digit")
        changed.append(_replaced(reference, at, _next_digit(reference[at])))
    return list(dict.fromkeys(changed))


def perturbed(reference: str) -> str:
    """Another answer of the same form: the last digit one up, else another letter, else one word more."""
    if digits := list(_DIGIT.finditer(reference)):
        at = digits[-1].start()
        return _replaced(reference, at, _next_digit(reference[at]))
    if looks_checkable(reference) and not forms.has_words(reference):
        if (letter := _last_letter(reference)) is not None:
            return _replaced(reference, letter, _next_letter(reference[letter]))
        # Infinity and one is infinity.
        return f"-{reference}" if "\\infty" in reference else f"{reference}+1"
    return f"not {reference}"


def _is_formula(reference: str) -> bool:
    """Whether its letters count: no words, no unit, no name of a rounded value: `k \\approx 0.13`."""
    is_measured = bool(units.measured(reference).unit) or units.has_quoted_units(reference)
    is_named = forms.ABOUT.search(reference) is not None
    return looks_checkable(reference) and not (forms.has_words(reference) or is_measured or is_named)


def _last_letter(reference: str) -> int | None:
    """Where the last letter stands that belongs to no command."""
    commands = [match.span() for match in _COMMAND.finditer(reference)]
    places = [match.start() for match in _LETTER.finditer(reference)]
    outside = [at for at in places if not any(begin <= at < end for begin, end in commands)]
    return outside[-1] if outside else None


def _replaced(text: str, at: int, char: str) -> str:
    return text[:at] + char + text[at + 1 :]


def _next_digit(digit: str) -> str:
    return str((int(digit) + 1) % 10)


def _next_letter(letter: str) -> str:
    return {"z": "a", "Z": "A"}.get(letter) or chr(ord(letter) + 1)


def _boxed(text: str) -> str:
    return f"\\boxed{{{text}}}"
