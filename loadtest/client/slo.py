"""Service levels that a request meets or misses. Goodput is the requests per second that meet all."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from loadtest.client.record import Record


class SloError(ValueError):
    """A level that can't be read."""


def _since_intended(moment: float | None, record: Record) -> float | None:
    return None if moment is None else (moment - record.intended) * 1000


MEASURES: Mapping[str, Callable[[Record], float | None]] = {
    "ttft_ms": lambda record: _since_intended(record.first, record),
    "first_answer_ms": lambda record: _since_intended(record.first_answer, record),
    "e2e_ms": lambda record: _since_intended(record.ended, record),
    "gap_ms": lambda record: None if record.mean_gap_s is None else record.mean_gap_s * 1000,
}
"""From the intended start, except `gap_ms`: a request's mean time between updates. None: it has none."""


@dataclass(frozen=True, slots=True)
class Slo:
    measure: str
    most: float

    @classmethod
    def read(cls, given: str) -> Slo:
        """
        Raises:
            SloError
        """
        name, _, value = given.partition("=")
        try:
            most = float(value)
        except ValueError:
            most = -1.0
        if name not in MEASURES or not 0 < most < math.inf:
            raise SloError(f"--slo is MEASURE=MILLISECONDS with {', '.join(MEASURES)}. Given: {given}")
        return cls(name, most)

    def met(self, record: Record) -> bool:
        value = MEASURES[self.measure](record)
        # What a short answer doesn't have can't be late; an answer that never came is an error or empty.
        return value is None or value <= self.most


def is_good(record: Record, slos: Sequence[Slo]) -> bool:
    """Without an error, with an answer, within its budget and every level."""
    sound = record.error is None and not record.empty and record.violation is None
    return sound and all(slo.met(record) for slo in slos)
