"""Comparing mathematics with math-verify, and what it must not be asked as it is.

Everything here must run in the main thread: math-verify limits its time with an alarm signal.
"""

from __future__ import annotations

import cmath
import logging
from fractions import Fraction
from functools import lru_cache
from typing import Any

from training.grading import forms
from training.grading.limit import within

_SMALL = 1e-3
_RELATIVE = 1e-3
_DIGITS = 60
_SAME_RATIO = 1e-30
_SAME_RATIO_OF_DECIMALS = 1e-9
_ROUNDING_OF_EVALF = 1e-60
_EVALUATE_S = 3
_COMPARE_S = 5
_PLACES = (Fraction(731, 10_000), Fraction(7310, 10_000), Fraction(19_173, 10_000), Fraction(31_127, 10_000))
_APART = Fraction(37, 100)


def parsed(text: str, *, boxed: bool = True) -> tuple[Any, ...]:
    """math-verify's readings of a formula, none where it can't read it.

    Args:
        boxed: `text` is the answer and nothing else, so that no number in it is taken for it.
    """
    from math_verify import ExprExtractionConfig, LatexExtractionConfig, parse

    # It reports each expression that it can't read; that is an answer that is not right, not an event.
    logging.getLogger("math_verify").setLevel(logging.CRITICAL)
    text = forms.readable(text)
    if not boxed:
        return tuple(parse(text, (LatexExtractionConfig(), ExprExtractionConfig())))
    formula = text.replace("$", "").strip().rstrip(".")
    # Not as a plain expression: of a formula that it can't read that finds a stray number.
    return tuple(parse(f"$\\boxed{{{formula}}}$", (LatexExtractionConfig(boxed_match_priority=0),)))


@lru_cache(maxsize=4096)
def readable_reference(reference: str) -> tuple[Any, ...]:
    """The readings of a reference; none where it isn't understood: what isn't equal to itself was not."""
    readings = parsed(reference) or parsed(reference if "$" in reference else f"${reference}$", boxed=False)
    if not readings or any(_is_truth(reading) for reading in readings):
        # `ln(e^5) = 5` is true, and so would any other truth be.
        return ()
    return readings if equal(readings, parsed(reference)) else ()


def equal(reference: tuple[Any, ...], answer: tuple[Any, ...]) -> bool:
    """Not symmetric: `x=5` answers the reference `5`, and a set of numbers an interval never."""
    same = _verified(reference, answer) and _same_equation(reference, answer)
    wanted, given = _number(reference), _number(answer)
    if wanted is None or given is None:
        return same
    (a, a_is_exact), (b, b_is_exact) = wanted, given
    if not (cmath.isfinite(a) and cmath.isfinite(b)):
        # To math-verify infinity is its own negative.
        return a == b
    if a_is_exact and b_is_exact:
        # math-verify leaves 1-1 unevaluated.
        return _exactly_equal(reference, answer)
    # It rounds decimals to six places, where 4.5e-33 and 1.2e-34 are both nothing.
    largest = max(abs(a), abs(b))
    return same and (largest >= _SMALL or abs(a - b) <= max(_RELATIVE * largest, _ROUNDING_OF_EVALF))


def _verified(reference: tuple[Any, ...], answer: tuple[Any, ...]) -> bool:
    """What math-verify says, each pair in its time. Its own alarm comes once, and may be swallowed."""
    from math_verify import verify

    def same(wanted: Any, given: Any) -> bool:
        return within(
            _COMPARE_S, lambda: bool(verify([wanted], [given], timeout_seconds=None)), otherwise=False
        )

    return any(same(wanted, given) for wanted in reference for given in answer)


def _exactly_equal(reference: tuple[Any, ...], answer: tuple[Any, ...]) -> bool:
    """At `_DIGITS`: to math-verify, at 15, `1-5051/2^{100}` is 1."""
    import sympy

    first, second = (
        next(reading for reading in readings if isinstance(reading, sympy.Expr) and reading.is_number)
        for readings in (reference, answer)
    )
    difference, size = _value(first - second, digits=_DIGITS), _value(first)
    return difference is not None and abs(difference) <= max(1e-40 * abs(size or 0), _ROUNDING_OF_EVALF)


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
        difference = _value(ratio / first - 1, digits=_DIGITS)
        if difference is None or not (1e-9 < abs(complex(first)) < 1e9 and abs(difference) < tolerance):
            return False
    return True


def _has_decimals(*expressions: Any) -> bool:
    import sympy

    return any(expression.has(sympy.Float) for expression in expressions)


def _ratio(number: Any, other: Any) -> Any | None:
    """At `_DIGITS`; None where one is no number or the other is zero."""
    value, other_value = _evaluated(number, _DIGITS), _evaluated(other, _DIGITS)
    if value is None or not value.is_finite or not other_value:
        return None
    return _evaluated(value / other_value, _DIGITS)


def _number(readings: tuple[Any, ...]) -> tuple[complex, bool] | None:
    """The value of the first reading that is a number, and whether it is exact, not a decimal."""
    import sympy

    for reading in readings:
        if isinstance(reading, sympy.Expr) and reading.is_number:
            value = _value(reading)
            return None if value is None else (value, not reading.has(sympy.Float))
    return None


def _value(number: Any, *, digits: int = 15) -> complex | None:
    """None where it is no number, or takes too long."""
    value = _evaluated(number, digits)
    try:
        return None if value is None else complex(value)
    except (TypeError, ValueError, OverflowError):
        return None


def _evaluated(number: Any, digits: int) -> Any | None:
    """As sympy's number of so many digits; None where it is no number, or takes too long."""
    try:
        found = within(_EVALUATE_S, lambda: number.evalf(digits), otherwise=None)
    except (TypeError, ValueError, OverflowError):
        return None
    return found if getattr(found, "is_number", False) else None
