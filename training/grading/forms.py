"""Forms of an answer that mean the same to any reader: spacing, delimiters, text commands, units."""

from __future__ import annotations

import re
from dataclasses import dataclass

_DELIMITERS = re.compile(r"\$|\\[()\[\]]")
_SPACING = re.compile(
    r"\\[,;:! ]|~|\\(?:quad|qquad|displaystyle|left|right|bigl?|bigr?|Bigl?|Bigr?)(?![a-zA-Z])"
)
_FRACTION = re.compile(r"\\[dtc]frac")
_TEXT_COMMAND = re.compile(
    r"\\(?:text|textbf|textit|textrm|mathrm|mathbf|operatorname|mbox|rm)\s*\{([^{}]*)\}"
)
_E_NOTATION = re.compile(r"(?<![\w.])(\d+(?:\.\d+)?)[eE]\+?(-?\d+)(?!\w)")
_INTEGER = re.compile(r"[+-]?\d+|[+-]?\d{1,3}(?:,\d{3})+")
_WORD = re.compile(r"[^\W\d_]{2,}")
_THOUSANDS = re.compile(r"(?<=\d)(?:\\,|\\;|\\ |\{,\}|\{\\,\}|\u202f|\u2009)(?=\d{3}(?!\d))")
_DEGREES = re.compile(r"\^\s*\{?\s*\\circ\s*\}?|°")
_ABOUT = re.compile(r"\\approx(?![a-zA-Z])|≈")
_VECTOR = re.compile(r"\\(?:mathbf|vec|hat|bar|\|)")
_SPACED_I = re.compile(r"(?<=\d) (?=i\b)")
_MIXED_NUMBER = re.compile(r"(?<![\w.\\}])(\d+)\s*\\frac\s*\{(\d+)\}\s*\{(\d+)\}")
_COMMAND = re.compile(r"\\[a-zA-Z]+")
_NUMBER = r"[-+]?(?:\d[\d.,{}]*|\.\d+|\\frac\{?\d+\}?\{?\d+\}?)(?:\\(?:times|cdot)\s?10\^\{?-?\d+\}?)?"
_UNIT_PART = r"[^\W\d_]{1,14}(?:\^\{?\d\}?)?"
_UNIT = re.compile(rf"(?P<number>{_NUMBER})\s*(?P<unit>{_UNIT_PART}(?:/{_UNIT_PART})?)\.?")
_QUOTED = re.compile(r"\\(?:text|mathrm|mbox)\s*\{([^{}]*)\}")
_NO_UNITS = frozenset({"", "and", "or", "e", "i", "if", "for"})

_UNITS: tuple[frozenset[str], ...] = tuple(
    frozenset(names.split())
    for names in (
        "m meter metre",
        "cm centimeter centimetre",
        "mm millimeter millimetre",
        "km kilometer kilometre",
        "mi mile",
        "ft foot feet",
        "in inch inche",
        "yd yard",
        "h hr hour",
        "min minute",
        "s sec second",
        "g gram",
        "kg kilogram",
        "lb pound",
        "l liter litre",
        "mph",
        "dollar usd",
        "cent",
        "day",
        "week",
        "month",
        "year yr",
        "degree deg",
        "rad radian",
        "hz hertz",
        "j joule",
        "w watt",
        "n newton",
        "v volt",
        "k kelvin",
        "ev",
        "page",
    )
)


@dataclass(frozen=True, slots=True)
class Measured:
    """A number and the unit after it, in the singular; empty where there is none that is known."""

    number: str
    unit: str


def plain(text: str) -> str:
    """One form for spacing, delimiters, fractions and text commands. Case stays: `a` is not `A`."""
    text = _SPACING.sub(" ", _DELIMITERS.sub(" ", text))
    text = _TEXT_COMMAND.sub(r" \1 ", _FRACTION.sub(r"\\frac", text))
    text = re.sub(r"\s+", " ", text.replace("−", "-").replace("–", "-")).strip().rstrip(".,;").strip()
    # Blanks carry meaning between words and digits only.
    return re.sub(r"(?<![\w.]) | (?![\w.\\])", "", text)


def words(text: str) -> str:
    """`plain` for answers in words, where case and punctuation mean nothing, either."""
    return " ".join(re.sub(r"[^\w+\-*/^=<>\\{}()\[\]|.,:]", " ", plain(text).casefold()).split())


def has_words(text: str) -> bool:
    return _WORD.search(_COMMAND.sub(" ", plain(text))) is not None


def integer(text: str) -> int | None:
    """`025`, `1,234` and `$-3$`; None for anything else."""
    bare = plain(without_thousands(text)).replace("{", "").replace("}", "")
    return int(bare.replace(",", "")) if _INTEGER.fullmatch(bare) else None


def readable(text: str) -> str:
    """What math-verify would misread, in another form.

    `4.5e33` is a number, not 4.5 times Euler's number times 33; `4 \\frac{4}{9}` four and four ninths, not
    their product; `1\\,234` one number; `4 i` imaginary; `\\$` no delimiter;
    of `\\cos 2 \\approx -0.42` the value is the answer.
    """
    if len(about := _ABOUT.split(text)) == 2:
        text = about[1]
    text = _SPACED_I.sub("", without_thousands(text.replace("\\$", "")))
    text = _E_NOTATION.sub(r"\1 \\times 10^{\2}", text)
    return _MIXED_NUMBER.sub(r"(\1+\\frac{\2}{\3})", _FRACTION.sub(r"\\frac", text))


def without_thousands(text: str) -> str:
    return _THOUSANDS.sub("", text)


def measured(text: str, *, letters: bool = False) -> Measured:
    """A number and its unit: `5 miles`, `6.5 \\mathrm{~cm}`, `\\$12.50`.

    Args:
        letters: whether a single letter is a unit; without it, only one in a text command is: `5 n` may be a
            product.
    """
    bare = plain(_DEGREES.sub(" degree", text.replace("\\$", "")))
    found = _UNIT.fullmatch(bare)
    if found is None:
        return Measured(bare, "dollar" if "\\$" in text else "")
    if len(found["unit"]) == 1 and not letters and not _QUOTED.search(text):
        return Measured(bare, "")
    parts = [_unit_name(part) for part in found["unit"].split("/")]
    return Measured(found["number"], "/".join(parts)) if all(parts) else Measured(bare, "")


def _unit_name(part: str) -> str:
    """One name for `mi`, `mile` and `miles`, its power after it; empty for what is no unit."""
    name, _, power = part.casefold().partition("^")
    singular = name[:-1] if len(name) > 2 and name.endswith("s") else name
    known = next((sorted(names)[0] for names in _UNITS if singular in names), "")
    return known + ("^" + power.strip("{}") if known and power else "")


def has_several_values(text: str) -> bool:
    """Whether it gives more than one rounded value: only the last would be compared."""
    return len(_ABOUT.split(text)) > 2


def is_intricate(text: str) -> bool:
    """Several equations, vectors or norms: of those math-verify may compare a part only."""
    return text.count("=") > 1 or _VECTOR.search(text) is not None


def numbers(text: str) -> list[str]:
    """The digit sequences of a formula, sorted."""
    return sorted(re.findall(r"\d+", plain(without_thousands(text))))


def has_quoted_units(text: str) -> bool:
    """Whether words or units stand in text commands, which math-verify drops, with what follows them."""
    return any(quoted.strip("~ .").casefold() not in _NO_UNITS for quoted in _QUOTED.findall(text))
