"""Comparing mathematics with math-verify, and what it must not be asked as it is.

Everything here must run in the main thread: math-verify limits its time with an alarm signal.
"""

from __future__ import annotations

import logging
from functools import lru_cache
from typing import Any

from training.grading import forms

_SMALL = 1e-3
_RELATIVE = 1e-3
_EXACT = 1e-12
_ROUNDING_OF_EVALF = 1e-60
_EVALUATE_S = 3


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
    return readings if readings and equal(readings, parsed(reference)) else ()


def equal(reference: tuple[Any, ...], answer: tuple[Any, ...]) -> bool:
    """Not symmetric: `x=5` answers the reference `5`, and a set of numbers an interval never."""
    from math_verify import verify

    same = bool(verify(list(reference), list(answer)))
    wanted, given = _number(reference), _number(answer)
    if wanted is None or given is None:
        return same
    (a, a_is_exact), (b, b_is_exact) = wanted, given
    if same:
        # math-verify rounds to six places, where 4.5e-33 and 1.2e-34 are both nothing.
        largest = max(abs(a), abs(b))
        return largest >= _SMALL or abs(a - b) <= max(_RELATIVE * largest, _ROUNDING_OF_EVALF)
    # What it leaves unevaluated, such as 1-1. Decimals are its business: it rounds them.
    return a_is_exact and b_is_exact and abs(a - b) <= max(_EXACT * abs(a), _ROUNDING_OF_EVALF)


def _number(readings: tuple[Any, ...]) -> tuple[complex, bool] | None:
    """The value of the first reading that is a number, and whether it is exact, not a decimal."""
    import sympy
    from math_verify.errors import TimeoutException
    from math_verify.utils import timeout

    @timeout(timeout_seconds=_EVALUATE_S)  # type: ignore[untyped-decorator, unused-ignore]
    def value(number: Any) -> complex:
        return complex(number.evalf())

    for reading in readings:
        if isinstance(reading, sympy.Expr) and reading.is_number:
            try:
                return value(reading), not reading.has(sympy.Float)
            except (TypeError, ValueError, OverflowError, TimeoutException):
                return None
    return None
