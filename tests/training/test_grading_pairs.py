"""Answers that a reader, but no formula parser, tells apart, or takes for one: reference, attempt, what must come out.

`RIGHT` is right, `WRONG` is wrong by a rule, `UNDECIDED` is left to the grader model.
"""

# ruff: noqa: E501 -- a pair is one line

from __future__ import annotations

import pytest

from training.grading.program import Verdict, grade

RIGHT, WRONG, UNDECIDED = "right", "wrong", "undecided"
_Rows = list[tuple[str, str, str]]

LARGE_AND_SMALL: _Rows = [
    ("2^{2021}", "2^{2020}", WRONG),
    ("2^{2021}", "3^{5000}", WRONG),
    ("2^{2021}", "2\\cdot 2^{2020}", RIGHT),
    ("2^{2021}", "4^{1010}\\cdot 2", RIGHT),
    ("2^{2021}-1", "2^{2021}+1", WRONG),
    ("2^{2021}-1", "2\\cdot 2^{2020}-1", RIGHT),
    ("2019!", "2018!", WRONG),
    ("2019!", "2019\\cdot 2018!", RIGHT),
    ("\\binom{4040}{2020}", "\\binom{4040}{2019}", WRONG),
    ("\\binom{4040}{2019}", "\\binom{4040}{2021}", RIGHT),
    ("10^{309}", "10^{310}", WRONG),
    ("\\sqrt{2}\\cdot 10^{400}", "\\sqrt{2}\\cdot 10^{401}", WRONG),
    ("\\sqrt{2}\\cdot 10^{400}", "\\sqrt{8}\\cdot 5\\cdot 10^{399}", RIGHT),
    ("1.5\\times 10^{400}", "1.6\\times 10^{400}", WRONG),
    ("1.5\\times 10^{400}", "15\\times 10^{399}", RIGHT),
    ("2^{-2021}", "2^{-2020}", WRONG),
    ("2^{-2021}", "\\frac{1}{2^{2021}}", RIGHT),
    ("\\frac{1}{2019!}", "0", WRONG),
    ("\\infty", "2^{5000}", WRONG),
    ("2^{5000}", "\\infty", WRONG),
    ("\\sqrt{5+2\\sqrt{6}}", "\\sqrt{2}+\\sqrt{3}", RIGHT),
    ("10^{10^{10}}", "10^{10^{10}}", RIGHT),
    ("10^{10^{10}}", "10^{10^{11}}", UNDECIDED),
    ("10^{10^{10}}", "10^{10000000000}", UNDECIDED),
    ("5", "9^{9^{9^9}}", UNDECIDED),
    ("(10^{10})!", "7", UNDECIDED),
]

CASE: _Rows = [
    ("\\frac{m}{M+m}", "\\boxed{\\frac12}", WRONG),
    ("\\frac{m}{M+m}", "\\boxed{\\frac{m}{m+M}}", RIGHT),
    ("R-r", "\\boxed{0}", WRONG),
    ("R-r", "\\boxed{-r+R}", RIGHT),
    ("\\frac{R^2-r^2}{2}", "\\boxed{0}", WRONG),
    ("\\frac{R^2-r^2}{2}", "\\boxed{\\frac{(R-r)(R+r)}{2}}", RIGHT),
    ("\\frac{R}{r}", "\\boxed{\\frac{r}{R}}", WRONG),
    ("\\sqrt{\\frac{2GM}{R}}", "\\boxed{\\sqrt{\\frac{2gm}{r}}}", WRONG),
    ("\\sqrt{\\frac{2GM}{R}}", "\\boxed{\\sqrt{2 G M/R}}", RIGHT),
    ("3R^2", "\\boxed{3r^2}", WRONG),
    ("\\theta", "\\boxed{\\Theta}", WRONG),
    ("x_A", "\\boxed{x_a}", WRONG),
    ("\\{R_1, R_2\\}", "\\boxed{\\{r_1, r_2\\}}", WRONG),
    ("R_1", "\\boxed{r_1}", WRONG),
    ("R_1", "\\boxed{R_{1}}", RIGHT),
    ("\\begin{pmatrix}X&y\\\\z&t\\end{pmatrix}", "\\boxed{\\begin{pmatrix}x&y\\\\z&t\\end{pmatrix}}", WRONG),
    ("AB", "\\boxed{ab}", WRONG),
    ("AB", "\\boxed{\\text{AB}}", RIGHT),
    ("2E", "\\boxed{2e}", WRONG),
    ("\\Gamma(5)", "\\boxed{24}", RIGHT),
    ("\\sin X", "\\boxed{\\sin x}", WRONG),
]

