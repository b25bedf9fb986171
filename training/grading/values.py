"""Comparing numbers of any size: neither 2^2021 nor 2^-2021 is anything to a machine's floating point."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

from training.grading.limit import within

DIGITS = 60
_RELATIVE = 1e-40
_SMALL = 1e-3
_RELATIVE_OF_DECIMALS = 1e-3
_MAX_DIGITS = 100_000
_MAX_EXPONENT_DIGITS = 9
_MAX_FACTORIAL = 20_000
_EVALUATE_S = 3


@dataclass(frozen=True, slots=True)
class Value:
    """A number as sympy has it, at 15 digits, and whether it is exact, not a decimal."""

    number: Any
    rounded: Any
    is_exact: bool

    @property
    def is_finite(self) -> bool:
        return bool(self.rounded.is_finite)


def value_of(readings: tuple[Any, ...]) -> Value | None:
    """That of the first reading that is a number, or says which number a variable is."""
    import sympy

    for reading in readings:
        if isinstance(reading, sympy.Eq) and isinstance(reading.lhs, sympy.Symbol):
            reading = reading.rhs
        if isinstance(reading, sympy.Expr) and reading.is_number:
            if reading.has(sympy.UnevaluatedExpr):
                # A percentage: 50 % may be told as 50 or as 0.5, which math-verify knows.
                return None
            rounded = evaluated(reading, 15)
            return None if rounded is None else Value(reading, rounded, not reading.has(sympy.Float))
    return None


def exactly_equal(first: Any, second: Any) -> bool | None:
    """At `DIGITS`, fractions to the last one: to math-verify, at 15, `1-5051/2^{100}` is 1.

    None if it takes too long.
    """
    difference = within(_EVALUATE_S, lambda: (first - second).doit(), otherwise=None)
    if difference is None:
        return None
    if difference.is_Rational:
        return bool(difference == 0)
    value, size = evaluated(difference, DIGITS), evaluated(first, DIGITS)
    if value is None or size is None or not value.is_finite:
        return None
    return bool(abs(value) <= _RELATIVE * abs(size))


def nearly_equal(first: Any, second: Any) -> bool:
    """Of decimals below `_SMALL`, which math-verify rounds to six places; any larger ones are."""
    largest = max(abs(first), abs(second))
    return bool(largest >= _SMALL or abs(first - second) <= _RELATIVE_OF_DECIMALS * largest)


def evaluated(number: Any, digits: int) -> Any | None:
    """As sympy's number of so many digits; None where it is no number, or takes too long.

    Parts of which no digit is known are nothing: what sympy can't tell from zero.
    """
    import sympy

    try:
        found = within(_EVALUATE_S, lambda: number.evalf(digits), otherwise=None)
    except (TypeError, ValueError, ArithmeticError):
        return None
    if not getattr(found, "is_number", False):
        return None
    return found.xreplace({part: sympy.S.Zero for part in found.atoms(sympy.Float) if part._prec <= 1})


def is_too_large(reading: Any) -> bool:
    """Whether to write it out would need over `_MAX_DIGITS` digits, as `10^{10^{10}}` would.

    Python can't be stopped while it computes such a power.
    """
    import sympy

    return isinstance(reading, sympy.Basic) and num_digits(reading) > _MAX_DIGITS


def num_digits(number: Any) -> float:
    """About how many digits it has before or after the point, or the most that a part of it has.

    Infinite where those can't be counted.
    """
    import sympy

    if number.is_Rational:
        return math.log10(2) * float(max(number.p.bit_length(), number.q.bit_length()))
    most = max((num_digits(part) for part in number.args), default=1.0)
    if most > _MAX_DIGITS:
        return math.inf
    if isinstance(number, sympy.Pow) and number.base.is_number and number.exp.is_number:
        return _num_digits_of_power(number)
    if isinstance(number, sympy.factorial | sympy.binomial) and number.args[0].is_number:
        largest = abs(complex(number.args[0].evalf(15)))
        return largest * math.log10(largest + 1) if largest <= _MAX_FACTORIAL else math.inf
    return most


def _num_digits_of_power(power: Any) -> float:
    if power.base in (-1, 0, 1):
        return 1.0
    if num_digits(power.exp) > _MAX_EXPONENT_DIGITS:
        return math.inf
    return num_digits(power.base) * abs(complex(power.exp.evalf(15)))
