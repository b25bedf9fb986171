"""The multi-round reference against the machine, over a model that is a function of the tokens before."""

from __future__ import annotations

import random

import pytest

from loadtest.reference import Fresh, Outcome, Round, Settings, procedure
from server.budget.machine import BudgetMachine, Phase
from server.budget.markers import MarkerIds
from server.budget.spec import EffectiveBudget
from tests.support.toy_markers import (
    ANSWER,
    DOT,
    EOS,
    NEWLINE,
    SPACE,
    THINK,
    TURN,
    VOCABULARY,
    WAIT,
    WAIT_TAIL,
    toy_markers,
)

_LIKELY = [TURN, EOS, NEWLINE, DOT, SPACE, ANSWER, WAIT, 25, 26, 27]
COMPLETION_TOKENS = 120


def says(tokens: list[int], masked: frozenset[int], *, seed: int) -> int:
    """The toy model's choice after `tokens`: tokens that decide something come often.

    It does not say the last id, which no text has: an engine without the plugin would let it.
    """
    rng = random.Random(hash((seed, *tokens)))
    ranked = [*rng.sample(_LIKELY, len(_LIKELY)), *range(VOCABULARY - 1)]
    if rng.random() < 0.6:
        ranked = [rng.randint(25, 38), *ranked]
    if seed % 5 == 0 and rng.random() < 0.95:  # answers that do not want to begin
        ranked = [SPACE, *ranked]
    return next(token for token in ranked if token not in masked)


def run_round(asked: Round, seed: int) -> Fresh:
    fresh: list[int] = []
    while len(fresh) < asked.max_tokens:
        masked = asked.stops if asked.first_not_stop and not fresh else frozenset()
        token = says(asked.prompt + fresh, masked, seed=seed)
        if token in asked.stops:
            return Fresh(fresh, token)
        fresh.append(token)
    return Fresh(fresh, None)


def by_reference(ids: MarkerIds, prompt: list[int], settings: Settings, seed: int) -> Outcome:
    rounds = procedure(ids, prompt, settings)
    asked = next(rounds)
    while True:
        try:
            asked = rounds.send(run_round(asked, seed))
        except StopIteration as done:
            outcome: Outcome = done.value
            return outcome


def by_machine(ids: MarkerIds, prompt: list[int], settings: Settings, seed: int) -> Outcome:
    budget = EffectiveBudget(
        max=settings.max_thinking_tokens,
        min=settings.min_thinking_tokens,
        num_waits=settings.num_waits,
        landing=min(settings.landing_tokens, settings.max_thinking_tokens - settings.min_thinking_tokens),
        clamped_by=(),
    )
    machine = BudgetMachine(ids, budget, opened=ids.opened(prompt))
    output: list[int] = []
    chosen = set()
    while len(output) < COMPLETION_TOKENS:
        answers = machine.phase is Phase.ANSWER
        if machine.forced is None:
            chosen.add(len(output))
        output.append(machine.commit(says(prompt + output, machine.masked, seed=seed)))
        if answers and output[-1] in ids.eos:
            break
    return Outcome(output, machine.thinking_tokens, machine.waits, machine.ended_by or "", frozenset(chosen))


@pytest.mark.parametrize("family", ["s1", "qwen3"])
@pytest.mark.parametrize("wait", [(WAIT,), (WAIT, WAIT_TAIL)])
def test_the_reference_and_the_machine_agree(family: str, wait: tuple[int, ...]) -> None:
    """600 requests of every kind of budget; each outcome whole, positions included."""
    ids = toy_markers(family=family, wait=wait)
    rng = random.Random(3)
    ends = set()
    for seed in range(600):
        maximum = rng.choice([0, 1, 2, 3, 9, 30, 60])
        settings = Settings(
            max_thinking_tokens=maximum,
            min_thinking_tokens=rng.choice([0, 0, min(maximum, 12)]),
            num_waits=rng.choice([0, 1, 3, 20]),
            landing_tokens=rng.choice([0, 0, min(maximum, 5), maximum]),
            max_completion_tokens=COMPLETION_TOKENS,
        )
        prompt = [*ids.start, 25] if rng.random() < 0.7 else [25, 26]
        expected = by_machine(ids, prompt, settings, seed)
        assert by_reference(ids, prompt, settings, seed) == expected, settings
        ends.add((expected.ended_by, expected.waits > 0, THINK in expected.token_ids))
    assert len(ends) > 4
