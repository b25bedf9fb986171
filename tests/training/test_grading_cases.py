"""Adversarial answers: what a reference is, what a model says, and whether that is right.

One line each: reference, then attempts that are right, then attempts that are wrong.
"""

# ruff: noqa: E501 -- a reference's attempts stand side by side

from __future__ import annotations

from collections.abc import Iterator

import pytest

from training.grading.program import grade

_Cases = dict[str, tuple[list[str], list[str]]]

INTEGERS: _Cases = {
    "25": (
        [
            "25",
            "$25$",
            "\\boxed{25}",
            "25.",
            "25.0",
            "\\(25\\)",
            "\\[25\\]",
            "$$25$$",
            "**25**",
            "025",
            "+25",
            "x = 25",
        ],
        [
            "5",
            "2",
            "2 5",
            "255",
            "125",
            "-25",
            "25.5",
            "0.25",
            "25%25",
            "2.5",
            "twenty",
            "25, 5",
            "52",
            "25/5",
            "25!",
        ],
    ),
    "5": (
        [
            "5",
            "\\boxed{5}",
            "\\boxed{\\text{5}}",
            "\\boxed{ 5 }",
            "10/2",
            "\\sqrt{25}",
            "\\frac{10}{2}",
            "2+3",
        ],
        [
            "25",
            "15",
            "-5",
            "5i",
            "5x",
            "\\boxed{15}",
            "55",
            "0.5",
            "\\boxed{5}\\boxed{6}",
            "\\frac{5}{2}",
            "5^2",
        ],
    ),
    "0": (["0", "0.0", "\\boxed{0}", "1-1", "-0"], ["", "   ", "10", "\\boxed{}", "o", "none", "1"]),
    "-3": (["-3", "\\boxed{-3}", "−3", "$-3$", "- 3"], ["3", "--3", "-3.5", "-33", "x-3"]),
    "1234": (
        ["1234", "1,234", "$1,234$", "1{,}234", "\\boxed{1\\,234}", "1234.0"],
        ["1.234", "1, 234, 5", "12345", "234", "1,2,3,4"],
    ),
    "023": (["23", "023", "\\boxed{23}"], ["32", "230", "2", "0.23"]),
}

FRACTIONS: _Cases = {
    "\\frac{1}{2}": (
        [
            "1/2",
            "0.5",
            "\\frac{2}{4}",
            "\\dfrac{1}{2}",
            "\\tfrac12",
            "\\frac12",
            "\\boxed{\\frac{1}{2}}",
            ".5",
            "2^{-1}",
        ],
        ["\\frac{2}{1}", "1", "2", "12", "0.05", "\\frac{1}{3}", "-\\frac12", "1:2:3", "0.49"],
    ),
    "\\frac{14}{3}": (
        ["14/3", "4\\frac{2}{3}", "4 \\frac{2}{3}", "\\frac{28}{6}", "4+\\frac23"],
        ["14", "\\frac{3}{14}", "4.6", "\\frac{8}{3}", "4", "5"],
    ),
    "0.333": (["0.333", ".333", "\\boxed{0.333}"], ["0.3", "0.34", "333", "3.33", "0.3331"]),
    "2\\frac{1}{4}": (["2.25", "9/4", "2 \\frac14"], ["\\frac{2}{4}", "0.5", "2", "\\frac{1}{2}"]),
}