BASES_AND_PRIMES: _Rows = [
    ("101_2", "\\boxed{101_3}", WRONG),
    ("101_2", "\\boxed{101_{2}}", RIGHT),
    ("101_2", "\\boxed{101_{\\text{two}}}", RIGHT),
    ("2516_8", "\\boxed{2516_{16}}", WRONG),
    ("2516_8", "\\boxed{2516}", RIGHT),
    ("2516_8", "\\boxed{2517}", WRONG),
    ("5", "\\boxed{101_2}", UNDECIDED),
    ("2516", "\\boxed{2516_8}", RIGHT),
    ("\\log_2 8", "\\boxed{3}", RIGHT),
    ("f'(2)", "\\boxed{f(2)}", WRONG),
    ("f'(2)", "\\boxed{f^{\\prime}(2)}", RIGHT),
    ("f''(2)", "\\boxed{f'(2)}", WRONG),
    ("y'=2y", "\\boxed{y=2y}", WRONG),
    ("y'=2y", "\\boxed{y' = 2 y}", RIGHT),
]

LISTS: _Rows = [
    ("204", "\\boxed{204}\n\n\\boxed{204}", RIGHT),
    ("025", "\\boxed{25}\n\n\\boxed{25}", RIGHT),
    ("204", "\\boxed{204}\n\n\\boxed{ 204 }", RIGHT),
    ("204", "\\boxed{204}, \\boxed{205}", WRONG),
    ("2,3", "\\boxed{3}, \\boxed{2}, \\boxed{3}", RIGHT),
    ("135, 225", "\\boxed{225, 135}", RIGHT),
    ("135, 225", "\\boxed{135, 225}", RIGHT),
    ("135, 225", "\\boxed{135}, \\boxed{225}", RIGHT),
    ("135, 225", "\\boxed{135225}", WRONG),
    ("135, 225", "\\boxed{135, 226}", WRONG),
    ("$135, 225$", "\\boxed{135225}", WRONG),
    ("1234", "\\boxed{1}, \\boxed{234}", WRONG),
    ("40, 200", "\\boxed{40200}", WRONG),
    ("40, 200", "\\boxed{200, 40}", RIGHT),
    ("1,234", "\\boxed{1}, \\boxed{234}", UNDECIDED),
    ("135,225", "\\boxed{135225}", RIGHT),
    ("1234567", "\\boxed{1,234,567}", RIGHT),
    ("1234", "\\boxed{1,\\!234}", RIGHT),
    ("12345", "\\boxed{123,45}", WRONG),
    ("(2,1)", "\\boxed{(1,2)}", WRONG),
    ("(1,2),(3,4)", "\\boxed{(3,4), (1,2)}", RIGHT),
]

