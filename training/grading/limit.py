"""A limit on how long a computation takes, in the main thread."""

from __future__ import annotations

import signal
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TypeVar

_AGAIN_S = 0.1

T = TypeVar("T")


class _OutOfTime(BaseException):
    """No Exception: what computes may catch those."""


def within(seconds: float, compute: Callable[[], T], *, otherwise: T) -> T:
    """What `compute` returns, or `otherwise` if it takes longer.

    The alarm is raised again and again: one alone may come where Python or sympy swallows it, as Python does
    in finalizers and other callbacks, and the computation would then go on for ever.
    """
    try:
        with _limited(seconds):
            return compute()
    except _OutOfTime:
        return otherwise


@contextmanager
def _limited(seconds: float) -> Iterator[None]:
    def stop(*_: object) -> None:
        raise _OutOfTime

    def ignore(unraisable: sys.UnraisableHookArgs) -> None:
        if unraisable.exc_type is not _OutOfTime:
            told_before(unraisable)

    told_before, sys.unraisablehook = sys.unraisablehook, ignore
    before = signal.signal(signal.SIGALRM, stop)
    signal.setitimer(signal.ITIMER_REAL, seconds, _AGAIN_S)
    try:
        yield
    finally:
        _silence()
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
        sys.unraisablehook = told_before


def _silence() -> None:
    """It may fire while it is being switched off."""
    while True:
        try:
            signal.signal(signal.SIGALRM, signal.SIG_IGN)
            return
        except _OutOfTime:
            continue