ROOTS_AND_POWERS: _Cases = {
    "2\\sqrt{3}": (
        [
            "2\\sqrt{3}",
            "2\\sqrt3",
            "\\sqrt{12}",
            "\\boxed{2\\sqrt{3}}",
            "2 \\cdot \\sqrt{3}",
            "\\frac{6}{\\sqrt{3}}",
        ],
        ["\\sqrt{6}", "2\\sqrt{2}", "\\sqrt[3]{2}", "3\\sqrt{2}", "23", "2"],
    ),
    "2^{10}": (["1024", "2^{10}", "4^5", "\\boxed{2^{10}}"], ["2^10 0", "210", "20", "2^{11}", "1023"]),
    "4.5e33": (
        ["4.5e33", "4.5 \\times 10^{33}", "45e32", "\\boxed{4.5\\times10^{33}}", "4.5\\cdot 10^{33}"],
        ["4.5e32", "4.5", "4.5 \\times 10^{-33}", "4.6e33", "33"],
    ),
    "3.2e-12": (
        ["3.2e-12", "3.2 \\times 10^{-12}", "0.32e-11"],
        ["3.2e-13", "0", "6.4e-12", "3.2e12", "3.2", "-3.2e-12"],
    ),
    "2\\times 10^{-33}": (
        ["2\\times 10^{-33}", "2e-33", "20 \\cdot 10^{-34}"],
        ["3\\times 10^{-33}", "2\\times 10^{-34}", "0", "2"],
    ),
    "$1-5051 / 2^{100}$": (["1-\\frac{5051}{2^{100}}"], ["1-5051/2^{101}", "1", "1-5052/2^{100}"]),
    "e^{2}": (["e^2", "e^{2}", "\\exp(2)"], ["2e", "e", "e^{-2}", "7"]),
    "\\frac{\\pi}{4}": (
        ["\\pi/4", "\\frac{1}{4}\\pi", "0.25\\pi"],
        ["\\pi", "45", "\\frac{\\pi}{2}", "\\frac{4}{\\pi}"],
    ),
    "3+4i": (["3+4i", "4i+3", "3 + 4 i"], ["3-4i", "4+3i", "5", "7i"]),
}

INTERVALS_AND_SETS: _Cases = {
    "$\\infty$": (["\\infty", "+\\infty", "\\boxed{\\infty}"], ["-\\infty", "0", "8"]),
    "(1,2)": (
        ["(1,2)", "(1, 2)", "\\left(1,2\\right)", "$(1,2)$", "\\boxed{(1,2)}", "(1,\\frac{4}{2})"],
        ["[1,2]", "(2,1)", "(1,3)", "1", "12", "(1,2]", "(1.2)"],
    ),
    "[0,\\infty)": (
        ["[0,\\infty)", "[0, \\infty)", "\\left[0,\\infty\\right)", "[0,+\\infty)"],
        ["(0,\\infty)", "(-\\infty,0]", "\\infty", "[1,\\infty)"],
    ),
    "(-\\infty,-1)\\cup(3,\\infty)": (
        [
            "(-\\infty,-1)\\cup(3,\\infty)",
            "(3,\\infty)\\cup(-\\infty,-1)",
            "(-\\infty, -1) \\cup (3, \\infty)",
        ],
        ["(-\\infty,-1]\\cup[3,\\infty)", "(-1,3)", "(-\\infty,-1)", "(3,\\infty)"],
    ),
    "\\{1,2,3\\}": (
        ["\\{1,2,3\\}", "\\{3,2,1\\}", "1,2,3", "\\boxed{\\{1, 2, 3\\}}", "\\left\\{1,2,3\\right\\}"],
        ["\\{1,2\\}", "\\{1,2,4\\}", "123", "3", "6", "\\{1,2,3,4\\}"],
    ),
    "2,3": (
        ["2,3", "2, 3", "3, 2", "2 and 3", "\\boxed{2}, \\boxed{3}", "\\boxed{2} and \\boxed{3}", "x=2, x=3"],
        ["2", "3", "5", "23", "2.3", "2,3,4", "\\boxed{2}\n\nor rather \\boxed{3}"],
    ),
    "\\pm 2": (["\\pm 2", "\\pm2", "-2, 2", "\\boxed{\\pm 2}"], ["2", "-2", "4", "\\pm 4"]),
    "x>3": (["x>3", "x > 3", "3<x", "\\boxed{x>3}"], ["x<3", "x\\ge 3", "x>4", "3"]),
    "-1\\le x<4": (["-1\\le x<4", "-1 \\leq x < 4", "[-1,4)"], ["-1<x<4", "(-1,4]", "-1\\le x\\le 4", "4"]),
    "(3,-1,2)": (["(3,-1,2)", "(3, -1, 2)"], ["(3,1,2)", "(-1,3,2)", "(3,-1)", "4"]),
}

