"""Which answers a vote takes for one, and what counts as an answer at all."""

from __future__ import annotations

import itertools
import re
import string
import sys
from types import FrameType
from typing import Any

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
    ("**B**", "b"),
    ('"B"', "“B”"),
    ("[B]:", "B"),
    ("\\(B\\)", "B"),
    ("\\{B\\}", "B"),
    ("\\,B", "B"),
    ("\\textbf{(B)}", "B"),
    ("【B】。", "B"),
    ("x = y", "y"),
    ("a+d", "d+a"),
    ("-x", "-1x"),
    ("√x", "\\sqrt{x}"),
    ("Yes!", "yes"),
    ('"No!!"', "no"),
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
    ("-x", "x"),
    ("√x", "x"),
    ("x!", "x"),
    ("!x", "x"),
    ("|x|", "x"),
    ("±x", "x"),
    ("¬x", "x"),
    ("-x", "|x|"),
    ("-e", "e"),
    ("-B", "B"),
    ("5!", "5!!"),
    ("\\sum k!", "\\sum k"),
    ("a+d", "b+c"),
    ("y-x", "z-y"),
    ("2y", "x+z"),
    ("a+theta", "b+theta"),
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


def test_letters_are_not_each_others_sums_differences_or_products() -> None:
    pairs = list(itertools.combinations_with_replacement(string.ascii_letters, 2))
    formulas = [f"{one}{sign}{other}" for one, other in pairs for sign in "+*"]
    formulas += [f"{one}-{other}" for one, other in itertools.permutations(string.ascii_letters, 2)]
    formulas += string.ascii_letters
    assert len({value_key(formula) for formula in formulas}) == len(formulas)


@given(st.lists(st.integers(-99, 99), min_size=26, max_size=26).filter(any))
@settings(max_examples=100, deadline=None)
def test_no_sum_of_letters_is_a_whole_number(counts: list[int]) -> None:
    letters = string.ascii_lowercase.replace("e", "E")
    total = "+".join(f"({count}){letter}" for count, letter in zip(counts, letters, strict=True))
    assert all("/" in value for value in value_key(total))


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
        ("\\boxed{1}, \\boxed{unclosed", "1"),
        ("\\boxed{unclosed, \\boxed{2}", "2"),
        ("\\boxed{\\boxed{7}}", "7"),
        ("\\boxed{a \\fbox{b} c}", "b"),
        ("}\\boxed{\\frac{1}{2}}}", "\\frac{1}{2}"),
        ("\\boxed{1}" + "\\boxed{" * 20_000, "1"),
        ("\\boxed{" * 20_000, None),
        ("\\boxed{" * 20_000 + "7" + "}" * 20_000, "7"),
        ("The answer is 4\nThe answer is" + " " * 20_000 + "**", "4"),
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


def _box_by_its_definition(text: str) -> str | None:
    for match in reversed(list(re.finditer(r"\\boxed\{", text))):
        depth = 1
        for at in range(match.end(), len(text)):
            depth += (text[at] == "{") - (text[at] == "}")
            if depth == 0:
                return text[match.end() : at].strip() or None
    return None


@given(st.lists(st.sampled_from(["\\boxed{", "{", "}", "}", "1", "x", " "]), max_size=40).map("".join))
@settings(max_examples=300, deadline=None)
def test_the_box_that_begins_last_and_closes_is_the_answer(boxes: str) -> None:
    # An essay around them, in which nothing but a box is an answer.
    text = f"It may be this:\n{boxes}\nor something else"
    assert extract_answer(text) == _box_by_its_definition(text)


@pytest.mark.parametrize("piece", ["\\boxed{", "\\boxed{1} \\boxed{", "{", "}", "\\boxed{x}"])
def test_twice_the_boxes_are_twice_the_work(piece: str) -> None:
    assert _lines_run(piece * 400) <= 2 * _lines_run(piece * 200)


def _lines_run(content: str) -> int:
    """Python lines executed to find the answer, loops included."""
    count = 0

    def trace(frame: FrameType, event: str, argument: Any) -> Any:
        nonlocal count
        count += event == "line"
        return trace

    before = sys.gettrace()
    sys.settrace(trace)
    try:
        extract_answer(content)
    finally:
        sys.settrace(before)
    return count
