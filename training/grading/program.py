"""Grading without a model: exact answers, choice letters, mathematics, and answers in words."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal

from training.grading import forms, wording
from training.grading.answers import looks_checkable
from training.grading.choices import LETTERS, chosen_letter
from training.grading.mathematics import equal, is_read, is_rounded, parsed, readable_reference
from training.grading.stated import How, Stated, stated

Kind = Literal["math", "choice", "exact"]
KINDS: tuple[Kind, ...] = ("math", "choice", "exact")
GRADED_BY_NOTHING = "nothing stated"
FORCED_PREFIX = "Final Answer:"
_FAILED = "failed: "
_MAX_REASON_CHARS = 120


@dataclass(frozen=True, slots=True)
class Verdict:
    """`graded_by` names the rule, or `model:NAME`. An undecided verdict is wrong unless a grader model says
    otherwise: the rule could not compare what was said with the reference."""

    correct: bool
    graded_by: str
    extracted: str = ""
    how: How = "nothing"
    decided: bool = True


def grade(
    reference: str,
    attempt: str | None,
    kind: Kind = "math",
    options: Sequence[str] = (),
    *,
    cut: bool = False,
) -> Verdict:
    """Must run in the main thread (see `mathematics`). An attempt that no rule can cope with is undecided.

    Args:
        cut: whether the attempt was cut off at a limit of tokens (see `stated`; `exact` forgives it).
    """
    if kind == "exact":
        return grade_exact(reference, attempt)
    said = Stated("", "nothing")
    try:
        said = stated(attempt, cut=cut)
        if said.how == "nothing":
            return Verdict(False, GRADED_BY_NOTHING)
        if kind == "choice":
            return _grade_choice(reference, attempt or "", options)
        return _grade_mathematics(reference, said)
    except Exception as error:  # noqa: BLE001 -- one odd reply must not end a run of which every call is paid
        reason = f"{_FAILED}{type(error).__name__}: {error}"[:_MAX_REASON_CHARS]
        return Verdict(False, reason, said.text, said.how, decided=False)


def grade_exact(reference: str, attempt: str | None) -> Verdict:
    """`13` is not `3`, `3.` is not `3`, and nothing is equal to an empty answer."""
    answer = exact_answer(attempt)
    return Verdict(bool(answer) and answer == reference, "exact", answer, "whole" if answer else "nothing")


def exact_answer(attempt: str | None) -> str:
    """The message's text without surrounding blanks and the prefix that an early exit may leave."""
    return (attempt or "").strip().removeprefix(FORCED_PREFIX).strip()


def check(reference: str | None, attempts: Sequence[str], cut: Sequence[bool] = ()) -> list[Verdict] | None:
    """Verdicts on mathematics, or None where the reference isn't mathematics that can be compared.

    Args:
        cut: of each attempt, whether it was cut off at a limit of tokens; none was where this is empty.

    `graded_by` is `math-verify` whichever of its rules decided, as curation records it, or `failed: …`.
    """
    if reference is None or not is_checkable(reference):
        return None
    verdicts = [
        grade(reference, attempt, cut=was_cut)
        for attempt, was_cut in zip(attempts, cut or [False] * len(attempts), strict=True)
    ]
    return [
        verdict if verdict.graded_by.startswith(_FAILED) else replace(verdict, graded_by="math-verify")
        for verdict in verdicts
    ]


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
        return Verdict(False, "choice", said.text, said.how, decided=False)
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
    if (in_bases := _grade_bases(reference, said.text)) is not None:
        return verdict(in_bases == "right", "integers", decided=in_bases != "undecided")
    if _is_number_or_list(reference, said.text):
        return verdict(False, "integers", decided=False)
    wanted_measure = forms.measured(reference)
    given_measure = forms.measured(said.text, letters=bool(wanted_measure.unit))
    bare_reference = wanted_measure.number if wanted_measure.unit else reference
    if not is_checkable(bare_reference):
        of_formula = not wording.has_words(reference)
        same = any(
            forms.words(reference, of_formula=of_formula) == forms.words(text, of_formula=of_formula)
            for text in (said.text, said.rest)
        )
        return verdict(same, "words", decided=same)
    units = {measure.unit for measure in (wanted_measure, given_measure) if measure.unit}
    if len(units) > 1:
        return verdict(False, "units", decided=False)
    bare_answer = given_measure.number if given_measure.unit else said.text
    formula = None if said.how == "prose" else wording.formula_of(bare_answer, known=reference)
    if formula is None:
        return verdict(False, "words", decided=False)
    if formula != bare_answer and wanted_measure.unit:
        return verdict(False, "units", decided=False)
    if (twice := wording.restated(formula)) is not None:
        formula, decimal = twice
        if not is_rounded(parsed(formula), decimal):
            return verdict(False, "math-verify", decided=False)
    readings = parsed(formula)
    same_value = equal(readable_reference(bare_reference), readings)
    if same_value and forms.is_intricate(reference) and forms.parts(reference) != forms.parts(said.text):
        return verdict(False, "math-verify", decided=False)
    decided = bool(same_value) or (same_value is not None and is_read(readings))
    if not same_value and _may_be_unit(reference, said.text):
        return verdict(False, "units", decided=False)
    return verdict(bool(same_value), "math-verify", decided=decided)


def _grade_bases(reference: str, said: str) -> Literal["right", "wrong", "undecided"] | None:
    """Of `101_2`; None where neither names a base. As a unit, it may be left out, not changed."""
    wanted, given = forms.in_base(reference), forms.in_base(said)
    if wanted is not None and given is not None:
        return "right" if wanted == given else "wrong"
    based, other = (wanted, said) if wanted is not None else (given, reference)
    number = forms.integer(other)
    if based is None:
        return None
    if number is None:
        return "undecided"
    if number.upper() == based[0]:
        return "right"
    return "undecided" if forms.is_value_of(number, *based) else "wrong"


def _may_be_unit(reference: str, said: str) -> bool:
    """Whether one is `5 m` and the other `5`: metres, or five times m."""
    one, other = (forms.measured(text, letters=True) for text in (reference, said))
    return one.number == other.number and bool(one.unit) != bool(other.unit)


def _is_number_or_list(reference: str, said: str) -> bool:
    """Whether one is `1,234` and the other `1, 234`: which of both was meant is not told."""
    one, other = (forms.plain(text).replace(" ", "") for text in (reference, said))
    return one == other and forms.integer(one) is not None
