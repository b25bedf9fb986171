"""The requests of the exactness part: budgets of every kind, among requests without one."""

from __future__ import annotations

import itertools
import random
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Literal

from loadtest.gpu_check.checkpoint import prompt_ids
from loadtest.reference import Settings

_MAXIMA = (0, 1, 2, 3, 17, 40, 64, 150)
_LONG_MAXIMA = (150, 170, 200)
_WAITS = (0, 1, 2, 4)
_COMPLETION_TOKENS = 300
PLAIN_TOKENS = 200
"""Output tokens of a request without a budget, at most."""


@dataclass(frozen=True, slots=True)
class Case:
    """One request; without settings it has no budget."""

    prompt: list[int]
    settings: Settings | None

    def parameters(self) -> dict[str, Any]:
        """`SamplingParams` arguments for an engine with our plugin."""
        if self.settings is None:
            return {"temperature": 0.0, "max_tokens": PLAIN_TOKENS}
        return {
            "temperature": 0.0,
            "max_tokens": self.settings.max_completion_tokens,
            # The smallest reserve: the reference does not lower the maximum, so the engine must not have to.
            "extra_args": {**self.settings.as_request(), "answer_reserve_tokens": 1},
            **self.settings.sampling,
        }


Kind = Literal["short", "long", "drafted", "long drafted"]
"""Long: budgets that fill a small cache, for preemption. Drafted: without what vLLM refuses with drafts."""


def cases(tokenizer: Any, budgeted: int, kind: Kind) -> list[Case]:
    """`budgeted` requests with a budget, and half as many without, in a fixed random order."""
    long = "long" in kind
    rng = random.Random(11 if long else 7)  # noqa: S311 -- a fixed set of requests, not cryptography
    sampling = [one for one in _sampling(tokenizer) if "drafted" not in kind or "logit_bias" not in one]
    settings = list(itertools.islice(_settings(sampling, rng, long), budgeted))
    plain: list[Settings | None] = [None] * (budgeted // 2)
    chosen = [*settings, *plain]
    rng.shuffle(chosen)
    return [Case(prompt_ids(tokenizer, _question(rng)), s) for s in chosen]


def _settings(parameters: list[dict[str, Any]], rng: random.Random, long: bool) -> Iterator[Settings]:
    maxima = _LONG_MAXIMA if long else _MAXIMA
    minima = (0, 140) if long else (0, 20, 100)
    sampling = itertools.cycle(parameters)
    landing = itertools.cycle((0, 0, 8, 0, 30))
    grid = list(itertools.product(maxima, _WAITS, minima))
    rng.shuffle(grid)
    for maximum, waits, minimum in itertools.cycle(grid):
        yield Settings(
            max_thinking_tokens=maximum,
            min_thinking_tokens=min(minimum, maximum),
            num_waits=waits,
            max_completion_tokens=_COMPLETION_TOKENS,
            sampling=next(sampling),
            landing_tokens=min(next(landing), maximum),
        )


def _sampling(tokenizer: Any) -> list[dict[str, Any]]:
    """Greedy parameters that stir the choice of tokens, end tokens among them."""
    newline, full_stop = (tokenizer.encode(text, add_special_tokens=False)[0] for text in ("\n", "."))
    return [
        {},
        {"repetition_penalty": 1.15},
        {"logit_bias": {newline: -1.5, full_stop: 1.0}},
        {"repetition_penalty": 1.05, "logit_bias": {newline: 0.5}},
    ]


def _question(rng: random.Random) -> str:
    """Of the kinds that the demo checkpoint was trained on; any model can think about them."""
    first, second, third = (rng.randint(2, 99) for _ in range(3))
    word = rng.choice(("raspberry", "committee", "banana", "balloon", "mississippi", "bookkeeper"))
    return rng.choice(
        (
            f"What is {first} + {second} - {third}?",
            f"What is {first} * {second % 10}?",
            f"How many {rng.choice(sorted(set(word)))} in {word}?",
            f"Sort these numbers: {first}, {second}, {third}.",
        )
    )
