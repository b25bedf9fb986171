"""One answer in the spellings that models use: units, headings, decimals beside exact values, references of
multiple choice, and looks. Beside each what looks the same and is another answer.
"""

from __future__ import annotations

import pytest

from tests.training.test_grading_pairs import RIGHT, UNDECIDED, WRONG, outcome
from training.grading.program import grade, is_checkable

_Rows = list[tuple[str, str, str]]

UNITS_AFTER_FORMULAS: _Rows = [
    ("24\\pi", "\\boxed{24\\pi \\text{ cm}^3}", RIGHT),
    ("24\\pi", "\\boxed{23\\pi \\text{ cm}^3}", WRONG),
    ("24", "\\boxed{24\\pi \\text{ cm}^3}", WRONG),
    ("24\\pi", "\\boxed{24 \\text{ cm}^3}", WRONG),
    ("9\\pi", "\\boxed{9\\pi\\,\\text{cm}^2}", RIGHT),
    ("9\\pi", "\\boxed{3\\pi\\,\\text{cm}^2}", WRONG),
    ("\\sqrt{2}", "\\boxed{\\sqrt{2}\\,\\text{m}}", RIGHT),
    ("\\sqrt{2}", "\\boxed{-\\sqrt{2}\\,\\text{m}}", WRONG),
    ("\\sqrt{2}", "\\boxed{\\sqrt{2}m}", UNDECIDED),
    ("\\sqrt{2}", "\\boxed{\\sqrt{2}x}", WRONG),
    ("25\\sqrt{3}", "\\boxed{25\\sqrt{3}\\ \\text{m}}", RIGHT),
    ("25\\sqrt{3}", "\\boxed{25\\sqrt{3}\\text{ meters}}", RIGHT),
    ("25\\sqrt{3}", "\\boxed{25\\sqrt{3}\\text{ units}}", RIGHT),
    ("25\\sqrt{3}", "\\boxed{25\\sqrt{3}\\text{ million}}", UNDECIDED),
    ("25\\sqrt{3}", "\\boxed{25\\sqrt{2}\\text{ units}}", WRONG),
    ("25\\sqrt{3}", "The answer is $25\\sqrt{3}$ square units.", RIGHT),
    ("25\\sqrt{3}", "The answer is $25\\sqrt{5}$ square units.", WRONG),
    ("25\\sqrt{3}", "The answer is $25\\sqrt{3}$ million units.", UNDECIDED),
    ("3+\\sqrt{2}", "\\boxed{3+\\sqrt{2}\\ \\text{cm}}", RIGHT),
    ("3+\\sqrt{2}", "\\boxed{3-\\sqrt{2}\\ \\text{cm}}", WRONG),
    ("7.02e5", "\\boxed{7.02 \\times 10^5 \\, \\mathrm{K}}", RIGHT),
    ("7.02e5", "\\boxed{7.02 \\times 10^6 \\, \\mathrm{K}}", WRONG),
    ("1.6e-19", "\\boxed{1.6 \\times 10^{-19}\\,\\text{C}}", RIGHT),
    ("1.6e-19", "\\boxed{1.6 \\times 10^{19}\\,\\text{C}}", WRONG),
    ("20", "\\boxed{20^\\circ\\mathrm{C}}", RIGHT),
    ("20", "\\boxed{21^\\circ\\mathrm{C}}", WRONG),
    ("20^\\circ\\mathrm{C}", "\\boxed{20}", RIGHT),
    ("20^\\circ\\mathrm{C}", "\\boxed{20^{\\circ} \\text{F}}", UNDECIDED),
    ("9.8", "\\boxed{9.8\\;\\mathrm{m}\\,\\mathrm{s}^{-2}}", RIGHT),
    ("9.8", "\\boxed{9.8\\,\\mathrm{m\\,s^{-2}}}", RIGHT),
    ("9.8", "\\boxed{-9.8\\;\\mathrm{m}\\,\\mathrm{s}^{-2}}", WRONG),
    ("9.8 \\mathrm{~m} / \\mathrm{s}^{2}", "\\boxed{9.8\\;\\mathrm{m}\\,\\mathrm{s}^{-2}}", RIGHT),
    ("9.8 \\mathrm{~m} / \\mathrm{s}^{2}", "\\boxed{9.8\\;\\mathrm{m}\\,\\mathrm{s}^{-1}}", UNDECIDED),
    ("9.8 \\mathrm{~m} / \\mathrm{s}^{2}", "\\boxed{9.8\\;\\mathrm{km}\\,\\mathrm{s}^{-2}}", UNDECIDED),
    ("\\frac{15}{2}", "\\boxed{\\frac{15}{2}\\text{ people}}", RIGHT),
    ("\\frac{15}{2}", "\\boxed{\\frac{15}{2}\\text{ dozen}}", UNDECIDED),
    ("\\frac{15}{2}", "\\boxed{\\frac{2}{15}\\text{ people}}", WRONG),
    ("24\\pi", "\\boxed{24\\pi\\text{ feet}}", RIGHT),
    ("4.5e33", "\\boxed{4.5\\times10^{33}\\ \\mathrm{erg/s}}", RIGHT),
    ("4.5e33", "\\boxed{4.5\\times10^{32}\\ \\mathrm{erg/s}}", WRONG),
    ("6.02e23", "\\boxed{6.02\\times10^{23}\\ \\text{mol}^{-1}}", RIGHT),
    ("\\frac{1}{2}", "\\boxed{\\frac{1}{2} mgh}", UNDECIDED),
    ("\\frac{1}{2}", "\\boxed{\\frac{1}{2} ab}", WRONG),
    ("3", "\\boxed{3\\mathrm{x}}", WRONG),
    ("3x", "\\boxed{3\\mathrm{x}}", RIGHT),
    ("2\\pi m", "\\boxed{2\\pi\\,\\mathrm{m}}", RIGHT),
    ("5", "\\boxed{5 \\text{ squared}}", UNDECIDED),
    ("5", "\\boxed{5 \\text{ or } 6 \\text{ cm}}", WRONG),
]

