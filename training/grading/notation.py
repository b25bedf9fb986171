"""One notation on both sides for what a formula parser misreads: signs, thousands, bases, primes, `i`."""

from __future__ import annotations

import re
from fractions import Fraction

from training.grading import forms

_SIGNS = {
    "−": "-",
    "–": "-",
    "×": "\\times ",
    "÷": "\\div ",
    "·": "\\cdot ",
    "⋅": "\\cdot ",
    "∙": "\\cdot ",
    "≤": "\\le ",
    "⩽": "\\le ",
    "≥": "\\ge ",
    "⩾": "\\ge ",
    "≠": "\\ne ",
    "±": "\\pm ",
    "∞": "\\infty ",
    "π": "\\pi ",
    "∪": "\\cup ",
    "∩": "\\cap ",
    "∈": "\\in ",
    "½": "\\frac{1}{2}",
    "¼": "\\frac{1}{4}",
    "¾": "\\frac{3}{4}",
    "′": "'",
    "’": "'",
}
_SIGN = re.compile("|".join(map(re.escape, _SIGNS)))
_RAISED = str.maketrans("⁰¹²³⁴⁵⁶⁷⁸⁹⁺⁻", "0123456789+-")
_RAISED_RUN = re.compile("[⁰¹²³⁴⁵⁶⁷⁸⁹⁺⁻]+")
_ROOT = re.compile(r"√\s*(?:\((?P<sum>[^()]*)\)|(?P<one>\d+(?:\.\d+)?|[^\W\d_]|\{[^{}]*\}))")
_E_NOTATION = re.compile(r"(?<![\w.])(\d+(?:\.\d+)?)[eE]\+?(-?\d+)(?!\w)")
_ROW_GAP = re.compile(r"(?<=\\\\)\s*\[\s*-?[\d.]+\s*(?:pt|em|ex|mm|cm|in)\s*\]")
_COLOR = re.compile(r"\\(?:text)?color\s*\{[^{}]*\}")
_STYLED = re.compile(
    r"\\(?:boldsymbol|bm|mathbf|mathsf|mathtt|underline)\s*"
    r"\{(?P<content>(?:[^{}]|\{(?:[^{}]|\{[^{}]*\})*\})*)\}(?P<letter>(?=[a-zA-Z]))?"
)
_UPRIGHT = re.compile(
    r"(?P<before>(?<=[a-zA-Z]))?\\(?:mathrm|text|textrm)\s*\{\s*(?P<number>[ei])\s*\}(?P<after>(?=[a-zA-Z]))?"
)
_GROUPED = re.compile(r"(?:[^=]*=)?\s*-?(?P<digits>\d{1,3}(?:,\d{3})+(?:\.\d+)?)\s*")
_WRITTEN_MIXED = re.compile(r"(?P<before>(?:[^=]*=)?\s*-?)(\d+)(?:\s|\\[ ,;])+(\d+)\s*/\s*(\d+)\s*")
_SPACED_I = re.compile(r"(?<=\d) (?=i\b)")
_MIXED_NUMBER = re.compile(r"(?<![\w.\\}])(\d+)\s*\\frac\s*\{(\d+)\}\s*\{(\d+)\}")
_REPEATING = re.compile(r"(?<![\w.])(\d{0,30})\.(\d{0,30})\\(?:overline|bar|dot)\s*\{(\d{1,30})\}")
_BASE = re.compile(r"(?<=\d)_(?:\{\s*(\d+)\s*\}|(\d))")
_PRIME = r"(?:\^\s*(?:\{(?:\s*\\prime)+\s*\}|\\prime(?![a-zA-Z]))|'+)"
_PRIMED = re.compile(
    r"(?P<name>[a-zA-Z])(?:_(?:\{(?P<many>[^{}]*)\}|(?P<one>\w)))?\s*(?P<primes>" + _PRIME + ")"
)
_NOT_A_NUMBER_I = re.compile(
    r"\\(?:sum|prod|int|bigcup|bigcap)|\bi\s*=|\bi\s*\\in\b|\\(?:hat|vec|mathbf|bar|imath)|(?<![a-zA-Z\\])[jk](?![a-zA-Z])"
)
_NAME = re.compile(r"_\{[^{}]*\}|_\w|\\(?:text|mathrm|mbox|operatorname)\s*\{[^{}]*\}|\\[a-zA-Z]+|[a-zA-Z]+")
_WITH_I = re.compile(r"i|[abcdnqrstuvwyz]i|i[abcdnqrsuvwxyz]")
_WORDS_WITH_I = frozenset({"is", "ii"})


