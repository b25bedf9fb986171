"""When two answers are one: every answer has a key, and answers of equal meaning have the same. Pure.

A key of one's own instead of a computer algebra system, because votes need a relation that is transitive, an
answer is whatever a model wrote (so comparing must take bounded time), and the gateway stays light.

Alike are: numbers in any form (`0.5`, `1/2`, `\\frac12`, `50\\%`; `1,000`, `1000.0`, `10^3`), formulas of
equal value (`2x+2`, `2(x+1)`), what an equation with one letter on its left says on its right (`x = 5`, `5`),
sets and lists without brackets in any order, points and intervals in theirs, a number with and without a unit
(`3 cm`, `3\\text{ cm}`, `3`; units are not converted), choices (`(B)`, `B.`, `b`), and texts up to letter
case, white space and outer punctuation.
"""

from __future__ import annotations

import re
import unicodedata

from server.gateway.parallel.formula import NotAFormula, value_key

Key = tuple[str, ...]

MAX_FORMULA_CHARACTERS = 300
_MAX_NESTING = 4
_SPACING = re.compile(
    r"\\(?:[,;:!> ]|(?:quad|qquad|left|right|displaystyle|limits|big|Big)(?![a-zA-Z]))|[~$]|\\[()\[\]]"
)
_UNIT_TEXT = re.compile(
    r"(?<=[\d})])\s*\\(?:text|mathrm|textrm|mbox|operatorname)\s*\{[^{}]*\}(?:\^\{?\d\}?)?"
)
_TEXT = re.compile(r"\\(?:text|textbf|textit|mathrm|mathbf|textrm|mbox|operatorname)\s*\{([^{}]*)\}")
_FRACTION = re.compile(r"\\[dt]?frac\s*(?:\{([^{}]*)\}|(\w))\s*(?:\{([^{}]*)\}|(\w))")
_MIXED = re.compile(r"(?<![\w.])(\d+)\s*\\[dt]?frac\s*(?:\{(\d+)\}|(\d))\s*(?:\{(\d+)\}|(\d))")
_MIXED_PLAIN = re.compile(r"(?<![\w./])(\d+)\s+(\d+)\s*/\s*(\d+)(?![\w.])")
_ROOT = re.compile(r"\\?sqrt\s*(?:\{([^{}]*)\}|(\w))")
_GROUPED = re.compile(r"(?<![\d.,])\d{1,3}(?:,\d{3})+(?![\d,])")
_GROUPED_THIN = re.compile(r"(?<=\d)(?:\\,|\\ |\{,\})(?=\d{3}(?!\d))")
_SCIENTIFIC = re.compile(r"(?<![\w.])(\d+(?:\.\d+)?)[eE]([-+]?\d{1,3})(?!\w)")
_PERCENT = re.compile(r"^(-?[\d.]+)\s*\\?(?:%|percent)$")
_PLAIN_UNIT = re.compile(
    r"^(.*[\d)])\s+(?!and\b|or\b|to\b|pi\b)[^\W\d_]{2,}(?:\s+[^\W\d_]+){0,2}(?:\^\{?\d\}?)?$"
)
_DEGREES = re.compile(r"\^\s*\{?\s*(?:\\circ|°)\s*\}?|°|\\degree")
_NAMED = re.compile(r"^([A-Za-z](?:\([A-Za-z]\))?)\s*=\s*([^=]+)$")
_OR = re.compile(r"\s+(?:or|and)\s+")
# Nothing that could be an operator: -x, x! and |x| are no choices.
_AROUND_CHOICE = r"""[\s()\[\]{}⟨⟩【】「」.:,。、*$`"'“”‘’«»]*"""
_CHOICE = re.compile(f"{_AROUND_CHOICE}([A-Za-z]){_AROUND_CHOICE}")
_WORDS = re.compile(r"[^\W\d_]{2,}")
# After a lone letter, a number or a bracket, an exclamation mark is a factorial.
_EXCLAIMED = re.compile(r"""(?<=[^\W\d_]{2})[ .,;:!?"'*`$]+$""")
_FORMULA_WORDS = frozenset(
    {"sqrt", "sin", "cos", "tan", "ln", "log", "exp", "pi", "inf", "theta", "alpha", "beta"}
)
_SIGNS = {
    "\\cdot": "*", "\\times": "*", "\\div": "/", "×": "*", "·": "*", "÷": "/", "−": "-", "–": "-",
    "\\infty": " inf ", "∞": " inf ", "\\pi": " pi ", "π": " pi ", "\\cup": "∪", "\\{": "⟨", "\\}": "⟩",
    "\\lbrace": "⟨", "\\rbrace": "⟩", "\\pm": "±", "\\%": "%", "\\theta": " theta ", "\\alpha": " alpha ",
    "\\beta": " beta ", "\\sin": " sin ", "\\cos": " cos ", "\\tan": " tan ", "\\ln": " ln ",
    "\\log": " log ", "√": "\\sqrt ", "\\lvert": "|", "\\rvert": "|",
}  # fmt: skip
_COMMAND_ENDS = "(?![a-zA-Z])"
_SIGN = re.compile(
    "|".join(re.escape(sign) + (_COMMAND_ENDS if sign[1:].isalpha() else "") for sign in _SIGNS)
)
_PAIRS = {"(": ")", "[": "]", "⟨": "⟩"}