UPRIGHT_NUMBERS: _Rows = [
    ("7", "\\boxed{5+2\\mathrm{i}}", WRONG),
    ("5+2i", "\\boxed{5+2\\mathrm{i}}", RIGHT),
    ("5+2i", "\\boxed{5-2\\mathrm{i}}", WRONG),
    ("5+2i", "\\boxed{5+2}", WRONG),
    ("5+2\\mathrm{i}", "\\boxed{5+2i}", RIGHT),
    ("5+2\\mathrm{i}", "\\boxed{7}", WRONG),
    ("3", "\\boxed{3\\mathrm{i}}", WRONG),
    ("3", "\\boxed{3\\text{i}}", WRONG),
    ("5", "\\boxed{5\\mathrm{e}}", WRONG),
    ("e^{2}", "\\boxed{\\mathrm{e}^2}", RIGHT),
    ("e^{2}", "\\boxed{\\mathrm{e}^3}", WRONG),
    ("\\pi i", "\\boxed{\\pi\\mathrm{i}}", RIGHT),
    ("\\pi", "\\boxed{\\pi\\mathrm{i}}", WRONG),
    ("e^{2x}", "\\boxed{\\mathrm{e}^{2x}}", RIGHT),
]

HEADINGS: _Rows = [
    ("110", "### Final Answer\n\n$110$", RIGHT),
    ("110", "We add 55 and 55.\n\n### Final Answer\n\n$110$\n", RIGHT),
    ("110", "### Final Answer\n\n$111$", WRONG),
    ("6", "**Final Answer**\n\n6", RIGHT),
    ("6", "**Final Answer**\n\n6.", RIGHT),
    ("6", "**Final Answer**\n\n-6", WRONG),
    ("6", "**Final Answer**\n\nnot 6", UNDECIDED),
    ("6", "**Final Answer**\n\n6 or 7", WRONG),
    ("18", "**Answer**\n18", RIGHT),
    ("18", "## Answer\n$18$", RIGHT),
    ("18", "## The Final Answer\n\n18 apples\n\nThis is 2 more than 16.", RIGHT),
    ("18", "Step 1\n18\n\n## Answer\n$19$", WRONG),
    ("18", "**Final Answer**\n\n$\\boxed{18}$", RIGHT),
    ("18", "**Final Answer**", UNDECIDED),
    ("18", "Therefore $x = 18$.", RIGHT),
    ("18", "Thus, $x = 18$.", RIGHT),
    ("18", "Therefore $x = 19$.", WRONG),
    ("18", "Therefore $x \\ne 18$.", WRONG),
    ("18", "Therefore not 18.", UNDECIDED),
    ("18", "Therefore $x$ is at least 18.", UNDECIDED),
]

