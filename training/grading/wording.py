"""Words in an answer: one unit after a number is understood, anything else is left to a reader."""

from __future__ import annotations

import re

from training.grading import forms

_ENVIRONMENT = re.compile(r"\\(?:begin|end)\s*\{[a-z]+\*?\}(?:\{[lcr|]*\})?")
_NAMES = re.compile(
    r"_\s*\{(?:[^{}]|\{[^{}]*\})*\}|_\s*\\[a-z]+\s*\{[^{}]*\}|\\operatorname\*?\s*\{[^{}]*\}"
    r"|\\math(?:cal|bb|frak|scr)\s*\{[^{}]*\}"
)
_COMMAND = re.compile(r"\\[a-zA-Z]+")
_WORD = re.compile(r"[^\W\d_]{3,}|(?<!\S)(?:at|if|is|it|no|of|to)(?!\S)", re.IGNORECASE)
_UNDERSTOOD = frozenset(
    {"and", "or", "for", "log", "exp", "sqrt", "max", "min", "gcd", "lcm", "mod", "det", "infinity", "inf"}
    | {"sin", "cos", "tan", "cot", "sec", "csc", "arcsin", "arccos", "arctan", "sinh", "cosh", "tanh"}
    | {"percent", "percentage", "pct"}
)
_NOUN = r"(?:(?:square|cubic|sq|cu)\.? ?)?[^\W\d_]{2,}"
_UNIT = re.compile(
    rf"(?P<value>.*[\d)}}!%.]) (?P<unit>per {_NOUN}|{_NOUN}(?: per {_NOUN}|/{_NOUN})?)(?: ?\^ ?\{{?\d\}}?)?",
    re.DOTALL,
)
_NO_UNIT = frozenset(
    {"hundred", "thousand", "million", "billion", "trillion", "dozen", "dozens", "score", "pair", "pairs"}
    | {"half", "halves", "third", "thirds", "quarter", "quarters", "times", "squared", "cubed", "factorial"}
    | {"more", "less", "fewer", "most", "least", "over", "under", "plus", "minus", "maximum", "minimum"}
    | {"approximately", "about", "nearly", "almost", "roughly", "maybe", "perhaps", "probably", "possibly"}
    | {"not", "never", "none", "too", "wrong", "incorrect"}
)
"""What stands beside a number and changes it."""
_RESTATED = re.compile(
    r"(?P<value>.*\S)\s+\(\s*(?:\\approx|≈|=|or|about)?\s*(?P<decimal>-?\d*\.\d+)\s*\)", re.DOTALL
)


def formula_of(text: str, known: str = "") -> str | None:
    """The formula that an answer consists of, without the unit after its number.

    Args:
        known: a text whose words mean the same in both, as the names of products do: the reference.

    Returns:
        None where words are left, such as `not 5`, `12 million` and `3 hours 20 minutes`.
    """
    if not (unknown := _words(text) - _words(known)):
        return text
    measured = _UNIT.fullmatch(forms.plain(_ENVIRONMENT.sub(" ", text)))
    if measured is None or _NO_UNIT & set(measured["unit"].casefold().split()):
        return None
    return None if unknown & _words(measured["value"]) else measured["value"]


def has_words(text: str) -> bool:
    """Whether it holds any that no formula does."""
    return bool(_words(text))


def restated(text: str) -> tuple[str, str] | None:
    """`3/4` and `0.75` of `3/4 (0.75)`."""
    found = _RESTATED.fullmatch(text.replace("$", "").strip())
    if found is None or re.search(r"[^\W\d_]", _COMMAND.sub(" ", found["value"])):
        return None
    return found["value"], found["decimal"]


def _words(text: str) -> set[str]:
    named = _NAMES.sub(" ", _ENVIRONMENT.sub(" ", text))
    return set(_WORD.findall(_COMMAND.sub(" ", forms.plain(named)).casefold())) - _UNDERSTOOD
