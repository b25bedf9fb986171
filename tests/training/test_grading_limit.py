"""A computation that never ends is left, also if it swallows what should stop it."""

from __future__ import annotations

import itertools
import signal
import sys
import time

from training.grading.limit import within


def test_what_is_in_time_is_returned() -> None:
    assert within(60, lambda: 5, otherwise=None) == 5


def test_what_swallows_its_first_alarms_is_left_all_the_same() -> None:
    swallowed = []

    def never() -> str:
        for number in itertools.count():
            try:
                while len(swallowed) <= number:
                    pass
            except BaseException as alarm:
                swallowed.append(alarm)
                if len(swallowed) == 3:
                    raise
        return "never"

    assert within(0.05, never, otherwise="left") == "left"
    assert len(swallowed) == 3


def test_an_alarm_in_a_finalizer_is_nobodys_error() -> None:
    """Python can't raise it there and would complain instead, which is an error in these tests."""
    rang_in = []

    class Slow:
        def __del__(self) -> None:
            until = time.monotonic() + 0.5
            try:
                while time.monotonic() < until:
                    pass
            except BaseException:
                rang_in.append("the finalizer")
                raise

    def never() -> str:
        slow = Slow()
        del slow
        while True:
            pass

    told_before = sys.unraisablehook
    assert within(0.05, never, otherwise="left") == "left"
    assert rang_in == ["the finalizer"]
    assert sys.unraisablehook is told_before


def test_the_alarm_is_as_it_was() -> None:
    before = signal.getsignal(signal.SIGALRM)
    within(0.01, lambda: max(number for number in itertools.count()), otherwise=0)
    assert signal.getsignal(signal.SIGALRM) == before
    assert signal.getitimer(signal.ITIMER_REAL) == (0.0, 0.0)


def test_an_error_is_the_computations_own() -> None:
    try:
        within(60, lambda: 1 // 0, otherwise=0)
    except ZeroDivisionError:
        assert signal.getitimer(signal.ITIMER_REAL)[0] == 0.0
    else:
        raise AssertionError("the error was swallowed")
