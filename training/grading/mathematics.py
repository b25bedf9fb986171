"""Comparing mathematics with math-verify, and what it must not be asked as it is.

Everything here must run in the main thread: time is limited with an alarm signal.
"""

from __future__ import annotations

import logging
import re
from dataclasses import replace
from fractions import Fraction
from functools import lru_cache
from typing import Any

from training.grading import notation
from training.grading.limit import within
from training.grading.values import DIGITS, evaluated, exactly_equal, is_too_large, nearly_equal, value_of

_SAME_RATIO = 1e-30
_SAME_RATIO_OF_DECIMALS = 1e-9
_PARSE_S = 5
_COMPARE_S = 5
_PLACES = (Fraction(731, 10_000), Fraction(7310, 10_000), Fraction(19_173, 10_000), Fraction(31_127, 10_000))
_APART = Fraction(37, 100)
_OR = re.compile(r"\\text\s*\{\s*or\s*\}|\\(?:lor|vee)(?![a-zA-Z])|\bor\b")
_RELATION = re.compile(r"<|>|\\(?:leq?|geq?|lt|gt|leqslant|geqslant|neq?|in)(?![a-zA-Z])")
_EQUATION = re.compile(r"(?<![\\<!>])=")


def parsed(text: str) -> tuple[Any, ...]:
    """math-verify's reading of a formula, if it has one, and the formula in a normal form.

    `text` is the answer and nothing else, so that no number in it is taken for it.
    """
    formula = notation.readable(text).replace("$", "").strip().rstrip(".")
    parts = _OR.split(formula)
    if len(parts) > 1 and all(_RELATION.search(part) for part in parts):
        formula = _OR.sub(r"\\text{ or }", formula)
        union = _union([_reading(_normal(part)) for part in parts])
        return (formula,) if union is None else (union, formula)
    normal = _normal(formula)
    reading = _reading(normal)
    return (normal,) if reading is None else (reading, normal)


def is_read(readings: tuple[Any, ...]) -> bool:
    """Whether a formula was understood: its text alone can only be compared with itself."""
    return any(not isinstance(reading, str) for reading in readings)


def _normal(formula: str) -> str:
    """math-verify would take letters at the end for units: `2 t` for 2, `2 a b` for 2."""
    from latex2sympy2_extended import normalize_latex
    from math_verify import LatexExtractionConfig

    config = replace(LatexExtractionConfig().normalization_config, units=False)
    return str(normalize_latex(f"\\boxed{{{formula}}}", config))


def _reading(normal: str) -> Any | None:
    """As math-verify reads it, but letters keep their case: `R - r` is not nothing.

    Of `a = b = c` that it can't read, it reads the end.
    """
    read = within(_PARSE_S, lambda: _expression(normal), otherwise=None)
    parts = _EQUATION.split(normal)
    if read is not None or len(parts) < 3 or "," in normal or ";" in normal:
        return read
    return within(_PARSE_S, lambda: _expression(parts[-1]), otherwise=None)


def _expression(normal: str) -> Any | None:
    from latex2sympy2_extended.latex2sympy2 import ConversionConfig, latex2sympy
    from math_verify.grader import should_treat_as_complex

    try:
        return latex2sympy(
            normal,
            is_real=not should_treat_as_complex(normal),
            convert_degrees=False,
            normalization_config=None,
            conversion_config=ConversionConfig(lowercase_symbols=False),
        )
    except Exception:  # noqa: BLE001 -- the parser raises bare Exception for what it can't read
        return None


def _union(readings: list[Any]) -> Any | None:
    """The set that `x < -1 or x > 3` describes; None where it is not of one variable."""
    import sympy

    symbols = {symbol for reading in readings if reading is not None for symbol in reading.free_symbols}
    if len(symbols) != 1:
        return None
    sets = [_as_set(reading) for reading in readings]
    return None if None in sets else sympy.Union(*sets)


def _as_set(reading: Any) -> Any | None:
    import sympy

    if isinstance(reading, sympy.Eq) and isinstance(reading.rhs, sympy.Set):
        return reading.rhs
    try:
        return within(_COMPARE_S, lambda: reading.as_set(), otherwise=None)
    except (AttributeError, NotImplementedError, TypeError, ValueError):
        return None


@lru_cache(maxsize=4096)
def readable_reference(reference: str) -> tuple[Any, ...]:
    """The readings of a reference; none where it isn't understood: what isn't equal to itself was not."""
    readings = parsed(reference)
    if any(_is_truth(reading) for reading in readings):
        # `ln(e^5) = 5` is true, and so would any other truth be.
        return ()
    return readings if equal(readings, parsed(reference)) else ()


def equal(reference: tuple[Any, ...], answer: tuple[Any, ...]) -> bool | None:
    """None where it can't be told. Not symmetric: `x=5` answers the reference `5`."""
    if any(is_too_large(reading) for reading in (*reference, *answer)):
        return True if set(reference) & set(answer) else None
    wanted, given = value_of(reference), value_of(answer)
    if wanted is None or given is None:
        return _same(reference, answer)
    if not (wanted.is_finite and given.is_finite):
        # To math-verify infinity is its own negative.
        return bool(wanted.rounded == given.rounded)
    if wanted.is_exact and given.is_exact and not (_equations(reference) and _equations(answer)):
        # math-verify leaves 1-1 unevaluated.
        return exactly_equal(wanted.number, given.number)
    # It rounds decimals to six places, where 4.5e-33 and 1.2e-34 are both nothing.
    return _same(reference, answer) and nearly_equal(wanted.rounded, given.rounded)