def unstyled(text: str) -> str:
    """Without what changes a formula's looks alone: bold, colours, gaps between rows, upright `e` and `i`.

    Bold letters stay bold, as they may be vectors.
    """
    text = _COLOR.sub("", _ROW_GAP.sub("", text)).replace("\\varnothing", "\\emptyset")
    text = _STYLED.sub(_content, text)
    return _UPRIGHT.sub(
        lambda found: (
            f"{' ' * (found['before'] is not None)}{found['number']}{' ' * (found['after'] is not None)}"
        ),
        text,
    )


def readable(text: str) -> str:
    """What math-verify would misread, in another form.

    `4.5e33` is a number, not 4.5 times Euler's number times 33; `4 \\frac{4}{9}` four and four ninths, not
    their product; `1\\,234` one number; `i` imaginary; `101_2` not 101; `f'` not `f`; `\\$` no delimiter;
    of `\\cos 2 \\approx -0.42` the value is the answer; `x = 1,234` names one number, and `1 1/2` is 3/2.
    """
    text = with_commands(unstyled(text))
    if len(about := forms.ABOUT.split(text)) == 2:
        text = about[1]
    text = forms.without_thousands(text.replace("\\$", ""))
    if grouped := _GROUPED.fullmatch(text):
        text = text[: grouped.start("digits")] + grouped["digits"].replace(",", "")
    text = _SPACED_I.sub("", _WRITTEN_MIXED.sub(r"\g<before>(\2+\\frac{\3}{\4})", text))
    text = _E_NOTATION.sub(r"\1 \\times 10^{\2}", text)
    text = _MIXED_NUMBER.sub(r"(\1+\\frac{\2}{\3})", forms.FRACTION.sub(r"\\frac", text))
    text = _REPEATING.sub(_as_fraction, text)
    return _PRIMED.sub(_renamed, _imaginary(_BASE.sub(r"\\varpi_{\1\2}", text)))


def with_commands(text: str) -> str:
    """`2√3`, `x²` and `x ≤ ∞` as LaTeX writes them."""
    text = _SIGN.sub(lambda sign: _SIGNS[sign[0]], text)
    text = _RAISED_RUN.sub(lambda run: f"^{{{run[0].translate(_RAISED)}}}", text)
    return _ROOT.sub(lambda root: f"\\sqrt{{{(root['sum'] or root['one']).strip('{}')}}}", text)


def _content(styled: re.Match[str]) -> str:
    content = styled["content"].strip()
    if re.fullmatch(r"[a-zA-Z]+", content):
        return f"\\mathbf{{{content}}}"
    return content + " " if styled["letter"] is not None and content[-1:].isalpha() else content


def _as_fraction(number: re.Match[str]) -> str:
    """`0.2\\overline{3}` as `7/30`."""
    whole, first, again = number[1] or "0", number[2], number[3]
    tail = Fraction(int(first + again) - int(first or "0"), 10 ** len(first) * (10 ** len(again) - 1))
    value = int(whole) + tail
    return f"\\frac{{{value.numerator}}}{{{value.denominator}}}"


def _renamed(found: re.Match[str]) -> str:
    """`f'` as a symbol of its own: math-verify drops the prime."""
    num_primes = max(found["primes"].count("'"), found["primes"].count("prime"))
    return f"{found['name']}_{{{found['many'] or found['one'] or ''}{'prime' * num_primes}}}"


def _imaginary(text: str) -> str:
    """`I` for an `i` that is a number, also beside another letter, and neither an index nor a vector."""
    if _NOT_A_NUMBER_I.search(text):
        return text

    def number(found: re.Match[str]) -> str:
        if not _WITH_I.fullmatch(found[0]) or found[0] in _WORDS_WITH_I:
            return found[0]
        # The parser would drop the power of a bare one.
        is_raised = text[found.end() :].lstrip().startswith("^")
        return found[0].replace("i", "(I)" if is_raised else "I")

    return _NAME.sub(number, text)