PROSE: _Rows = [
    ("5", "It's not 5", UNDECIDED),
    ("5", "It is 5.", RIGHT),
    ("5", "So that's 6", WRONG),
    ("5", "Neither 4 nor 5", UNDECIDED),
    ("5", "at least 5", UNDECIDED),
    ("5", "not 5", UNDECIDED),
    ("5", "The answer is not 5", UNDECIDED),
    ("5", "Answer: at least 5", UNDECIDED),
    ("3", "I cannot solve this problem. I tried x = 3 but it failed.", UNDECIDED),
    ("15", "It is between 10 and 15", UNDECIDED),
    ("4", "We compute 2+2 and", UNDECIDED),
    ("4", "First we have $x+y=10$.\n\nThen, with $y=6$, we get $x = 4$", UNDECIDED),
    ("540", "probably 540", UNDECIDED),
    ("12", "\\boxed{12\\text{ million}}", UNDECIDED),
    ("12", "\\boxed{12 million}", UNDECIDED),
    ("3", "\\boxed{3\\text{ hours } 20\\text{ minutes}}", UNDECIDED),
    ("12", "\\boxed{12 \\text{ or more}}", UNDECIDED),
    ("12", "\\boxed{\\text{at least } 12}", UNDECIDED),
    ("12", "\\boxed{12\\text{ dozen}}", UNDECIDED),
    ("12", "\\boxed{12\\text{ apples}}", RIGHT),
    ("12", "12 apples", RIGHT),
    ("12", "\\boxed{12\\text{ square units}}", RIGHT),
    ("12", "\\boxed{12\\text{ miles per hour}}", RIGHT),
    ("12", "\\boxed{12\\text{ cm}^2}", RIGHT),
    ("12", "Answer: $12 per day", RIGHT),
    ("5 m", "\\boxed{5}", UNDECIDED),
    ("2 t", "\\boxed{2 t}", RIGHT),
    ("2 \\pi a b", "\\boxed{2 \\pi}", WRONG),
    ("2 \\pi a b", "\\boxed{2 \\pi a B}", WRONG),
    ("\\frac12 g t", "\\boxed{\\frac12 g}", WRONG),
    ("5", "\\boxed{5\\text{ AU}}", RIGHT),
    ("62.5\\%", "\\boxed{0.625}", RIGHT),
    ("50\\%", "\\boxed{\\frac12}", RIGHT),
    ("50", "\\boxed{50\\%}", RIGHT),
    ("62.5\\%", "\\boxed{0.626}", WRONG),
    ("13", "\\boxed{12\\text{ apples}}", WRONG),
    ("540", "\\boxed{\\text{Final Answer: }540}", RIGHT),
    ("540", "\\boxed{\\text{Answer: 541}}", WRONG),
]

