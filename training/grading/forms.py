"""Forms of an answer that mean the same to any reader: spacing, delimiters, text commands, units."""

from __future__ import annotations

import re

_DELIMITERS = re.compile(r"\$|\\[()\[\]]")
_SPACING = re.compile(
    r"\\[,;:! ]|~|\\(?:quad|qquad|displaystyle|left|right|bigl?|bigr?|Bigl?|Bigr?)(?![a-zA-Z])"
)
FRACTION = re.compile(r"\\[dtc]frac")
_TEXT_COMMAND = re.compile(
    r"\\(?:text|textbf|textit|textrm|mathrm|mathbf|mathit|mathsf|mathtt|boldsymbol|bm|operatorname|mbox|rm)"
    r"\s*\{([^{}]*)\}"
)
_INTEGER = re.compile(r"[+-]?\d+|[+-]?\d{1,3}(?:,\d{3})+")
_WORD = re.compile(r"[^\W\d_]{2,}")
_THOUSANDS = re.compile(r"(?<=\d)(?:,?\\!\s*|\\,|\\;|\\ |\{,\}|\{\\,\}|\u202f|\u2009)(?=\d{3}(?!\d))")
ABOUT = re.compile(r"\\approx(?![a-zA-Z])|≈")
_VECTOR = re.compile(r"\\(?:mathbf|vec|hat|bar|\|)")
_COMMAND = re.compile(r"\\[a-zA-Z]+")
_NAME = re.compile(r"\\?[^\W\d_]+")
_SHORT_WORDS = frozenset({"no", "na"})

_NUMBERS = (
    "zero one two three four five six seven eight nine ten eleven twelve thirteen fourteen fifteen "
    "sixteen seventeen eighteen nineteen twenty"
)
NUMBER_WORDS = {name: number for number, name in enumerate(_NUMBERS.split())}
_IN_BASE = re.compile(
    r"\(?(?P<digits>\d[\dA-F]*|[A-F]+\d[\dA-F]*)\)?_(?:\{(?:base )?(?P<base>\d{1,2}|[a-z]+)\}|(?P<one>\d))"
)


def plain(text: str) -> str:
    """One form for spacing, delimiters, fractions and text commands. Case stays: `a` is not `A`."""
    text = spaced(text).rstrip(".,;").strip()
    # Blanks carry meaning between words and digits only, and after a comma that would else mean thousands.
    return re.sub(r"(?!(?<=\d,) \d{3}(?!\d))(?:(?<![\w.]) | (?![\w.\\]))", "", text)


def spaced(text: str) -> str:
    """`plain` with all blanks that stand for space."""
    text = _SPACING.sub(" ", undelimited(text))
    text = _TEXT_COMMAND.sub(r" \1 ", FRACTION.sub(r"\\frac", text))
    return re.sub(r"\s+", " ", text.replace("−", "-").replace("–", "-")).strip()


def undelimited(text: str) -> str:
    return _DELIMITERS.sub(" ", text)


def words(text: str, *, of_formula: bool = False) -> str:
    """`plain` for answers in words, where case and punctuation mean nothing, either; in a formula letters'
    case does."""
    text = _NAME.sub(_folded, plain(text)) if of_formula else plain(text).casefold()
    return " ".join(re.sub(r"[^\w+\-*/^=<>\\{}()\[\]|.,:]", " ", text).split())


def _folded(name: re.Match[str]) -> str:
    is_word = len(name[0]) > 2 or name[0].casefold() in _SHORT_WORDS
    return name[0].casefold() if is_word and not name[0].startswith("\\") else name[0]


def has_words(text: str) -> bool:
    return _WORD.search(_COMMAND.sub(" ", plain(text))) is not None


def integer(text: str) -> str | None:
    """The digits of `025`, `1,234`, `$-3$` and `three` in one form, however many; None for anything else.

    A comma is a thousands separator only with nothing after it: `135, 225` are two numbers.
    """
    bare = plain(without_thousands(text)).replace("{", "").replace("}", "")
    if (number := NUMBER_WORDS.get(bare.casefold())) is not None:
        return str(number)
    if not _INTEGER.fullmatch(bare):
        return None
    # Not `int()` of it all: Python refuses more than 4,300 digits.
    digits = "".join(str(int(digit)) for digit in bare if digit.isdigit()).lstrip("0") or "0"
    return f"-{digits}" if bare.startswith("-") and digits != "0" else digits


def in_base(text: str) -> tuple[str, str] | None:
    """Digits and base of `101_2`, `(2516)_{8}` and `1A_{\\text{sixteen}}`."""
    found = _IN_BASE.fullmatch(plain(text))
    if found is None:
        return None
    base = (found["base"] or found["one"]).casefold()
    return found["digits"].lstrip("0") or "0", str(NUMBER_WORDS.get(base, base))


def is_value_of(number: str, digits: str, base: str) -> bool:
    """Whether a decimal number is what `digits` are worth in `base`; False for digits that it hasn't."""
    try:
        return number == str(int(digits, int(base)))
    except ValueError:
        return False


def without_thousands(text: str) -> str:
    return _THOUSANDS.sub("", text)


def has_several_values(text: str) -> bool:
    """Whether it gives more than one rounded value: only the last would be compared."""
    return len(ABOUT.split(text)) > 2


def is_intricate(text: str) -> bool:
    """Several equations, vectors or norms: of those math-verify may compare a part only."""
    return text.count("=") + text.count("\\equiv") > 1 or _VECTOR.search(text) is not None


def parts(text: str) -> tuple[list[str], set[str]]:
    """The digit sequences of a formula, sorted, and which letters it has."""
    bare = plain(without_thousands(text))
    return sorted(re.findall(r"\d+", bare)), set(re.findall(r"[^\W\d_]", _COMMAND.sub(" ", bare)))