EXPRESSIONS: _Cases = {
    "$10-4 n$": (["10-4n", "-4n+10", "2(5-2n)", "$10 - 4n$"], ["10+4n", "4n-10", "10-4m", "6n", "10"]),
    "(x+1)^2": (["x^2+2x+1", "(x+1)^2", "(1+x)(1+x)"], ["x^2+1", "(x-1)^2", "x+1", "(x+1)^3", "(y+1)^2"]),
    "y=2x+1": (["y=2x+1", "y = 1+2x", "\\boxed{y=2x+1}"], ["y=2x-1", "y=x+1", "y=2", "x=2y+1"]),
    "$\\cos (\\pi)=-1, \\sin (\\pi)=0$": (["\\cos(\\pi)=-1, \\sin(\\pi)=0"], ["\\cos(\\pi)=-1, \\sin(\\pi)=1", "-1"]),
    "$y=c_{1}\\begin{pmatrix}1\\\\2\\end{pmatrix}+c_{2}\\begin{pmatrix}3\\\\4\\end{pmatrix}$": (
        ["y=c_{1}\\begin{pmatrix}1\\\\2\\end{pmatrix}+c_{2}\\begin{pmatrix}3\\\\4\\end{pmatrix}"],
        ["y=c_{1}\\begin{pmatrix}1\\\\2\\end{pmatrix}+c_{3}\\begin{pmatrix}3\\\\4\\end{pmatrix}"],
    ),
    "$y=\\frac{c x^{2}}{1-c x} \\quad y=-x$": (["$y=\\frac{c x^{2}}{1-c x} \\quad y=-x$"], ["y=\\frac{c x^{2}}{2-c x} \\quad y=-x"]),
    "x^2+121=0": (["x^2+121=0", "x^2=-121"], ["x^2+121=1", "x^2+122=0"]),
    "$\\cos (-2.01) \\approx-0.425$": (["-0.425", "\\cos(-2.01)\\approx -0.425"], ["-0.426", "0.425", "\\cos(-2.01)\\approx -0.426"]),
    "x^2+50=0": (["x^2+50=0", "2x^2+100=0", "x^2=-50"], ["x^2+50=1", "x^2-50=0", "x^2+51=0", "0"]),
    "$I=-e^{-40 t}(2 \\cos 30 t-86 \\sin 30 t)$": (
        ["I=e^{-40t}(86\\sin 30t-2\\cos 30t)", "$I=-2 e^{-40 t}(\\cos 30 t-43 \\sin 30 t)$"],
        [
            "$I=-e^{-40 t}(2 \\cos 30 t-86 \\sin 31 t)$", "$I=-e^{-40 t}(2 \\cos 30 t-87 \\sin 30 t)$",
            "$I=-e^{-41 t}(2 \\cos 30 t-86 \\sin 30 t)$", "$I=e^{-40 t}(2 \\cos 30 t-86 \\sin 30 t)$",
        ],
    ),
    "y=x+e^{-400 x}": (["y=e^{-400x}+x", "2y=2x+2e^{-400x}"], ["y=x+2e^{-400 x}", "y=x+e^{-401 x}", "y=x"]),
    "v=9.8+1.5e^{-40 t}": (["v=9.8+\\frac{3}{2}e^{-40t}"], ["v=9.8+1.6e^{-40 t}", "v=9.8-1.5e^{-40t}", "v=9.8"]),
    "y=\\sqrt{x-5}": (["y=(x-5)^{1/2}"], ["y=\\sqrt{x-6}", "y=-\\sqrt{x-5}", "y=\\sqrt{x+5}"]),
    "\\ln(e^5)=5": (["\\ln(e^5)=5"], ["\\ln(e^5)=6", "1=1", "5"]),
    "\\sin^2 x": (["\\sin^2 x", "1-\\cos^2 x", "\\sin^2(x)"], ["\\sin x", "\\cos^2 x", "\\sin^2 y"]),
    "\\frac{x+2}{7}": (["(x+2)/7", "\\frac{x}{7}+\\frac{2}{7}"], ["x+2/7", "\\frac{x+2}{5}", "\\frac{7}{x+2}"]),
    "\\begin{pmatrix}1&2\\\\3&4\\end{pmatrix}": (
        ["\\begin{pmatrix}1&2\\\\3&4\\end{pmatrix}", "\\boxed{\\begin{pmatrix} 1 & 2 \\\\ 3 & 4 \\end{pmatrix}}"],
        ["\\begin{pmatrix}1&2\\\\4&3\\end{pmatrix}", "\\begin{pmatrix}1&3\\\\2&4\\end{pmatrix}", "10"],
    ),
}  # fmt: skip

