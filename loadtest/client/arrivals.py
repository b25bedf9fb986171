"""When requests are meant to start. One that starts late counts from when it was meant to, all the same."""

from __future__ import annotations

import json
import math
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


_WHOLE = frozenset(
    (
        "prompt_words",
        "max_thinking_tokens",
        "min_thinking_tokens",
        "num_waits",
        "max_completion_tokens",
    )
)
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
        entries = [entry for entry in read_trace(Path(parameter)) if entry[0] < duration_s]
        return [Planned(index, at_s, overrides) for index, (at_s, overrides) in enumerate(entries)]
    if rate is None or not 0 < rate < math.inf:
        raise ArrivalsError(f"--rate must be a number above 0. Given: {rate}")
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
    if kind != "gamma" or not 0 < shape < math.inf:
        raise ArrivalsError(f"--arrivals is {FORMS}. Given: {':'.join(filter(None, (kind, parameter)))}")
    return shape


def read_trace(path: Path) -> list[tuple[float, dict[str, Any]]]:
    """Its requests in order: when, in seconds after the start, and what the trace says of them.

    One JSON object a line: `at_s`, and any of `class`, `prompt_words`, the budget's fields,
    `max_completion_tokens`.

    Raises:
        ArrivalsError
    """
    try:
        lines = path.read_text().splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise ArrivalsError(f"the trace can't be read: {error}") from None
    found = [_entry(line, f"{path}:{number}") for number, line in enumerate(lines, start=1)]
    return sorted(found, key=lambda entry: entry[0])


def _entry(line: str, where: str) -> tuple[float, dict[str, Any]]:
    try:
        entry = json.loads(line)
        at_s = float(entry.pop("at_s"))
    except (ValueError, KeyError, TypeError, AttributeError):
        raise ArrivalsError(f"{where}: not an object with `at_s`. Given: {line[:80]}") from None
    if not 0 <= at_s < math.inf:
        raise ArrivalsError(f"{where}: `at_s` must be seconds from 0. Given: {at_s}")
    for name, value in entry.items():
        if name not in _WHOLE and name != "class":
            raise ArrivalsError(f"{where}: unknown field {name!r}")
        if name in _WHOLE and (type(value) is not int or value < 0):
            raise ArrivalsError(
                f"{where}: `{name}` must be a whole number from 0. Given: {json.dumps(value)}"
            )
    return at_s, entry
