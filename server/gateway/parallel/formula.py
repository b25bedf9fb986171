"""Values of formulas, exactly and in bounded time: what `equivalence.py` compares formulas by. Pure.

Variables stand for fixed fractions, two for each: formulas are the same where their values are (Zippel 1979,
Schwartz 1980: different polynomials agree at chosen points only by accident).
Rational arithmetic is exact; roots that are not rational, and functions, are rounded to 12 digits.
"""

from __future__ import annotations

import math
import re
import string
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction

Number = Fraction | float

MAX_DEPTH = 24
_MAX_EXPONENT = 64
_MAX_BITS = 4096
_DIGITS = 12
_TOKEN = re.compile(
    r"\s*(?:(?P<number>\d+(?:\.\d+)?|\.\d+)|(?P<name>sqrt|sin|cos|tan|ln|log|exp|pi|inf|theta|alpha|beta|[A-Za-z])"
    r"|(?P<symbol>\*\*|[-+*/^()!]))"
)
_FUNCTIONS: Mapping[str, Callable[[float], float]] = {
    "sin": math.sin,
    "cos": math.cos,
    "tan": math.tan,
    "ln": math.log,
    "log": math.log10,
    "exp": math.exp,
}
_VARIABLES = (*string.ascii_uppercase, *string.ascii_lowercase, "beta", "alpha", "theta")
_PRIMES = tuple(number for number in range(101, 410) if all(number % divisor for divisor in range(2, 21)))

Point = Mapping[str, Fraction]


class NotAFormula(ValueError):
    """The text isn't one, or is larger than what is computed here."""


def _point(first: Fraction, denominators: Sequence[int]) -> Point:
    """A value a little above `first` for each variable, in lowest terms over a prime of its own.

    So a sum of variables, each at most a hundred times, is no whole number unless it has none of them, and
    `a+d` isn't `b+c`. Later ones have larger values: `sqrt(b-a)` is real.
    """
    return {
        name: Fraction(round((first + Fraction(rank, 97)) * prime), prime)
        for rank, (name, prime) in enumerate(zip(_VARIABLES, denominators, strict=True))
    }


# No value is whole from there to the last variable; all are above 1, where most logarithms are real.
_POINTS = (_point(Fraction(11, 5), _PRIMES), _point(Fraction(10, 3), _PRIMES[::-1]))


def value_key(text: str) -> tuple[str, ...]:
    """The values at both points, written alike for equal values.

    Raises:
        NotAFormula
    """
    tokens = _tokens(text)
    if not tokens:
        raise NotAFormula("empty")
    try:
        values = [_Parser(tokens, point).value() for point in _POINTS]
    except (ArithmeticError, ValueError) as error:
        raise NotAFormula(str(error)) from error
    return tuple(dict.fromkeys(map(_written, values)))


def _tokens(text: str) -> list[str]:
    tokens, at = [], 0
    text = text.rstrip()
    while at < len(text):
        match = _TOKEN.match(text, at)
        if match is None:
            raise NotAFormula(f"{text[at]!r} in {text!r}")
        tokens.append(match[0].strip())
        at = match.end()
    return tokens


def _written(value: Number) -> str:
    if isinstance(value, Fraction):
        return str(value)
    if math.isnan(value):
        raise NotAFormula("undefined")
    return f"{value:.{_DIGITS}g}"


@dataclass(slots=True)
class _Parser:
    """Recursive descent; multiplication may be left out, as in 2x or 3(4+1)."""

    tokens: list[str]
    point: Point
    at: int = 0
    depth: int = 0

    def value(self) -> Number:
        value = self._sum()
        if self.at < len(self.tokens):
            raise NotAFormula(f"unexpected {self.tokens[self.at]!r}")
        return value

    def _next(self) -> str | None:
        return self.tokens[self.at] if self.at < len(self.tokens) else None

    def _take(self, *wanted: str) -> str | None:
        found = self._next()
        if found not in wanted:
            return None
        self.at += 1
        return found

    def _sum(self) -> Number:
        value = self._product()
        while sign := self._take("+", "-"):
            other = self._product()
            value = _bounded(value + other if sign == "+" else value - other)
        return value

    def _product(self) -> Number:
        value = self._signed()
        while True:
            if self._take("*"):
                value = _bounded(value * self._signed())
            elif self._take("/"):
                value = _bounded(value / self._signed())
            elif (found := self._next()) is not None and (found[0].isalpha() or found == "("):
                value = _bounded(value * self._power())
            else:
                return value

    def _signed(self) -> Number:
        if self._take("-"):
            return -self._nested(self._signed)
        if self._take("+"):
            return self._nested(self._signed)
        return self._power()

    def _power(self) -> Number:
        base = self._atom()
        if self._take("^", "**"):
            return _bounded(_raised(base, self._nested(self._signed)))
        return base

    def _atom(self) -> Number:
        found = self._next()
        if found is None:
            raise NotAFormula("it ends early")
        self.at += 1
        if found == "(":
            value = self._nested(self._sum)
            if self._take(")") is None:
                raise NotAFormula("a bracket is open")
            return value
        if found[0].isdigit() or found[0] == ".":
            return Fraction(found)
        if found == "sqrt":
            return _root(self._nested(self._power))
        if found in _FUNCTIONS:
            return _FUNCTIONS[found](float(self._nested(self._power)))
        if found[0].isalpha():
            return _named(found, self.point)
        raise NotAFormula(f"unexpected {found!r}")

    def _nested(self, rule: Callable[[], Number]) -> Number:
        self.depth += 1
        if self.depth > MAX_DEPTH:
            raise NotAFormula(f"nested more than {MAX_DEPTH} deep")
        value = rule()
        self.depth -= 1
        return value


def _named(name: str, point: Point) -> Number:
    if name == "pi":
        return math.pi
    if name == "inf":
        return math.inf
    if name == "e":
        return math.e
    return point[name]


def _raised(base: Number, exponent: Number) -> Number:
    if isinstance(exponent, Fraction) and exponent.denominator == 1 and abs(exponent) <= _MAX_EXPONENT:
        power: int = int(exponent)
        return Fraction(base**power) if isinstance(base, Fraction) else math.pow(base, power)
    if exponent == Fraction(1, 2):
        return _root(base)
    # Not **: it would give complex numbers.
    return math.pow(base, exponent)


def _root(value: Number) -> Number:
    if value < 0:
        raise NotAFormula("not a real number")
    if isinstance(value, Fraction):
        over, under = math.isqrt(value.numerator), math.isqrt(value.denominator)
        if over * over == value.numerator and under * under == value.denominator:
            return Fraction(over, under)
    return math.sqrt(value)


def _bounded(value: Number) -> Number:
    if (
        isinstance(value, Fraction)
        and value.numerator.bit_length() + value.denominator.bit_length() > _MAX_BITS
    ):
        raise NotAFormula("too large a number")
    return value
