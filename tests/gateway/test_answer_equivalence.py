"""Which answers a vote takes for one, and what counts as an answer at all."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from server.gateway.parallel.answer_text import MAX_ANSWER_CHARACTERS, extract_answer
from server.gateway.parallel.equivalence import answer_key
from server.gateway.parallel.formula import NotAFormula, value_key

ALIKE = [
    ("0.5", "1/2"),
    ("\\frac12", "\\dfrac{1}{2}"),
    ("50\\%", "0.5"),
    ("1,000", "1000.0"),
    ("10^3", "1000"),
    ("1.5e3", "1500"),
    ("2x+2", "2(x+1)"),
    ("x = 5", "5"),
    ("f(x)=2x", "2x"),
    ("x=1, x=2", "1 or 2"),
    ("\\{1,2\\}", "\\{2, 1\\}"),
    ("3 cm", "3\\text{ cm}"),
    ("3 cm", "3"),
    ("(B)", "b"),
    ("B.", "B"),
    ("Paris", "paris."),
    ("\\sqrt{4}", "2"),
    ("\\sqrt2/2", "1/\\sqrt{2}"),
    ("\\pm 3", "3, -3"),
    ("[0,\\infty)", "[0, ∞)"),
    ("(-\\infty,1)\\cup(2,3)", "(2,3) \\cup (-\\infty, 1)"),
    ("90^\\circ", "90"),
    ("$42$", "42"),
    ("\\$5", "5"),
    ("1\\frac{1}{2}", "3/2"),
    ("1 1/2", "1.5"),
    ("2\\pi", "2 pi"),
    ("\\frac{\\sqrt{3}}{2}", "\\sqrt{3}/2"),
    ("x^2-1", "(x-1)(x+1)"),
    ("-\\frac{1}{2}", "\\frac{-1}{2}"),
    ("\\text{yes}", "Yes"),
    ("7", "07"),
    ("$\\left(1, 2\\right)$", "(1,2)"),
    ("2\\cdot 3", "6"),
    ("xy+2", "yx+2"),
    ("\\frac{a}{b}", "a/b"),
    ("−3", "-3"),
    ("5\\,000", "5000"),
    ("½", "0.5"),
]
APART = [
    ("25", "5"),
    ("13", "3"),
    ("0.333", "1/3"),
    ("(1,2)", "(2,1)"),
    ("[0,1]", "(0,1)"),
    ("2x", "2y"),
    ("x", "5"),
    ("50%", "50"),
    ("Paris", "London"),
    ("A", "B"),
    ("1,2", "(1,2)"),
    ("yes", "no"),
    ("2^3", "6"),
    ("-3", "3"),
    ("cat", "act"),
    ("listen", "silent"),
    ("\\sqrt{2}", "1.41"),
    ("x=5", "y=2x+5"),
    ("3", "3, 4"),
    ("1/0", "0"),
    ("x=1,y=2", "x=2,y=1"),
    ("x^2", "2x"),
    ("300 cm", "3 m"),
    ("1,23", "123"),
]
HOSTILE = [
    "9^9^9^9",
    "(" * 290,
    "2^" * 140 + "2",
    "{" * 200,
    "\\frac" * 60,
    "\\sqrt{" * 40 + "}" * 40,
    "9" * 300,
    "(1+x)^64" * 30,
    "1e999",
    "-" * 290 + "1",
    "\\text{" * 50,
    "a=" * 100,
    "[" * 100 + "]" * 100,
    "1/" * 140 + "1",
    "0^-1",
    "exp(99999)",
    "inf-inf",
    ",",
    "=",
    "",
    "±±",
    "9999^64^64",
    "\x00",
    "(" * 30 + "1" + ")" * 30,
]


@pytest.mark.parametrize(("one", "other"), ALIKE)
def test_answers_that_mean_the_same_are_one(one: str, other: str) -> None:
    assert answer_key(one) == answer_key(other)


@pytest.mark.parametrize(("one", "other"), APART)
def test_answers_that_differ_are_two(one: str, other: str) -> None:
    assert answer_key(one) != answer_key(other)


@pytest.mark.parametrize("answer", HOSTILE)
def test_whatever_a_model_writes_has_a_key(answer: str) -> None:
    assert answer_key(answer) == answer_key(f" {answer} ")


@given(st.text(alphabet="0123456789x+-*/^()[]{}\\,.= fracsqt", max_size=120))
@settings(max_examples=300, deadline=None)
def test_no_text_breaks_it(answer: str) -> None:
    assert isinstance(answer_key(answer), tuple)


@given(st.integers(-999, 999), st.integers(1, 99))
@settings(max_examples=100, deadline=None)
def test_a_fraction_is_one_number_in_every_form(over: int, under: int) -> None:
    forms = {
        f"{over}/{under}",
        f"\\frac{{{over}}}{{{under}}}",
        f"{2 * over}/{2 * under}",
        f"({over})/({under})",
    }
    assert len({answer_key(form) for form in forms}) == 1
    assert answer_key(f"{over + 1}/{under}") not in {answer_key(form) for form in forms}


def test_a_number_that_is_too_large_is_not_computed() -> None:
    for text in ("(2^64)^64^2", "9^9^9", "(1+x)^64" * 9):
        with pytest.raises(NotAFormula):
            value_key(text)


@pytest.mark.parametrize(
    ("content", "answer"),
    [
        ("The answer is **42**. Good.", "42"),
        ("So we get \\boxed{\\frac{1}{2}} in the end", "\\frac{1}{2}"),
        ("\\boxed{1}, no: \\boxed{2}", "2"),
        ("\\boxed{unclosed and the answer is 3", "3"),
        ("42.", "42"),
        ("First\nSecond\nx = 5", "x = 5"),
        ("Long.\nTherefore, 12", "12"),
        ("Final Answer: 7", "7"),
        ("work\n#### 12", "12"),
        ("**Answer:** 3 cm\n\nBecause of this.", "3 cm"),
        ("A story\nwith no answer here", None),
        ("word " * 60, None),
        ("\\boxed{" + "9" * (MAX_ANSWER_CHARACTERS + 1) + "}", None),
        ("", None),
        (None, None),
        ("  \n ", None),
    ],
)
def test_only_what_is_stated_is_an_answer(content: str | None, answer: str | None) -> None:
    assert extract_answer(content) == answer