EXACT_AND_DECIMAL: _Rows = [
    ("\\frac{1}{3}", "\\boxed{\\frac{1}{3} \\approx 0.333}", RIGHT),
    ("\\frac{1}{3}", "\\boxed{x = \\frac{1}{3} \\approx 0.333}", RIGHT),
    ("\\frac{1}{3}", "\\boxed{\\frac{1}{3} \\approx 0.433}", UNDECIDED),
    ("\\frac{1}{3}", "\\boxed{\\frac{2}{3} \\approx 0.667}", WRONG),
    ("\\frac{1}{3}", "\\boxed{\\frac{2}{3} \\approx 0.333}", UNDECIDED),
    ("0.333", "\\boxed{\\frac{1}{3} \\approx 0.333}", RIGHT),
    ("0.333", "\\boxed{\\frac{1}{3} \\approx 0.334}", WRONG),
    ("\\sqrt{2}", "\\boxed{\\sqrt{2}\\approx1.414}", RIGHT),
    ("\\sqrt{2}", "\\boxed{\\sqrt{2} (\\approx 1.41)}", RIGHT),
    ("\\sqrt{2}", "\\boxed{\\sqrt{3}\\approx1.732}", WRONG),
    ("1.41", "\\boxed{\\sqrt{2} (\\approx 1.41)}", RIGHT),
    ("2\\pi", "\\boxed{2\\pi \\approx 6.28}", RIGHT),
    ("2\\pi", "\\boxed{3\\pi \\approx 9.42}", WRONG),
    ("2", "\\boxed{2\\pi \\approx 6.28}", WRONG),
    ("24\\pi", "\\boxed{24\\pi\\text{ cm}^2 \\approx 75.4\\text{ cm}^2}", RIGHT),
    ("24\\pi", "\\boxed{24\\pi \\approx 75.4\\text{ cm}^2}", RIGHT),
    ("\\ln 2", "\\boxed{\\ln 2 \\approx 0.693}", RIGHT),
    ("\\ln 2", "\\boxed{\\ln 3 \\approx 1.099}", WRONG),
    ("e^2", "\\boxed{e^2 \\approx 7.389}", RIGHT),
    ("0.52", "\\boxed{\\sin 31^\\circ \\approx 0.52}", RIGHT),
    ("0.52", "\\boxed{\\sin 31^\\circ \\approx 0.51}", WRONG),
    ("0.13", "\\boxed{k \\approx 0.13}", RIGHT),
    ("0.13", "\\boxed{k \\approx 0.14}", WRONG),
    ("k \\approx 0.13", "\\boxed{k \\approx 0.14}", WRONG),
    ("k \\approx 0.13", "\\boxed{\\frac{1}{8} \\approx 0.13}", RIGHT),
]

