"""Who decided, what was taken for the answer, and what nobody could decide."""

from __future__ import annotations

import pytest

from training.grading.choices import chosen_letter
from training.grading.program import Kind, check, grade, is_checkable
from training.grading.references import check_references, perturbations, perturbed
from training.grading.stated import stated


@pytest.mark.parametrize(
    ("attempt", "text", "how"),
    [
        ("So \\boxed{\\frac{1}{2}}.", "\\frac{1}{2}", "boxed"),
        ("\\boxed{\\{1,2\\}}", "\\{1,2\\}", "boxed"),
        ("$x=\\boxed{2}$ or $\\boxed{3}$", "2, 3", "boxed"),
        ("\\boxed{2}, \\boxed{3}", "2, 3", "boxed"),
        ("Final Answer: 12 miles. Easy.", "12 miles", "answer line"),
        ("12", "12", "whole"),
        (
            "It took her 12 minutes and then went home, which I think is what was asked.",
            None,
            "prose",
        ),
        ("\\boxed{12", "", "nothing"),
        (None, "", "nothing"),
    ],
)
def test_where_the_answer_was_found(attempt: str | None, text: str | None, how: str) -> None:
    said = stated(attempt)
    assert said.how == how
    assert text is None or said.text == text


@pytest.mark.parametrize(
    ("reference", "attempt", "graded_by", "decided"),
    [
        ("42", "", "nothing stated", True),
        ("42", "\\boxed{42}", "identical", True),
        ("042", "42", "integers", True),
        ("1/2", "0.5", "math-verify", True),
        ("1/2", "\\boxed{it is a half}", "words", False),
        ("5 miles", "8 km", "units", False),
        ("no solution", "there is none", "words", False),
        ("\\frac{1}{2}", "\\boxed{\\unreadable{{}", "nothing stated", True),
    ],
)
def test_which_rule_decided(reference: str, attempt: str, graded_by: str, decided: bool) -> None:
    verdict = grade(reference, attempt)
    assert (verdict.graded_by, verdict.decided) == (graded_by, decided)


def test_no_letter_is_no_choice_and_never_a_default() -> None:
    verdict = grade("A", "I would need a calculator.", "choice", ("one", "two"))
    assert not verdict.correct and not verdict.decided and verdict.graded_by == "choice"
    assert not grade("A", "Answer: E", "choice", ("one", "two", "three", "four")).correct


@pytest.mark.parametrize(
    "attempt",
    [
        "\\boxed{A, C}",
        "\\boxed{\\text{A, C}}",
        "\\boxed{A}, \\boxed{B}",
        "Answer: A, B",
        "Answer: **A**, **B**",
        "Answer: b, c",
        "The answer is A, B, or C.",
        "A, B and C",
        "(A), (C)",
        "(A)(C)",
        "A-C",
        "B, A and C",
        "B, or A",
        "B, C, and D are wrong, so A",
        "After all of this I would rather choose A, B or C than say that I know which one it is.",
    ],
)
def test_several_letters_are_undecided(attempt: str) -> None:
    assert chosen_letter(attempt, ("one", "two", "three", "four")) is None
    verdict = grade("A", attempt, "choice", ("one", "two", "three", "four"))
    assert not verdict.correct and not verdict.decided and verdict.graded_by == "choice"
    verdict = grade("A", attempt)
    assert not verdict.correct and not verdict.decided


@pytest.mark.parametrize(
    ("attempt", "letter"),
    [
        ("A, because the others are not", "A"),
        ("B, a prime", "B"),
        ("b, a prime", "B"),
        ("B. A prime is meant", "B"),
        ("B, I think", "B"),
        ("B, I'd say", "B"),
        ("B. B it is", "B"),
        ("\\boxed{B}, \\boxed{B}", "B"),
        ("B, as F = ma", "B"),
        ("C: Vitamin D", "C"),
        ("(C) vitamin D, which the skin makes", "C"),
        ("**D.** Both A and B", "D"),
        ("D) Both A and B are right", "D"),
        ("D, since both A and B are", None),
        ("A, B", "A"),
        ("A, D", None),
        ("C, B", "E"),
        ("Answer: C, B", "E"),
    ],
)
def test_an_option_s_own_text_may_hold_letters(attempt: str, letter: str | None) -> None:
    assert chosen_letter(attempt, ("B", "two", "Vitamin D", "Both A and B", "C, B")) == letter


