"""Words in an answer: one unit after a number is understood, anything else is left to a reader."""

from __future__ import annotations

import re

from training.grading import forms, units

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
_DECIMAL = re.compile(r"-?(?:\d*\.\d+|\d{2,})")
_IN_BRACKETS = re.compile(
    r"(?P<exact>.*\S)\s+\(\s*(?:\\approx|≈|=|or|about)?\s*(?P<decimal>-?\d*\.\d+)\s*\)", re.DOTALL
)
_DEGREES = re.compile(r"\\circ(?![a-zA-Z])|°")
_VARIABLE = re.compile(r"(?!e)[^\W\d_]")


def formulas_of(text: str, known: str = "") -> list[str]:
    """The formulas that an answer can be read as: without the unit after its value, and with those letters
    that could be factors.

    Args:
        known: a text whose words mean the same in both, as the names of products do: the reference.

    Returns:
        Nothing where words are left, such as `not 5`, `12 million` and `3 hours 20 minutes`.
    """
    understood = _words(known)
    value = units.without_quoted_unit(text)
    if value is None and _words(text) - understood:
        value = units.without_noun(_ENVIRONMENT.sub(" ", text))
    return [formula for formula in (value, text) if formula is not None and not _words(formula) - understood]


def has_words(text: str) -> bool:
    """Whether it holds any that no formula does."""
    return bool(_words(text))


def restated(text: str) -> tuple[str, str] | None:
    """`3/4` and `0.75` of `3/4 (0.75)` and of `x = 3/4 \\approx 0.75`."""
    text = text.replace("$", "").strip()
    if (found := _IN_BRACKETS.fullmatch(text)) is not None:
        exact, decimal = found["exact"], found["decimal"]
    elif len(parts := forms.ABOUT.split(text)) == 2:
        exact, decimal = parts[0].strip(), parts[1].strip()
    else:
        return None
    exact = units.without_quoted_unit(exact) or exact
    # Degrees are read as no angle: the value of `\sin 30^\circ` isn't known.
    has_value = exact and not _DEGREES.search(exact)
    is_number = has_value and not _VARIABLE.search(_COMMAND.sub(" ", exact.rpartition("=")[2]))
    return (exact, decimal) if is_number and _DECIMAL.fullmatch(decimal) else None


def _words(text: str) -> set[str]:
    named = _NAMES.sub(" ", _ENVIRONMENT.sub(" ", text))
    return set(_WORD.findall(_COMMAND.sub(" ", forms.plain(named)).casefold())) - _UNDERSTOOD