MATH_REFERENCES: _Rows = [
    ("\\text{(C)}", "\\boxed{C}", RIGHT),
    ("\\text{(C)}", "\\boxed{\\text{C}}", RIGHT),
    ("\\text{(C)}", "\\boxed{\\text{(C)}}", RIGHT),
    ("\\text{(C)}", "\\boxed{B}", WRONG),
    ("\\text{(C)}", "\\boxed{B, C}", UNDECIDED),
    ("\\text{(C)}", "\\boxed{3}", UNDECIDED),
    ("\\mathrm{(B)}", "B", RIGHT),
    ("\\mathrm{(B)}", "D", WRONG),
    ("\\$32,\\!348", "\\boxed{32,348 \\text{ dollars}}", RIGHT),
    ("\\$32,\\!348", "\\boxed{\\$32,348}", RIGHT),
    ("\\$32,\\!348", "\\boxed{32348}", RIGHT),
    ("\\$32,\\!348", "\\boxed{32,349 \\text{ dollars}}", WRONG),
    ("\\$32,\\!348", "\\boxed{32,348 \\text{ cents}}", UNDECIDED),
    ("\\$32,\\!348", "\\boxed{348, 32}", WRONG),
    ("11,\\! 111,\\! 111,\\! 100", "\\boxed{11,111,111,100}", RIGHT),
    ("11,\\! 111,\\! 111,\\! 100", "\\boxed{11111111100}", RIGHT),
    ("11,\\! 111,\\! 111,\\! 100", "\\boxed{11,111,111,101}", WRONG),
    ("15\\mbox{ cm}^2", "\\boxed{15 \\text{ square centimeters}}", RIGHT),
    ("15\\mbox{ cm}^2", "\\boxed{15 \\text{ cubic centimeters}}", UNDECIDED),
    ("15\\mbox{ cm}^2", "\\boxed{15 \\text{ centimeters}}", UNDECIDED),
    ("15\\mbox{ cm}^2", "\\boxed{16 \\text{ square centimeters}}", WRONG),
    ("15\\mbox{ cm}^2", "\\boxed{15}", RIGHT),
    ("864 \\mbox{ inches}^2", "\\boxed{864 \\text{ square inches}}", RIGHT),
    ("864 \\mbox{ inches}^2", "\\boxed{864 \\text{ sq in}}", RIGHT),
    ("864 \\mbox{ inches}^2", "\\boxed{864 \\text{ square feet}}", UNDECIDED),
    ("8\\sqrt{3} \\text{ cm}", "\\boxed{8\\sqrt{3}}", RIGHT),
    ("8\\sqrt{3} \\text{ cm}", "\\boxed{8\\sqrt3\\text{ cm}}", RIGHT),
    ("8\\sqrt{3} \\text{ cm}", "\\boxed{8\\sqrt{3}\\text{ m}}", UNDECIDED),
    ("8\\sqrt{3} \\text{ cm}", "\\boxed{8\\sqrt{3}\\text{ cm}^2}", UNDECIDED),
    ("8\\sqrt{3} \\text{ cm}", "\\boxed{8\\sqrt{2}\\text{ cm}}", WRONG),
    ("8\\sqrt{3} \\text{ cm}", "\\boxed{8}", WRONG),
    ("80 \\pi \\mathrm{mi} / \\mathrm{min}", "\\boxed{80\\pi}", RIGHT),
    ("80 \\pi \\mathrm{mi} / \\mathrm{min}", "\\boxed{80}", WRONG),
    ("80 \\pi \\mathrm{mi} / \\mathrm{min}", "\\boxed{80\\pi\\text{ miles per minute}}", RIGHT),
    ("80 \\pi \\mathrm{mi} / \\mathrm{min}", "\\boxed{80\\pi\\text{ miles per hour}}", UNDECIDED),
    ("2450 \\pi \\mathrm{N}-\\mathrm{m}", "\\boxed{2450\\pi\\ \\text{N}\\cdot\\text{m}}", RIGHT),
    ("2450 \\pi \\mathrm{N}-\\mathrm{m}", "\\boxed{2450\\pi}", RIGHT),
    ("30 \\mathrm{mph}, 40 \\mathrm{mph}", "\\boxed{40}", UNDECIDED),
    ("15 \\mathrm{n}, 20 \\mathrm{~d}", "\\boxed{15}", UNDECIDED),
]

_MATRIX = "\\begin{pmatrix}-1/3\\\\2/3\\\\5/3\\end{pmatrix}"
LOOKS: _Rows = [
    (_MATRIX, "\\boxed{\\begin{pmatrix}-\\dfrac13\\\\[4pt]\\dfrac23\\\\[4pt]\\dfrac53\\end{pmatrix}}", RIGHT),
    (_MATRIX, "\\boxed{\\begin{pmatrix}\\dfrac13\\\\[4pt]\\dfrac23\\\\[4pt]\\dfrac53\\end{pmatrix}}", WRONG),
    (_MATRIX, "\\boxed{\\begin{pmatrix}-\\dfrac13\\\\[4pt]\\dfrac53\\\\[4pt]\\dfrac23\\end{pmatrix}}", WRONG),
    ("6", "\\boxed{\\boldsymbol{6}}", RIGHT),
    ("6", "\\boxed{\\bm{6}}", RIGHT),
    ("6", "\\boxed{\\mathsf{6}}", RIGHT),
    ("6", "\\boxed{\\mathtt{6}}", RIGHT),
    ("6", "\\boxed{\\underline{6}}", RIGHT),
    ("6", "\\boxed{\\color{blue}{6}}", RIGHT),
    ("6", "\\boxed{\\textcolor{blue}{6}}", RIGHT),
    ("6", "\\boxed{\\boldsymbol{7}}", WRONG),
    ("6", "\\boxed{\\boldsymbol{6}0}", WRONG),
    ("\\frac{1}{\\sqrt{2}}", "\\boxed{\\boldsymbol{\\frac{1}{\\sqrt{2}}}}", RIGHT),
    ("\\frac{1}{\\sqrt{2}}", "\\boxed{\\boldsymbol{\\frac{2}{\\sqrt{2}}}}", WRONG),
    ("2\\pi r", "\\boxed{2\\boldsymbol{\\pi}r}", RIGHT),
    ("\\emptyset", "\\boxed{\\varnothing}", RIGHT),
    ("\\varnothing", "\\boxed{\\emptyset}", RIGHT),
    ("\\emptyset", "\\boxed{0}", WRONG),
    ("3\\mathbf{i}+4\\mathbf{j}", "\\boxed{3\\mathbf{i}+4\\mathbf{j}}", RIGHT),
    ("3\\mathbf{i}+4\\mathbf{j}", "\\boxed{3\\boldsymbol{i}+4\\boldsymbol{j}}", RIGHT),
]

