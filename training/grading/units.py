"""Units after a value: which text is one, what it is called, and the value without it.

A unit is the last thing in a text, after a value that ends in a digit, a bracket, `%` or `\\pi`. In text
commands it is told from the formula by them (`\\sqrt{2}\\,\\text{m}`), and several may stand side by side;
in plain letters it must be a word of its own (`12 apples`), as `2ab` is a product.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass

from training.grading import forms

_CONTENT = r"(?:[^{}]|\{[^{}]*\})*"
_TEXT = rf"\\(?:text|textrm|mathrm|mbox)\s*\{{{_CONTENT}\}}"
_GAP = r"(?:\s|\\[,;:! ]|~)"
_POWER = r"(?:\s*\^\s*(?:\{\s*-?\d\s*\}|-?\d))?"
_VALUE = r"(?P<value>.*{}(?:[\d)}}\]!%.]|\\pi))"
_QUOTED = re.compile(
    rf"{_VALUE.format('?')}(?P<unit>(?:(?:{_GAP}|[/\-·]|\\cdot(?![a-zA-Z]))*{_TEXT}{_POWER})+){_GAP}*\.?",
    re.DOTALL,
)
_TEXT_COMMAND = re.compile(rf"\\(?:text|textrm|mathrm|mbox)\s*\{{(?P<content>{_CONTENT})\}}")
_NUMERIC = re.compile(
    r"(?:\s*\\?[a-zA-Z]\s*=)?\s*(?:\\approx|≈)?"
    r"(?:[^a-zA-Z\\,;=<>]|,(?=\d{3}(?!\d))|\\[,;:! ]"
    r"|\\(?:[dtc]?frac|sqrt|pi|times|cdot|left|right)(?![a-zA-Z]))*"
)
"""A value without letters, or what one variable is: `v = 3\\sqrt{5}`."""

_PREFIX = r"(?:square|cubic|sq|cu)\b\.?"
_NOUN = rf"(?:{_PREFIX} ?)?[^\W\d_]{{2,}}"
_WORDED = re.compile(
    rf"{_VALUE.format('')} (?P<unit>per {_NOUN}|{_NOUN}(?: per {_NOUN}|/{_NOUN})?)(?: ?\^ ?\{{?\d\}}?)?",
    re.DOTALL,
)
_NUMBER = r"[-+]?(?:\d[\d.,{}]*|\.\d+|\\frac\{?\d+\}?\{?\d+\}?)(?:\\(?:times|cdot)\s?10\^\{?-?\d+\}?)?"
_PART = rf"(?:{_PREFIX} ?)?[^\W\d_]{{1,14}}(?: ?\^ ?\{{?-?\d\}}?)?"
_LETTERED = rf"\s*(?P<unit>{_PART}(?:(?: ?/ ?| per ){_PART})?)\.?"
_MEASURED_NUMBER = re.compile(rf"(?P<value>{_NUMBER}){_LETTERED}")
_MEASURED_VALUE = re.compile(rf"{_VALUE.format('?')}{_LETTERED}", re.DOTALL)
_TOKEN = re.compile(
    rf"(?P<per>/|\bper\b)|(?P<prefix>{_PREFIX}(?= ?[^\W\d_]))"
    r"|(?P<name>[^\W\d_]+)(?: ?\^ ?\{? ?(?P<power>-?\d) ?\}?)?|(?P<gap>[\s·.\-])"
)
_DEGREES = re.compile(
    r"(?:\^\s*(?:\{\s*\\circ\s*\}|\\circ(?![a-zA-Z]))|°)"
    rf"(?:{_GAP}*(?:\\(?:text|mathrm)\s*\{{\s*(?P<quoted>[CF])\s*\}}|(?P<letter>[CF])(?![^\W_])))?"
)

_LETTERS = frozenset("mgshdlLACFHJKNTVW")
"""Units of one letter. Any other in a text command is a variable, and `e` and `i` are numbers."""
_LEAST_LETTERS = 4
"""Of a word after a formula that is no unit by name: `\\frac{1}{2} mgh` is a product."""
_NO_UNIT = frozenset(
    {"hundred", "thousand", "million", "billion", "trillion", "dozen", "dozens", "score", "pair", "pairs"}
    | {"half", "halves", "third", "thirds", "quarter", "quarters", "times", "squared", "cubed", "factorial"}
    | {"more", "less", "fewer", "most", "least", "over", "under", "plus", "minus", "maximum", "minimum"}
    | {"approximately", "about", "nearly", "almost", "roughly", "maybe", "perhaps", "probably", "possibly"}
    | {"not", "never", "none", "too", "wrong", "incorrect", "and", "or", "if", "for", "mod", "is", "are"}
)
"""What stands beside a number and changes it, or joins it with something else."""
_NAMES: Mapping[str, str] = {
    name: names.split()[0]
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
        "celsius degreec",
        "fahrenheit degreef",
        "rad radian",
        "hz hertz",
        "j joule",
        "w watt",
        "n newton",
        "v volt",
        "k kelvin",
        "c coulomb",
        "ev",
        "erg",
        "mol mole",
        "page",
        "unit",
        "percent pct",
    )
    for name in names.split()
}
"""The name that each of a unit's names stands for."""
PERCENT = "percent^1"