UNITS: _Cases = {
    "5 miles": (
        ["5 miles", "5 mile", "5", "\\boxed{5\\text{ miles}}", "5\\,\\mathrm{mi}", "The answer is 5 miles."],
        ["6 miles", "5 km", "50 miles", "8 km", "miles"],
    ),
    "3.6 hours": (["3.6 hours", "3.6", "3.6 h", "\\boxed{3.6\\text{ hours}}"], ["3.6 minutes", "36 hours", "3 hours"]),
    "$6.5 \\mathrm{~cm}$": (["6.5 cm", "6.5", "6.5\\text{ cm}", "$6.5\\,\\text{cm}$"], ["6.5 m", "65 cm", "6 cm"]),
    "$10 \\mathrm{ft} x 18 \\mathrm{ft}$": (["$10 \\mathrm{ft} x 18 \\mathrm{ft}$", "10 ft x 18 ft"], ["10 ft x 19 ft", "10"]),
    "$13 \\mathrm{n}, 5 \\mathrm{~d}$": (["$13 \\mathrm{n}, 5 \\mathrm{~d}$"], ["$13 \\mathrm{n}, 6 \\mathrm{~d}$", "13"]),
    "$11.6 \\mathrm{lb} / \\mathrm{in}^{2}$": (
        ["11.6", "11.6 lb/in^2", "11.60 \\text{ lb}/\\text{in}^2"],
        ["11.6 lb/in^3", "11.7 lb/in^2", "11.6 lb"],
    ),
    "$0.5 \\mathrm{yd}^{2}$": (["0.5", "0.5 yd^2", "\\frac12"], ["0.5 yd^3", "0.5 yd", "5"]),
    "50\\%": (["50\\%", "50%", "\\boxed{50\\%}", "50 \\%"], ["5%", "500%", "0.05", "\\frac{1}{4}"]),
    "\\$12.50": (["\\$12.50", "12.50", "12.5", "$\\$12.50$", "12.50 dollars"], ["\\$12.05", "\\$125", "12", "12.50 cents"]),
    "$\\$ 3040$": (["Final Answer: $\\$ 3040$", "3040", "\\$3,040", "3040 dollars"], ["\\$ 3041", "304", "3040 cents"]),
    "$0.0072 \\mathrm{yd}^{3}$": (["0.0072"], ["$0.0072 \\mathrm{yd}^{4}$", "0.0072 yd", "0.0071"]),
    "90^\\circ": (["90^\\circ", "90", "90^{\\circ}", "90 degrees"], ["9^\\circ", "90 radians", "180^\\circ", "0"]),
}  # fmt: skip

WORDS: _Cases = {
    "no solution": (
        ["no solution", "No solution.", "\\text{No solution}", "\\boxed{\\text{no solution}}", "The answer is: no solution."],
        ["one solution", "0", "solution", "no", "", "all real numbers", "no solutions exist for x = 2"],
    ),
    "Yes": (["Yes", "yes", "\\text{Yes}", "**Yes**", "Final answer: yes"], ["No", "Yes and no", "", "1", "Y"]),
    "all real numbers": (["all real numbers", "All real numbers."], ["real", "all integers", "no real numbers"]),
    "\\text{even}": (["even", "\\text{even}", "Even."], ["odd", "neither", "\\text{odd}"]),
    "(\\text{even})": (["(even)"], ["odd"]),
    "The bulb goes 0.6 cm above, since that is its focus. (As said before.)": (
        ["Answer: The bulb goes 0.6 cm above, since that is its focus. (As said before.)"],
        ["Answer: The bulb goes 0.7 cm above, since that is its focus. (As said before.)", "0.6 cm"],
    ),
    "$2,365,200,000$ beats/lifetime": (["Answer: $2,365,200,000$ beats/lifetime"], ["Answer: $2,365,200,001$ beats/lifetime"]),
    "Monday": (["Monday", "\\boxed{\\text{Monday}}", "The answer is Monday."], ["Tuesday", "Mon", "Sunday"]),
}  # fmt: skip