NUMBERS_AND_POINTS: _Rows = [
    ("12.5\\%", "\\boxed{12.5}", RIGHT),
    ("12.5", "\\boxed{12.5\\%}", RIGHT),
    ("12.5\\%", "\\boxed{12.5\\%}", RIGHT),
    ("12.5\\%", "\\boxed{0.125}", RIGHT),
    ("12.5\\%", "\\boxed{12.5 \\text{ percent}}", RIGHT),
    ("12.5\\%", "\\boxed{1.25}", WRONG),
    ("12.5\\%", "\\boxed{0.125\\%}", WRONG),
    ("50\\%", "\\boxed{0.5\\%}", WRONG),
    ("0.5\\%", "\\boxed{50}", WRONG),
    ("12.5", "\\boxed{0.125}", WRONG),
    ("1234", "\\boxed{N = 1,234}", RIGHT),
    ("1234.5", "\\boxed{N = 1,234.5}", RIGHT),
    ("1234", "\\boxed{N = 1,235}", WRONG),
    ("1234", "\\boxed{N = 1, 234}", WRONG),
    ("234", "\\boxed{N = 1,234}", WRONG),
    ("1.5", "\\boxed{1 1/2}", RIGHT),
    ("-1.5", "\\boxed{-1 1/2}", RIGHT),
    ("1", "\\boxed{1 1/2}", WRONG),
    ("5.5", "\\boxed{1 1/2}", WRONG),
    ("1.5", "\\boxed{1 2/2}", WRONG),
    ("(1,2)", "\\boxed{x=1, y=2}", RIGHT),
    ("(1,2)", "\\boxed{y=1, x=2}", UNDECIDED),
    ("(1,2)", "\\boxed{y=2, x=1}", UNDECIDED),
    ("(1,2)", "\\boxed{x=2, y=1}", WRONG),
    ("(1,2)", "\\boxed{(2,1)}", WRONG),
    ("(1,2)", "\\boxed{\\{3,4\\}}", WRONG),
    ("(1,2)", "\\boxed{\\{1,2\\}}", UNDECIDED),
    ("\\{2,1\\}", "\\boxed{(1,2)}", UNDECIDED),
    ("\\{2,1\\}", "\\boxed{\\{1,2\\}}", RIGHT),
    ("\\{2,1\\}", "\\boxed{1,2}", RIGHT),
]  # fmt: skip

SUITES = {
    "units after formulas": UNITS_AFTER_FORMULAS,
    "upright numbers": UPRIGHT_NUMBERS,
    "headings": HEADINGS,
    "exact and decimal": EXACT_AND_DECIMAL,
    "MATH's references": MATH_REFERENCES,
    "looks": LOOKS,
    "numbers and points": NUMBERS_AND_POINTS,
}


@pytest.mark.parametrize(
    ("reference", "attempt", "wanted"),
    [pytest.param(*row, id=f"{name}-{at}") for name, rows in SUITES.items() for at, row in enumerate(rows)],
)
def test_another_spelling_is_right_and_another_answer_is_not(
    reference: str, attempt: str, wanted: str
) -> None:
    verdict = grade(reference, attempt)
    assert outcome(verdict) == wanted, verdict


@pytest.mark.parametrize("reference", ["\\text{(C)}", "8\\sqrt{3} \\text{ cm}", "12.5\\%", "\\$32,\\!348"])
def test_such_references_can_be_compared(reference: str) -> None:
    assert is_checkable(reference)