def is_rounded(readings: tuple[Any, ...], decimal: str) -> bool:
    """Whether a decimal is their value, but for one in its last place."""
    value = value_of(readings)
    last_place = Fraction(1, 10 ** len(decimal.partition(".")[2]))
    return value is not None and bool(abs(value.rounded - Fraction(decimal)) <= last_place)


def _same(reference: tuple[Any, ...], answer: tuple[Any, ...]) -> bool:
    return (
        (_verified(reference, answer) or _same_range(reference, answer))
        and _same_equation(reference, answer)
        and not _differ_in_case(_letters(reference), _letters(answer))
    )


def _verified(reference: tuple[Any, ...], answer: tuple[Any, ...]) -> bool:
    """What math-verify says, each pair in its time. Its own alarm comes once, and may be swallowed."""
    from math_verify import verify

    # It warns that it has no time limit of its own.
    logging.getLogger("math_verify").setLevel(logging.CRITICAL)

    def same(wanted: Any, given: Any) -> bool:
        return within(
            _COMPARE_S,
            lambda: bool(verify([wanted], [given], timeout_seconds=None, allow_set_relation_comp=True)),
            otherwise=False,
        )

    return any(same(wanted, given) for wanted in reference for given in answer)


def _same_range(reference: tuple[Any, ...], answer: tuple[Any, ...]) -> bool:
    """Whether inequalities say the same of one variable, as `-2 <= x <= 7` and `7 >= x >= -2` do."""
    import sympy

    wanted, given = (
        [part for part in readings if isinstance(part, sympy.And | sympy.core.relational._Inequality)]
        for readings in (reference, answer)
    )
    if not wanted or not given or wanted[0].free_symbols != given[0].free_symbols:
        return False
    if len(wanted[0].free_symbols) != 1:
        return False
    ours, theirs = _as_set(wanted[0]), _as_set(given[0])
    return ours is not None and bool(ours == theirs)


def _letters(readings: tuple[Any, ...]) -> set[str]:
    """The names that stand in them; math-verify takes `E` for Euler's number."""
    import sympy

    parts = [reading for reading in readings if isinstance(reading, sympy.Basic)]
    names = {symbol.name for part in parts for symbol in part.atoms(sympy.Symbol)}
    return names | ({"e"} if any(part.has(sympy.E) for part in parts) else set())


def _differ_in_case(wanted: set[str], given: set[str]) -> bool:
    """Whether only their case tells the names of one from those of the other: math-verify folds long ones."""
    ours, theirs = (sorted("".join(names)) for names in (wanted - given, given - wanted))
    return ours != theirs and sorted(map(str.lower, ours)) == sorted(map(str.lower, theirs))


def _equations(readings: tuple[Any, ...]) -> bool:
    import sympy

    return any(isinstance(reading, sympy.Eq) for reading in readings)


def _is_truth(reading: Any) -> bool:
    """Whether it says something of numbers alone, such as `cos(pi) = -1`, and not what something is."""
    import sympy
    from sympy.logic.boolalg import BooleanAtom

    if isinstance(reading, bool):
        return True
    if not isinstance(reading, sympy.Basic):
        return False
    parts = reading.args if isinstance(reading, sympy.FiniteSet | sympy.Tuple) else (reading,)
    truths = any(isinstance(part, BooleanAtom) for part in parts)
    return truths or any(not equation.free_symbols for equation in reading.atoms(sympy.Eq))


def _same_equation(reference: tuple[Any, ...], answer: tuple[Any, ...]) -> bool:
    """math-verify compares solutions: two equations that have none would be one. True for no equations."""
    import sympy

    for wanted in reference:
        for given in answer:
            if isinstance(wanted, sympy.Eq) and isinstance(given, sympy.Eq):
                sides = (wanted.lhs, wanted.rhs, given.lhs, given.rhs)
                are_numbers = all(isinstance(side, sympy.Expr) and not side.is_Matrix for side in sides)
                return _proportional(*sides) if are_numbers else bool(wanted == given)
    return True


def _proportional(left: Any, right: Any, given_left: Any, given_right: Any) -> bool:
    """Whether one equation is a number times the other, told at places near zero and further away.

    At many digits: where `e^{-40t}` is 1e-13 of its equation, what it is multiplied with must still tell.
    """
    wanted, given = left - right, given_left - given_right
    symbols = sorted(wanted.free_symbols | given.free_symbols, key=str)
    tolerance = _SAME_RATIO_OF_DECIMALS if _has_decimals(wanted, given) else _SAME_RATIO
    first: Any = None
    for place in _PLACES:
        at = {symbol: place * (1 + number * _APART) for number, symbol in enumerate(symbols)}
        ratio = _ratio(wanted.subs(at), given.subs(at))
        if ratio is None:
            return False
        first = ratio if first is None else first
        difference = evaluated(ratio / first - 1, DIGITS)
        if difference is None or not (1e-9 < abs(first) < 1e9 and abs(difference) < tolerance):
            return False
    return True


def _has_decimals(*expressions: Any) -> bool:
    import sympy

    return any(expression.has(sympy.Float) for expression in expressions)


def _ratio(number: Any, other: Any) -> Any | None:
    """At `DIGITS`; None where one is no number or the other is zero."""
    value, other_value = evaluated(number, DIGITS), evaluated(other, DIGITS)
    if value is None or not value.is_finite or not other_value:
        return None
    return evaluated(value / other_value, DIGITS)
