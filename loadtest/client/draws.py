"""Distributions of lengths: what a workload draws its prompts and budgets from."""

from __future__ import annotations

import math
import random
from dataclasses import dataclass

FORMS = "N, fixed:N, uniform:LOW:HIGH or lognormal:MEDIAN:SIGMA[:LOW:HIGH]"


class DrawError(ValueError):
    """A distribution that can't be read; the message says what was given and what is known."""


@dataclass(frozen=True, slots=True)
class Draw:
    """A distribution of whole numbers >= 0."""

    kind: str
    parameters: tuple[float, ...]

    @classmethod
    def read(cls, given: object) -> Draw:
        """
        Raises:
            DrawError
        """
        kind, *rest = str(given).split(":")
        if not rest:
            kind, rest = "fixed", [kind]
        try:
            numbers = tuple(float(part) for part in rest)
        except ValueError:
            raise DrawError(f"a length is {FORMS}. Given: {given!r}") from None
        draw = cls(kind, numbers)
        draw._check(given)
        return draw

    def _check(self, given: object) -> None:
        lengths = {"fixed": (1,), "uniform": (2,), "lognormal": (2, 4)}
        bad = any(not math.isfinite(number) or number < 0 for number in self.parameters)
        if len(self.parameters) not in lengths.get(self.kind, ()) or bad:
            raise DrawError(f"a length is {FORMS}. Given: {given!r}")
        limits = self.parameters[-2:]
        if self.kind == "lognormal" and not self.parameters[0]:
            raise DrawError(f"a lognormal's median is above 0. Given: {given!r}")
        if (self.kind == "uniform" or len(self.parameters) == 4) and limits[0] > limits[1]:
            raise DrawError(f"LOW must be <= HIGH. Given: {given!r}")

    def __call__(self, rng: random.Random) -> int:
        if self.kind == "fixed":
            return round(self.parameters[0])
        if self.kind == "uniform":
            low, high = self.parameters
            return rng.randint(round(low), round(high))
        median, sigma, *limits = self.parameters
        drawn = rng.lognormvariate(math.log(median), sigma)
        if limits:
            drawn = min(max(drawn, limits[0]), limits[1])
        return round(drawn)

    def __str__(self) -> str:
        return ":".join([self.kind, *(f"{number:g}" for number in self.parameters)])
