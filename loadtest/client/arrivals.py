"""When requests are meant to start. One that starts late counts from when it was meant to, all the same."""

from __future__ import annotations

import json
import random
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any


class ArrivalsError(ValueError):
    """Arrivals that can't be read; the message says what is known."""


@dataclass(frozen=True, slots=True)
class Planned:
    index: int
    at_s: float
    """After the run's start."""
    overrides: dict[str, Any] = field(default_factory=dict)
    """What a trace says of this request."""


FORMS = "poisson, constant, gamma:SHAPE (below 1 is burstier than Poisson) or trace:FILE"


def planned(arrivals: str, *, rate: float | None, duration_s: float, seed: int) -> list[Planned]:
    """The requests of an open loop, in order.

    Args:
        rate: requests per second on average; a trace brings its own.

    Raises:
        ArrivalsError
    """
    kind, _, parameter = arrivals.partition(":")
    if kind == "trace":
        return _from_trace(Path(parameter), duration_s)
    if rate is None or rate <= 0:
        raise ArrivalsError(f"--rate must be above 0. Given: {rate}")
    shape = _shape(kind, parameter)
    rng = random.Random(f"{seed}:arrivals")  # noqa: S311 - reproducible, not secret
    found: list[Planned] = []
    at_s = 0.0
    while True:
        at_s += 1 / rate if shape is None else rng.gammavariate(shape, 1 / (rate * shape))
        if at_s >= duration_s:
            return found
        found.append(Planned(len(found), at_s))


def _shape(kind: str, parameter: str) -> float | None:
    """Of the gamma distribution of gaps, whose mean is 1/rate; None: no chance at all."""
    if kind in ("poisson", "constant") and not parameter:
        return 1.0 if kind == "poisson" else None
    try:
        shape = float(parameter)
    except ValueError:
        shape = 0
    if kind != "gamma" or not shape > 0:
        raise ArrivalsError(f"--arrivals is {FORMS}. Given: {':'.join(filter(None, (kind, parameter)))}")
    return shape


def _from_trace(path: Path, duration_s: float) -> list[Planned]:
    """One JSON object a line: `at_s`, and any of `class`, `prompt_words`, the budget's fields,
    `max_completion_tokens`."""
    known = {
        "at_s",
        "class",
        "prompt_words",
        "max_thinking_tokens",
        "min_thinking_tokens",
        "num_waits",
        "max_completion_tokens",
    }
    found = []
    try:
        lines = path.read_text().splitlines()
    except OSError as error:
        raise ArrivalsError(f"the trace can't be read: {error}") from None
    for number, line in enumerate(lines, start=1):
        try:
            entry = json.loads(line)
            at_s = float(entry.pop("at_s"))
        except (ValueError, KeyError, TypeError, AttributeError):
            raise ArrivalsError(f"{path}:{number}: not an object with `at_s`. Given: {line[:80]}") from None
        unknown = entry.keys() - known
        if unknown:
            raise ArrivalsError(f"{path}:{number}: unknown field {sorted(unknown)[0]!r}")
        if at_s < duration_s:
            found.append((at_s, entry))
    found.sort(key=lambda pair: pair[0])
    return [Planned(index, at_s, entry) for index, (at_s, entry) in enumerate(found)]