PLACES: _Cases = {
    "42": (
        [
            "The answer is 42.",
            "So the final answer is \\boxed{42}.",
            "**Final Answer:** $42$",
            "Final Answer: 42",
            "Final Answer:\n42",
            "Final Answer:\n\n$$42$$",
            "Answer: 42. I hope this helps!",
            "The answer is 42 because 6 times 7 is 42, as 3 + 4 = 7.",
            "The answer is $42$, since $6\\cdot 7=42$.",
            "\\boxed{42}\n\nLet me know if you want the 3 other ways.",
            "\\boxed{41} is wrong, so \\boxed{42}",
            "Answer: 41. No, I erred.\nAnswer: 42",
            "The answer to question 3 is 42.",
            "\\fbox{42}",
            "\\boxed 42",
            "$\\boxed{\\boxed{42}}$",
            "ANSWER = 42",
            "<|im_start|>think\nIt is 41.\n<|im_start|>answer\n42<|im_end|>",
            "<think>\\boxed{41}</think>\nThe answer is \\boxed{42}",
            "The answer is 42!",
            "*Answer*: **42**",
            "\\boxed{x = 42}",
            "The answer is: \\(42\\).",
            "The answer is 42, not 24.",
        ],
        [
            "\\boxed{42} is wrong, so \\boxed{7}",
            "First 42, no: the answer is 43.",
            "Answer: 42. But it must be odd.\nAnswer: 43",
            "The answer is not known.",
            "I can't tell.",
            "\\boxed{42}, \\boxed{43}",
            "\\boxed{}",
            "\\boxed{4}2",
            "\\boxed{42",
            "The answer is",
            "Final Answer:",
            "<think>\\boxed{42}</think>\nI don't know.",
            "<|im_start|>think\n\\boxed{42}\n<|im_start|>answer\nNo idea.",
            "The question 42 has the answer 7",
            "42 apples and 3 pears: the answer is 45",
            "42 or 43",
            "4 2",
            "Either 41 or 43",
        ],
    ),
}

LETTERS: _Cases = {
    "C": (
        [
            "C",
            "(C)",
            "C.",
            "C)",
            "**C**",
            "\\boxed{C}",
            "\\boxed{\\text{C}}",
            "\\boxed{\\mathrm{(C)}}",
            "The answer is (C).",
            "The correct answer is C",
            "Answer: C",
            "Answer: c",
            "Final Answer: **C**",
            "Option C",
            "The correct option is C.",
            "C) a muon",
            "Answer: C: a muon",
            "a muon",
            "\\boxed{\\text{a muon}}",
            "Answer: (C) a muon",
            "A is wrong and B is wrong. The answer is C.",
            "I considered A. Still, I choose C",
            "Reasons.\n\nC",
            "Answer: B\n\nNo, that is wrong.\n\nAnswer: C",
            "C, because muons decay",
            "C, a muon",
            "C. A muon decays",
            "\\boxed{C}, \\boxed{C}",
            "Answer: C. B is a photon.",
        ],
        [
            "A",
            "D",
            "E",
            "",
            "none of them",
            "I can't tell",
            "A muon-like particle",
            "\\boxed{B}",
            "The answer is not C but D. Answer: D",
            "ABC",
            "C or D",
            "an electron",
            "CC",
            "Conservation decides",
            "(A)(C)",
            "Answer: C\n\nNo, that is wrong.\n\nAnswer: B",
            "\\boxed{C, A}",
            "\\boxed{C}, \\boxed{A}",
            "Answer: C, D",
            "The answer is C, D, or A.",
            "C, D and A",
            "C, D, and A are wrong, so B",
            "I choose C, A",
        ],
    ),
}
OPTIONS = ("an electron", "a photon", "a muon", "a pion")

SUITES = {
    "integers": INTEGERS,
    "fractions": FRACTIONS,
    "roots and powers": ROOTS_AND_POWERS,
    "intervals and sets": INTERVALS_AND_SETS,
    "expressions": EXPRESSIONS,
    "units": UNITS,
    "words": WORDS,
    "places": PLACES,
}


def cases(suite: _Cases) -> Iterator[tuple[str, str, bool]]:
    for reference, (right, wrong) in suite.items():
        yield from ((reference, attempt, True) for attempt in right)
        yield from ((reference, attempt, False) for attempt in wrong)


@pytest.mark.parametrize("name", SUITES)
def test_what_is_right_and_what_is_wrong(name: str) -> None:
    mistaken = [
        f"{reference!r} <- {attempt!r}: {verdict}"
        for reference, attempt, correct in cases(SUITES[name])
        if (verdict := grade(reference, attempt)).correct is not correct
    ]
    assert mistaken == []


def test_choice_letters() -> None:
    mistaken = [
        f"{reference!r} <- {attempt!r}: {verdict}"
        for reference, attempt, correct in cases(LETTERS)
        if (verdict := grade(reference, attempt, "choice", OPTIONS)).correct is not correct
    ]
    assert mistaken == []


def test_there_are_at_least_300_cases_and_none_twice() -> None:
    every = [case for suite in (*SUITES.values(), LETTERS) for case in cases(suite)]
    assert len(every) == len(set(every)) >= 300
