"""Grading without a model: exact answers, choice letters, mathematics, and answers in words."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal

from training.grading import forms
from training.grading.answers import is_bare_formula, looks_checkable
from training.grading.choices import LETTERS, chosen_letter
from training.grading.mathematics import equal, parsed, readable_reference
from training.grading.stated import How, Stated, stated

Kind = Literal["math", "choice", "exact"]
KINDS: tuple[Kind, ...] = ("math", "choice", "exact")
GRADED_BY_NOTHING = "nothing stated"
FORCED_PREFIX = "Final Answer:"


@dataclass(frozen=True, slots=True)
class Verdict:
    """`graded_by` names the rule, or `model:NAME`. An undecided verdict is wrong unless a grader model says
    otherwise: the rule could not compare what was said with the reference."""

    correct: bool
    graded_by: str
    extracted: str = ""
    how: How = "nothing"
    decided: bool = True


def grade(reference: str, attempt: str | None, kind: Kind = "math", options: Sequence[str] = ()) -> Verdict:
    """Must run in the main thread (see `mathematics`)."""
    if kind == "exact":
        return grade_exact(reference, attempt)
    if kind == "choice":
        return _grade_choice(reference, attempt or "", options)
    said = stated(attempt)
    if said.how == "nothing":
        return Verdict(False, GRADED_BY_NOTHING)
    return _grade_mathematics(reference, said)


def grade_exact(reference: str, attempt: str | None) -> Verdict:
    """`13` is not `3`, `3.` is not `3`, and nothing is equal to an empty answer."""
    answer = exact_answer(attempt)
    return Verdict(bool(answer) and answer == reference, "exact", answer, "whole" if answer else "nothing")


def exact_answer(attempt: str | None) -> str:
    """The message's text without surrounding blanks and the prefix that an early exit may leave."""
    return (attempt or "").strip().removeprefix(FORCED_PREFIX).strip()


def check(reference: str | None, attempts: Sequence[str]) -> list[Verdict] | None:
    """Verdicts on mathematics, or None where the reference isn't mathematics that can be compared.

    `graded_by` is `math-verify` whichever of its rules decided, as curation records it.
    """
    if reference is None or not is_checkable(reference):
        return None
    return [replace(grade(reference, attempt), graded_by="math-verify") for attempt in attempts]


def is_checkable(reference: str) -> bool:
    measure = forms.measured(reference)
    if measure.unit:
        reference = measure.number
    if not looks_checkable(reference):
        return False
    if forms.has_quoted_units(reference) or forms.has_several_values(reference):
        return False
    return forms.integer(reference) is not None or bool(readable_reference(reference))


def _grade_choice(reference: str, attempt: str, options: Sequence[str]) -> Verdict:
    said = stated(attempt)
    letter = chosen_letter(attempt, options)
    if letter is None:
        empty = said.how == "nothing"
        return Verdict(False, GRADED_BY_NOTHING if empty else "choice", said.text, said.how, decided=empty)
    return Verdict(letter == reference.strip().upper(), "choice", letter, said.how)


def _grade_mathematics(reference: str, said: Stated) -> Verdict:
    def verdict(correct: bool, graded_by: str, *, decided: bool = True) -> Verdict:
        return Verdict(correct, graded_by, said.text, said.how, decided)

    if forms.plain(reference) in (forms.plain(said.text), forms.plain(said.rest)):
        return verdict(True, "identical")
    if len(reference) == 1 and reference in LETTERS:
        letter = chosen_letter(said.text)
        return verdict(letter == reference, "choice", decided=letter is not None)
    wanted, given = forms.integer(reference), forms.integer(said.text)
    if wanted is not None and given is not None:
        return verdict(wanted == given, "integers")
    wanted_measure = forms.measured(reference)
    given_measure = forms.measured(said.text, letters=bool(wanted_measure.unit))
    bare_reference = wanted_measure.number if wanted_measure.unit else reference
    if not is_checkable(bare_reference):
        same = forms.words(reference) in (forms.words(said.text), forms.words(said.rest))
        return verdict(same, "words", decided=same)
    units = {measure.unit for measure in (wanted_measure, given_measure) if measure.unit}
    if len(units) > 1:
        return verdict(False, "units", decided=False)
    bare_answer = given_measure.number if given_measure.unit else said.text
    is_formula = said.how in ("boxed", "answer line") or is_bare_formula(bare_answer)
    readings = parsed(bare_answer, boxed=is_formula)
    same = equal(readable_reference(bare_reference), readings)
    if same and forms.is_intricate(reference) and forms.numbers(reference) != forms.numbers(said.text):
        return verdict(False, "math-verify", decided=False)
    return verdict(same, "math-verify", decided=bool(readings))