@dataclass(frozen=True, slots=True)
class Measured:
    """A value and its unit under one name (`m^1 s^-2`); that is empty where there is none that is known."""

    value: str
    unit: str


def measured(text: str, *, letters: bool = False) -> Measured:
    """Of `5 miles`, `8\\sqrt{3} \\mathrm{~cm}`, `\\$12.50` and `12.5\\%` value and unit.

    Args:
        letters: whether letters that no text command holds are a unit after any value; without it, only
            several are, and after a plain number: `5 n` may be a product.
    """
    bare = _with_named_signs(text)
    if (found := _QUOTED.fullmatch(bare)) is not None and _NUMERIC.fullmatch(found["value"]):
        if unit := _name(_phrase(found["unit"])):
            return Measured(found["value"], unit)
    elif (
        found := (_MEASURED_VALUE if letters else _MEASURED_NUMBER).fullmatch(forms.plain(bare))
    ) is not None:
        is_letter = len(found["unit"]) == 1 and not letters and not _TEXT_COMMAND.search(bare)
        if not is_letter and (unit := _name(found["unit"])):
            return Measured(found["value"], unit)
    return Measured(bare, "dollar^1" if "\\$" in text and found is None else "")


def without_quoted_unit(text: str) -> str | None:
    """The value before a unit in text commands, known or not; None where there is none."""
    found = _QUOTED.fullmatch(forms.undelimited(text).strip())
    return found["value"] if found is not None and _is_unit(_phrase(found["unit"])) else None


def without_noun(text: str) -> str | None:
    """The value before one word, or before `per` and one; None where there is none."""
    found = _WORDED.fullmatch(forms.spaced(text))
    if found is None or not _is_unit(found["unit"]):
        return None
    is_number = found["value"][-1].isdigit()
    is_told = is_number or _name(found["unit"]) or len(found["unit"]) >= _LEAST_LETTERS
    return found["value"] if is_told else None


def has_quoted_units(text: str) -> bool:
    """Whether words or units stand in text commands, which math-verify drops, with what follows them."""
    quoted = (_phrase(command[0]).casefold() for command in _TEXT_COMMAND.finditer(text))
    return any(words not in ("", "and", "or", "e", "i", "if", "for") for words in quoted)


def _with_named_signs(text: str) -> str:
    """`\\$` is left out, and degrees and percent, which aren't written in letters, become units that are."""
    text = forms.without_thousands(forms.undelimited(text.replace("\\$", ""))).strip()
    degrees = _DEGREES.sub(lambda sign: f"\\text{{degree{sign['quoted'] or sign['letter'] or ''}}}", text)
    return re.sub(r"\\?%\s*\.?$", r"\\text{percent}", degrees)


def _phrase(unit: str) -> str:
    """The words and powers of a unit without the text commands around them."""
    words = _TEXT_COMMAND.sub(r" \g<content> ", re.sub(r"\\cdot(?![a-zA-Z])", " ", unit))
    return forms.spaced(words).strip(" .")


def _is_unit(phrase: str) -> bool:
    """Known by its name, or one noun that does not change the number before it."""
    if len(phrase) == 1:
        return phrase in _LETTERS
    if _NO_UNIT & set(re.findall(r"[^\W\d_]+", phrase.casefold())):
        return False
    return bool(_name(phrase)) or _WORDED.fullmatch(f"1 {phrase}") is not None


def _name(phrase: str) -> str:
    """One name for `mi`, `mile` and `miles`, and for `m/s^2` and `m s^{-2}`; empty for what is no unit."""
    powers: dict[str, int] = {}
    sign, power, at = 1, 1, 0
    while at < len(phrase):
        token = _TOKEN.match(phrase, at)
        if token is None:
            return ""
        at = token.end()
        if token["per"]:
            sign = -1
        elif token["prefix"]:
            power = 2 if token["prefix"].startswith("s") else 3
        elif token["name"]:
            known = _known(token["name"].casefold())
            if not known:
                return ""
            powers[known] = powers.get(known, 0) + sign * power * int(token["power"] or 1)
            power = 1
    return " ".join(f"{name}^{powers[name]}" for name in sorted(powers))


def _known(name: str) -> str:
    singular = name[:-1] if len(name) > 2 and name.endswith("s") else name
    return _NAMES.get(singular, "")