def answer_key(answer: str) -> Key:
    """Equal for answers that mean the same."""
    text = unicodedata.normalize("NFKC", answer.replace("½", "1/2")).strip().rstrip(".").strip()
    if len(text) <= MAX_FORMULA_CHARACTERS:
        plain = _unnamed([_plain(text)])[0]
        if choice := _CHOICE.fullmatch(plain):
            return ("text", choice[1].casefold())
        try:
            return _key(plain, _MAX_NESTING)
        except NotAFormula:
            pass
    return ("text", _as_text(text))


def _plain(text: str) -> str:
    """LaTeX as one line of ordinary signs."""
    text = _GROUPED_THIN.sub("", text.replace("\\$", " "))
    text = _UNIT_TEXT.sub("", _SPACING.sub(" ", text))
    text = _DEGREES.sub("", _TEXT.sub(r" \1 ", text))
    text = _SIGN.sub(lambda match: _SIGNS[match[0]], text)
    text = _MIXED.sub(lambda m: f"({m[1]}+{m[2] or m[3]}/{m[4] or m[5]})", text)
    text = _MIXED_PLAIN.sub(r"(\1+\2/\3)", text)
    # From the inside out, as often as they may be nested.
    for _ in range(_MAX_NESTING):
        text = _FRACTION.sub(lambda m: f"(({m[1] or m[2]})/({m[3] or m[4]}))", text)
        text = _ROOT.sub(lambda m: f" sqrt({m[1] or m[2]})", text)
        text = re.sub(r"\^\{([^{}]*)\}", r"^(\1)", text)
    text = _GROUPED.sub(lambda m: m[0].replace(",", ""), text)
    return _SCIENTIFIC.sub(r"(\1*10^(\2))", text).strip()


def _key(text: str, nesting: int) -> Key:
    if not nesting:
        raise NotAFormula("lists in lists in lists")
    parts = _split(text, "∪")
    if len(parts) > 1:
        return ("union", *sorted(repr(_key(part, nesting - 1)) for part in parts))
    opened = text[:1]
    if opened in _PAIRS and _closes_last(text):
        members = _split(text[1:-1], ",")
        if opened == "⟨":
            return _unordered(members, nesting)
        if len(members) > 1 or opened == "[":
            return (f"{opened}{text[-1]}", *(repr(_key(member, nesting - 1)) for member in members))
    members = _split(_OR.sub(",", text), ",")
    if len(members) > 1:
        return _unordered(_unnamed(members), nesting)
    if text.count("±") == 1:
        return _unordered([text.replace("±", sign) for sign in "+-"], nesting)
    return _single(text)


def _single(text: str) -> Key:
    if "=" in text:
        left, _, right = text.partition("=")
        return ("equation", *_value(left), *_value(right))
    if percent := _PERCENT.match(text):
        return ("value", *value_key(f"{percent[1]}/100"))
    if unit := _PLAIN_UNIT.match(text):
        text = unit[1]
    return ("value", *_value(text))


def _value(text: str) -> Key:
    # A word would be the product of its letters.
    if set(_WORDS.findall(text)) - _FORMULA_WORDS and not _is_product(text):
        raise NotAFormula("words")
    return value_key(text)


def _is_product(text: str) -> bool:
    """Letters beside signs, as in xy + 2, and not words beside words."""
    return all(len(word) <= 2 or word in _FORMULA_WORDS for word in _WORDS.findall(text)) and bool(
        re.search(r"[\d+*/^-]", text)
    )


def _unordered(members: list[str], nesting: int) -> Key:
    keys = [_key(member, nesting - 1) for member in members]
    # A set or list of one is what is in it.
    return keys[0] if len(keys) == 1 else ("set", *sorted({repr(key) for key in keys}))


def _unnamed(members: list[str]) -> list[str]:
    """Without the letter whose value all of them are: `x = 1, x = 2`, but not `x = 1, y = 2`."""
    named = [_NAMED.match(member) for member in members]
    if len({match and match[1] for match in named}) != 1:
        return members
    return [match[2].strip() if match else member for match, member in zip(named, members, strict=True)]


def _closes_last(text: str) -> bool:
    """Whether the first bracket closes with the last sign, round and square ones mixed as in intervals."""
    depth = 0
    for at, sign in enumerate(text):
        depth += (sign in "([⟨") - (sign in ")]⟩")
        if depth == 0:
            return at == len(text) - 1
    return False


def _split(text: str, separator: str) -> list[str]:
    """At separators outside of all brackets.

    Raises:
        NotAFormula: a part is empty.
    """
    parts, depth, begin = [], 0, 0
    for at, sign in enumerate(text):
        depth += (sign in "([⟨") - (sign in ")]⟩")
        if sign == separator and depth == 0:
            parts.append(text[begin:at].strip())
            begin = at + 1
    parts.append(text[begin:].strip())
    if not all(parts):
        raise NotAFormula("an empty part")
    return parts


def _as_text(text: str) -> str:
    words = re.sub(r"\s+", " ", _TEXT.sub(r"\1", text)).strip()
    return _EXCLAIMED.sub("", words.strip(" .,;:?\"'*`$")).casefold()
