"""Grading without a model: exact answers, choice letters, mathematics, and answers in words."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal

from training.grading import forms, notation, points, units, wording
from training.grading.answers import looks_checkable
from training.grading.choices import chosen_letter
from training.grading.mathematics import equal, is_read, is_rounded, parsed, readable_reference
from training.grading.stated import How, Stated, stated

Kind = Literal["math", "choice", "exact"]
Outcome = Literal["right", "wrong", "undecided"]
GRADED_BY_NOTHING = "nothing stated"
FORCED_PREFIX = "Final Answer:"
_FAILED = "failed: "
_MAX_REASON_CHARS = 120
_CHOICE = re.compile(r"\(?(?P<letter>[A-J])\)?")


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
    reference = notation.unstyled(reference)
    if _choice_of(reference) is not None:
        return True
    measure = units.measured(reference)
    if measure.unit:
        reference = measure.value
    if not looks_checkable(reference):
        return False
    if units.has_quoted_units(reference) or forms.has_several_values(reference):
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

    reference, text = notation.unstyled(reference), notation.unstyled(said.text)
    if forms.plain(reference) in (forms.plain(text), forms.plain(said.rest)):
        return verdict(True, "identical")
    if (right_choice := _choice_of(reference)) is not None:
        letter = chosen_letter(text)
        return verdict(letter == right_choice, "choice", decided=letter is not None)
    wanted, given = forms.integer(reference), forms.integer(text)
    if wanted is not None and given is not None:
        return verdict(wanted == given, "integers")
    if (in_bases := _grade_bases(reference, text)) is not None:
        return verdict(in_bases == "right", "integers", decided=in_bases != "undecided")
    if _is_number_or_list(reference, text):
        return verdict(False, "integers", decided=False)
    wanted_measure = units.measured(reference)
    given_measure = units.measured(text, letters=bool(wanted_measure.unit))
    bare_reference = wanted_measure.value if wanted_measure.unit else reference
    if not is_checkable(bare_reference):
        of_formula = not wording.has_words(reference)
        same = any(
            forms.words(reference, of_formula=of_formula) == forms.words(words, of_formula=of_formula)
            for words in (text, said.rest)
        )
        return verdict(same, "words", decided=same)
    if len({measure.unit for measure in (wanted_measure, given_measure) if measure.unit}) > 1:
        return verdict(False, "units", decided=False)
    bare_answer = given_measure.value if given_measure.unit else text
    formulas = [] if said.how == "prose" else wording.formulas_of(bare_answer, known=reference)
    if not formulas:
        return verdict(False, "words", decided=False)
    if bare_answer not in formulas and wanted_measure.unit:
        return verdict(False, "units", decided=False)
    pairs = [(bare_reference, formula) for formula in formulas]
    if _may_belong_to_value(wanted_measure.unit, given_measure.unit):
        pairs.append((reference, text))
    outcomes = [_compared(*pair) for pair in dict.fromkeys(pairs)]
    outcome = next((outcome for outcome in ("right", "undecided") if outcome in outcomes), "wrong")
    if points.is_out_of_order(reference, text) or (outcome == "right" and _may_differ(reference, text)):
        outcome = "undecided"
    if outcome == "wrong" and _may_be_unit(reference, text):
        return verdict(False, "units", decided=False)
    return verdict(outcome == "right", "math-verify", decided=outcome != "undecided")


def _choice_of(reference: str) -> str | None:
    """The letter of an option that a reference is, as `C` or `\\text{(C)}`."""
    found = _CHOICE.fullmatch(forms.plain(reference))
    is_letter = found is not None and (len(reference) == 1 or "(" in reference or "{" in reference)
    return found["letter"] if found is not None and is_letter else None


def _may_belong_to_value(wanted_unit: str, given_unit: str) -> bool:
    """Whether a unit that only one has may be part of the value: a mass m as a factor, 50 % as 0.5."""
    return (bool(given_unit) and not wanted_unit) or (wanted_unit == units.PERCENT and not given_unit)


def _compared(reference: str, formula: str) -> Outcome:
    """By value. An answer that is also told as a decimal may be either, but that must be its own."""
    formulas = [formula]
    if (twice := wording.restated(formula)) is not None:
        formulas = list(twice)
        if not is_rounded(parsed(twice[0]), twice[1]):
            return "undecided"
    readings = [parsed(formula) for formula in formulas]
    same = [equal(readable_reference(reference), reading) for reading in readings]
    if any(same):
        return "right"
    return "undecided" if None in same or not all(map(is_read, readings)) else "wrong"


def _may_differ(reference: str, text: str) -> bool:
    """Whether an answer whose value is the reference's may yet say something else."""
    if forms.is_intricate(reference) and forms.parts(reference) != forms.parts(text):
        return True
    return points.are_set_and_point(reference, text)


def _grade_bases(reference: str, said: str) -> Outcome | None:
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
    one, other = (units.measured(text, letters=True) for text in (reference, said))
    return forms.plain(one.value) == forms.plain(other.value) and bool(one.unit) != bool(other.unit)


def _is_number_or_list(reference: str, said: str) -> bool:
    """Whether one is `1,234` and the other `1, 234`: which of both was meant is not told."""
    one, other = (forms.plain(text).replace(" ", "") for text in (reference, said))
    return one == other and forms.integer(one) is not None