NOTATION: _Rows = [
    ("(-\\infty,2]", "\\boxed{x\\le 2}", RIGHT),
    ("(-\\infty,2]", "\\boxed{x< 2}", WRONG),
    ("x\\le 2", "\\boxed{(-\\infty,2]}", RIGHT),
    ("[-2,7]", "\\boxed{-2\\le x\\le 7}", RIGHT),
    ("[-2,7]", "\\boxed{-2\\le x< 7}", WRONG),
    ("[-2,7]", "\\boxed{x \\in [-2,7]}", RIGHT),
    ("x \\in [-2,7]", "\\boxed{[-2,7]}", RIGHT),
    ("x \\in [-2,7]", "\\boxed{-2\\le x\\le 7}", RIGHT),
    ("-2\\le x\\le 7", "\\boxed{x \\in [-2,7]}", RIGHT),
    ("-2\\le x\\le 7", "\\boxed{7\\ge x\\ge -2}", RIGHT),
    ("x>3", "\\boxed{y>3}", WRONG),
    ("x>3", "\\boxed{x \\in (3,\\infty)}", RIGHT),
    ("(-\\infty,-1)\\cup(3,\\infty)", "\\boxed{x<-1 \\text{ or } x>3}", RIGHT),
    ("x<-1 \\text{ or } x>3", "\\boxed{(-\\infty,-1)\\cup(3,\\infty)}", RIGHT),
    ("x<-1 \\text{ or } x>3", "\\boxed{x>3 \\text{ or } x<-1}", RIGHT),
    ("x<-1 \\text{ or } x>3", "\\boxed{x<-1 \\text{ or } x>4}", WRONG),
    ("x<-1 \\text{ or } x>3", "\\boxed{-1<x<3}", WRONG),
    ("2\\sqrt{3}", "2√3", RIGHT),
    ("2\\sqrt{3}", "2√5", WRONG),
    ("\\sqrt{x+1}", "√(x+1)", RIGHT),
    ("x^2", "x²", RIGHT),
    ("x^2", "x³", WRONG),
    ("x^{-12}", "x⁻¹²", RIGHT),
    ("\\infty", "∞", RIGHT),
    ("\\infty", "-∞", WRONG),
    ("2\\pi", "2π", RIGHT),
    ("12", "3×4", RIGHT),
    ("12", "24÷2", RIGHT),
    ("x\\le 2", "x≤2", RIGHT),
    ("x\\ge 2", "x≥2", RIGHT),
    ("x\\ge 2", "x≤2", WRONG),
    ("-2", "−2", RIGHT),
    ("0", "zero", RIGHT),
    ("10", "\\boxed{\\text{ten}}", RIGHT),
    ("8", "The answer is eight.", RIGHT),
    ("8", "The answer is nine.", WRONG),
    ("ten", "10", RIGHT),
    ("\\frac34", "3/4 (0.75)", RIGHT),
    ("\\frac34", "\\boxed{\\frac{3}{4} (0.75)}", RIGHT),
    ("\\frac34", "3/4 (0.76)", UNDECIDED),
    ("\\frac13", "1/3 (0.333)", RIGHT),
    ("\\frac13", "\\boxed{0.\\overline{3}}", RIGHT),
    ("0.\\overline{3}", "\\boxed{\\frac13}", RIGHT),
    ("\\frac{7}{30}", "\\boxed{0.2\\overline{3}}", RIGHT),
    ("\\frac{7}{30}", "\\boxed{0.2\\overline{4}}", WRONG),
    ("-\\frac12+\\frac{\\sqrt{3}}{2}i", "\\boxed{e^{2\\pi i/3}}", RIGHT),
    ("e^{2\\pi i/3}", "\\boxed{-\\frac12+\\frac{\\sqrt{3}}{2}i}", RIGHT),
    ("e^{2\\pi i/3}", "\\boxed{-\\frac12-\\frac{\\sqrt{3}}{2}i}", WRONG),
    ("2i", "\\boxed{2\\cdot i}", RIGHT),
    ("2i", "\\boxed{2\\cdot 1}", WRONG),
    ("-1+2i", "\\boxed{i^2+2i}", RIGHT),
    ("x_i", "\\boxed{x_{i}}", RIGHT),
    ("3i^3", "\\boxed{-3i}", RIGHT),
    ("a+bi", "\\boxed{a+b\\cdot i}", RIGHT),
    ("z=2+3i", "\\boxed{2+3i}", RIGHT),
    ("\\sum_{i=1}^{3} i", "\\boxed{6}", RIGHT),
    ("\\frac{1}{2}", "\\boxed{it is a half}", UNDECIDED),
]  # fmt: skip

SUITES = {
    "large and small": LARGE_AND_SMALL,
    "case": CASE,
    "bases and primes": BASES_AND_PRIMES,
    "lists": LISTS,
    "prose": PROSE,
    "notation": NOTATION,
}


def outcome(verdict: Verdict) -> str:
    return RIGHT if verdict.correct else WRONG if verdict.decided else UNDECIDED


@pytest.mark.parametrize("name", SUITES)
def test_what_is_right_what_is_wrong_and_what_is_left_to_a_model(name: str) -> None:
    mistaken = [
        f"{reference!r} <- {attempt!r}: must be {wanted}: {verdict}"
        for reference, attempt, wanted in SUITES[name]
        if outcome(verdict := grade(reference, attempt)) != wanted
    ]
    assert mistaken == []