def test_exact_forgives_nothing_but_blanks_and_the_forced_prefix() -> None:
    assert grade("3", "\nFinal Answer: 3 ", "exact").correct
    assert not any(
        grade("3", attempt, "exact").correct for attempt in ("3.", "03", "13", "", "The answer is 3")
    )


def test_what_can_be_compared() -> None:
    assert is_checkable("5 miles") and is_checkable("$x^2$") and is_checkable("12")
    assert not is_checkable("No") and not is_checkable("all of them") and not is_checkable("")
    assert check("Yes", ["Yes"]) is None and check(None, ["1"]) is None


@pytest.mark.parametrize(
    ("reference", "changed"),
    [
        ("25", "26"),
        ("0.19", "0.10"),
        ("$10-4 n$", "$10-5 n$"),
        ("x+y", "x+z"),
        ("\\pi", "\\pi+1"),
        ("$\\infty$", "-$\\infty$"),
        ("no solution", "not no solution"),
        ("$x=1$", "$x=2$"),
    ],
)
def test_perturbed(reference: str, changed: str) -> None:
    assert perturbed(reference) == changed


def test_a_reference_that_no_rule_can_tell_from_another_is_named() -> None:
    good = check_references((text, "math") for text in ("25", "1/2", "all of them", "$(45,2),(-10,-9)$"))
    assert (good.num_references, good.num_by_words) == (4, 1)
    assert good.refused == () and good.accepted == ()
    # sin(0·x) is nothing whatever x is called.
    bad = check_references([("0 \\cdot x", "math"), ("\\boxed{", "math")])
    assert bad.accepted == (("0 \\cdot x", "1 \\cdot x"),) or bad.refused == ("\\boxed{",)


@pytest.mark.parametrize("kind", ["math", "choice", "exact"])
def test_a_loop_of_digits_is_wrong_and_ends_nothing(kind: Kind) -> None:
    """Python refuses to read a number of more than 4,300 digits."""
    looping = "7" * 5000
    for attempt in (f"Answer: {looping}", f"\\boxed{{{looping}}}", looping, f"\\boxed{{x^{{{looping}}}+1}}"):
        assert not grade("7", attempt, kind, ("one", "two") if kind == "choice" else ()).correct
    assert grade(looping, f"\\boxed{{0{looping}}}").correct
    assert not grade(looping, f"\\boxed{{{looping}7}}").correct


def test_an_attempt_that_no_rule_can_cope_with_is_undecided_and_says_why(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def fails(*_: object) -> None:
        raise RecursionError("maximum recursion depth exceeded")

    monkeypatch.setattr("training.grading.program.equal", fails)
    verdict = grade("1/2", "\\boxed{x+1}")
    assert (verdict.correct, verdict.decided, verdict.extracted) == (False, False, "x+1")
    assert verdict.graded_by == "failed: RecursionError: maximum recursion depth exceeded"
    assert grade("1/2", "\\boxed{1/2}").graded_by == "identical"


@pytest.mark.parametrize(
    ("attempt", "kind", "stated_when_cut"),
    [
        ("We compute 2+2 = 4", "math", False),
        ("4", "math", False),
        ("B, as the", "choice", False),
        ("\\boxed{4} and the", "math", True),
        ("Answer: 4\n\nThis is", "math", True),
        ("4", "exact", True),
    ],
)
def test_a_message_that_was_cut_off_states_only_a_box_or_an_answer(
    attempt: str, kind: Kind, stated_when_cut: bool
) -> None:
    verdict = grade("4", attempt, kind, ("two", "four") if kind == "choice" else (), cut=True)
    assert (verdict.how != "nothing") is stated_when_cut
    assert verdict.correct is stated_when_cut and verdict.decided


@pytest.mark.parametrize(
    ("reference", "changed"),
    [
        ("25", ["26"]),
        ("R-r", ["R-s", "R-R"]),
        ("101_2", ["101_3"]),
        ("x_1+y", ["x_2+y", "x_1+Y"]),
        ("x_{1}+2", ["x_{1}+3", "X_{1}+2", "x_{2}+2"]),
        ("5 m", ["6 m", "5 M"]),
        ("5 miles", ["6 miles"]),
        ("2i", ["3i"]),
        ("C", ["D"]),
        ("no solution", ["not no solution"]),
    ],
)
def test_perturbations(reference: str, changed: list[str]) -> None:
    assert perturbations(reference, "math") == changed
