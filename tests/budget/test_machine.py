"""The rules, one by one, on hand-worked sequences; then what must hold over any sequence."""

from __future__ import annotations

import random
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from server.budget.machine import MAX_BLANK_ANSWER_TOKENS, BudgetMachine, Phase
from server.budget.markers import MarkerIds
from server.budget.receipt import count_tokens
from server.budget.spec import EffectiveBudget
from tests.support.toy_markers import (
    ANSWER,
    DOT,
    EOS,
    NEWLINE,
    SPACE,
    SPECIAL,
    THINK,
    TURN,
    UNKNOWN,
    VOCABULARY,
    WAIT,
    WAIT_TAIL,
    toy_markers,
)

A, B, C = 25, 26, 27


def effective(
    max: int = 100, min: int = 0, num_waits: int = 0, landing: int = 0
) -> EffectiveBudget:  # the fields' own names
    return EffectiveBudget(max=max, min=min, num_waits=num_waits, landing=landing, clamped_by=())


def run(machine: BudgetMachine, sampled: list[int]) -> list[int]:
    return [machine.commit(token) for token in sampled]


def forced_rest(machine: BudgetMachine) -> list[int]:
    out = []
    while machine.forced is not None:
        out.append(machine.commit(A))
    return out


def test_maximum_forces_newline_marker_and_answer_prompt() -> None:
    machine = BudgetMachine(toy_markers(), effective(max=4), opened=True)
    assert run(machine, [A, B, C]) == [A, B, C]
    assert forced_rest(machine) == [NEWLINE, TURN, ANSWER, NEWLINE, 20, 21]
    assert (machine.thinking_tokens, machine.ended_by) == (4, "max_thinking_tokens")
    assert machine.thinking_end == 4


@pytest.mark.parametrize(
    ("maximum", "expected"),
    [(0, [TURN, ANSWER, NEWLINE, 20, 21]), (1, [NEWLINE, TURN, ANSWER, NEWLINE, 20, 21])],
)
def test_the_smallest_maxima(maximum: int, expected: list[int]) -> None:
    machine = BudgetMachine(toy_markers(), effective(max=maximum), opened=True)
    assert forced_rest(machine) == expected
    assert machine.thinking_tokens == maximum


def test_unopened_thinking_is_opened_first() -> None:
    machine = BudgetMachine(toy_markers(), effective(max=3), opened=False)
    assert forced_rest(machine) == [TURN, THINK]
    assert machine.phase is Phase.THINKING
    assert machine.thinking_tokens == 0
    run(machine, [A, B])
    assert machine.forced == NEWLINE


@pytest.mark.parametrize("end", [TURN, EOS])
def test_an_end_attempt_becomes_a_wait_until_waits_are_used(end: int) -> None:
    machine = BudgetMachine(toy_markers(), effective(num_waits=1), opened=True)
    assert run(machine, [A, end]) == [A, WAIT]
    assert machine.masked == machine.ids.end_attempt | {UNKNOWN}
    assert run(machine, [B]) == [B]
    assert machine.masked == {UNKNOWN}
    assert machine.commit(end) == TURN
    assert forced_rest(machine) == [ANSWER]
    assert (machine.waits, machine.wait_positions, machine.ended_by) == (1, [1], "model")
    assert machine.thinking_tokens == 3


def test_the_minimum_waits_beyond_num_waits() -> None:
    machine = BudgetMachine(toy_markers(), effective(min=4), opened=True)
    assert run(machine, [EOS, A, EOS, B, EOS]) == [WAIT, A, WAIT, B, TURN]
    assert machine.waits == 2


def test_a_wait_that_does_not_fit_is_cut() -> None:
    machine = BudgetMachine(
        toy_markers(wait=(WAIT, WAIT_TAIL, 30)), effective(max=4, num_waits=1), opened=True
    )
    assert run(machine, [A, EOS]) == [A, WAIT]
    assert forced_rest(machine)[:3] == [WAIT_TAIL, NEWLINE, TURN]
    assert machine.thinking_tokens == 4


def test_the_maximum_wins_over_the_minimum_of_waits() -> None:
    machine = BudgetMachine(toy_markers(), effective(max=2, num_waits=5), opened=True)
    assert run(machine, [EOS]) == [WAIT]
    assert forced_rest(machine)[:2] == [NEWLINE, TURN]


def test_landing_ends_at_the_first_sentence_end() -> None:
    machine = BudgetMachine(toy_markers(), effective(max=10, landing=5), opened=True)
    run(machine, [A, DOT, B, A, B])
    assert machine.forced is None
    run(machine, [DOT])
    assert forced_rest(machine)[:2] == [NEWLINE, TURN]
    machine = BudgetMachine(toy_markers(), effective(max=10, landing=5), opened=True)
    run(machine, [A, B, A, B, NEWLINE])
    assert forced_rest(machine)[:2] == [TURN, ANSWER]


def test_wait_texts_of_the_request_are_used_in_turn() -> None:
    budget = EffectiveBudget(100, 0, 3, 0, (), wait_ids=((30, 31), (32,)))
    machine = BudgetMachine(toy_markers(), budget, opened=True)
    assert run(machine, [A, EOS, A, B]) == [A, 30, 31, B]
    assert run(machine, [EOS, B, EOS, A, C]) == [32, B, 30, 31, C]
    assert machine.commit(TURN) == TURN
    assert machine.wait_positions == [1, 4, 6]


def told(machine: BudgetMachine, sampled: list[int], by: str = "request") -> list[int]:
    machine.end_thinking(by)
    return run(machine, sampled)


def test_told_thinking_is_left_after_the_next_token() -> None:
    machine = BudgetMachine(toy_markers(), effective(num_waits=5), opened=True)
    run(machine, [A, B])
    assert told(machine, [C]) == [C]
    assert forced_rest(machine) == [NEWLINE, TURN, ANSWER, NEWLINE, 20, 21]
    assert (machine.thinking_tokens, machine.thinking_end, machine.ended_by) == (4, 4, "request")


def test_told_thinking_needs_no_newline_after_a_line_end() -> None:
    machine = BudgetMachine(toy_markers(), effective(), opened=True)
    told(machine, [NEWLINE], by="time")
    assert forced_rest(machine)[:2] == [TURN, ANSWER]
    assert (machine.thinking_tokens, machine.ended_by) == (1, "time")


def test_told_thinking_is_not_left_in_a_wait() -> None:
    machine = BudgetMachine(toy_markers(wait=(WAIT, WAIT_TAIL)), effective(num_waits=1), opened=True)
    run(machine, [A])
    assert told(machine, [EOS, 0, B]) == [WAIT, WAIT_TAIL, B]
    assert machine.forced == NEWLINE


def test_told_before_thinking_is_opened() -> None:
    machine = BudgetMachine(toy_markers(), effective(), opened=False)
    machine.end_thinking("request")
    assert forced_rest(machine)[:4] == [TURN, THINK, NEWLINE, TURN]
    assert machine.thinking_tokens == 1


def test_the_first_word_counts_and_none_after_the_thinking() -> None:
    machine = BudgetMachine(toy_markers(), effective(max=10), opened=True)
    machine.end_thinking("time")
    told(machine, [A])
    assert machine.ended_by == "time"
    machine = BudgetMachine(toy_markers(), effective(), opened=True)
    run(machine, [A, TURN])
    assert told(machine, [0, A, B]) == [ANSWER, A, B]
    assert machine.ended_by == "model"


def guarded(window: int, **budget: int) -> BudgetMachine:
    fields = {"max": 100, "min": 0, "num_waits": 0, "landing": 0} | budget
    return BudgetMachine(
        toy_markers(), EffectiveBudget(**fields, clamped_by=(), loop_guard=window), opened=True
    )


def test_a_loop_ends_the_thinking() -> None:
    machine = guarded(8)
    run(machine, [C, A, B, A, B, A, B, A])
    assert machine.forced is None
    run(machine, [B])
    assert forced_rest(machine) == [NEWLINE, TURN, ANSWER, NEWLINE, 20, 21]
    assert (machine.ended_by, machine.thinking_tokens, machine.thinking_end) == ("loop", 10, 10)


def test_a_loop_needs_four_repetitions() -> None:
    """Nine tokens hold a sequence of three only three times; of two, four times and a half."""
    machine = guarded(9)
    run(machine, [A, B, C] * 3)
    assert machine.forced is None
    run(machine, [A, B] * 4)
    assert machine.forced is None
    run(machine, [A])
    assert machine.forced == NEWLINE


def test_a_loop_ends_the_thinking_below_the_minimum_but_not_right_after_a_wait() -> None:
    machine = guarded(8, min=60)
    run(machine, [WAIT] * 7)
    assert machine.commit(EOS) == WAIT
    assert machine.forced is None
    run(machine, [WAIT])
    assert machine.forced == NEWLINE
    assert machine.ended_by == "loop"


def test_the_maximum_is_named_before_a_loop() -> None:
    machine = guarded(8, max=9)
    run(machine, [A] * 8)
    assert machine.forced == NEWLINE
    assert machine.ended_by == "max_thinking_tokens"


def test_an_answer_begins_with_something_visible() -> None:
    machine = BudgetMachine(toy_markers(), effective(max=0), opened=True)
    forced_rest(machine)
    assert machine.masked >= {EOS, TURN}
    assert SPACE not in machine.masked
    run(machine, [SPACE] * MAX_BLANK_ANSWER_TOKENS)
    assert SPACE in machine.masked
    run(machine, [A])
    assert machine.masked == {UNKNOWN}
    assert machine.commit(EOS) == EOS


def test_a_turn_token_ends_an_answer() -> None:
    machine = BudgetMachine(toy_markers(), effective(max=0), opened=True)
    forced_rest(machine)
    assert run(machine, [A, TURN]) == [A, EOS]
    other = BudgetMachine(toy_markers(family="qwen3"), effective(max=0), opened=True)
    forced_rest(other)
    assert run(other, [A, THINK]) == [A, THINK]


def test_no_marker_ends_the_answer_before_min_tokens() -> None:
    budget = replace(effective(max=2), min_output=10)
    machine = BudgetMachine(toy_markers(), budget, opened=True)
    machine.commit(A)
    forced_rest(machine)
    machine.commit(B)
    assert machine.phase is Phase.ANSWER
    while machine.position < 10:
        assert machine.masked == {TURN, UNKNOWN}
        machine.commit(C)
    assert machine.masked == {UNKNOWN}
    assert machine.commit(TURN) == EOS


def test_without_an_answer_prompt_the_grammar_begins_after_the_marker() -> None:
    machine = BudgetMachine(toy_markers(), effective(max=2), opened=True, answer_prompt=False)
    run(machine, [A])
    assert forced_rest(machine) == [NEWLINE, TURN, ANSWER]
    assert machine.phase is Phase.ANSWER_START
    # A tool call may begin with a special token; an answer that ends at once is still none.
    assert machine.masked == {TURN, EOS, UNKNOWN}
    machine.commit(SPECIAL)
    assert machine.masked == {TURN, EOS, UNKNOWN}
    machine.commit(A)
    assert machine.masked == {UNKNOWN}


@pytest.mark.parametrize(
    ("prompt", "opened"),
    [
        ([A, TURN, THINK, A], True),
        ([SPECIAL, TURN, THINK], True),
        # Thinking that goes on may hold any token.
        ([TURN, THINK, A, SPECIAL, A], True),
        ([TURN, THINK, A, EOS], False),
        ([TURN, THINK, A, TURN, ANSWER], False),
        ([], False),
    ],
)
def test_what_leaves_the_thinking_open(prompt: list[int], opened: bool) -> None:
    assert toy_markers().opened(prompt) is opened


@given(
    ids=st.builds(
        toy_markers,
        family=st.sampled_from(["s1", "qwen3"]),
        wait=st.sampled_from([(WAIT,), (WAIT, WAIT_TAIL)]),
    ),
    budget=st.builds(
        effective,
        max=st.integers(0, 30),
        min=st.integers(0, 30),
        num_waits=st.integers(0, 5),
        landing=st.integers(0, 9),
    ),
    opened=st.booleans(),
    seed=st.integers(0, 2**32),
    steps=st.integers(1, 80),
)
def test_invariants(ids: MarkerIds, budget: EffectiveBudget, opened: bool, seed: int, steps: int) -> None:
    rng = random.Random(seed)
    machine = BudgetMachine(ids, budget, opened=opened)
    output: list[int] = []
    for _ in range(steps):
        allowed = [token for token in range(VOCABULARY) if token not in machine.masked]
        sampled = rng.choice([t for t in (TURN, EOS, NEWLINE, A, B) if t in allowed] or allowed)
        output.append(machine.commit(sampled))
    receipt = machine.receipt("x")
    counts = count_tokens(receipt, len(output))
    assert counts.thinking + counts.marker + counts.answer == len(output)
    assert counts.thinking <= budget.max
    begin, end = receipt.thinking_begin, receipt.thinking_end
    thought = output[begin:end]
    assert not set(thought) & {ids.end[0], *ids.eos}
    if end is not None and end <= len(output):
        assert counts.thinking == len(thought)
        if receipt.ended_by == "model":
            assert machine.waits >= budget.num_waits
            assert len(thought) >= budget.min
        elif not budget.landing:
            assert len(thought) == budget.max
    if receipt.answer_begin is not None and len(output) > receipt.answer_begin + MAX_BLANK_ANSWER_TOKENS:
        first = output[receipt.answer_begin : receipt.answer_begin + MAX_BLANK_ANSWER_TOKENS + 1]
        visible = next(i for i, token in enumerate(first) if token not in ids.blank)
        assert not set(first[:visible]) & ids.not_first_in_answer


def test_a_cut_thinking_has_all_its_places_whatever_it_ends_with() -> None:
    machine = BudgetMachine(toy_markers(), effective(max=4), opened=True)
    run(machine, [A, B, NEWLINE])
    assert forced_rest(machine)[:3] == [NEWLINE, TURN, ANSWER]
    assert machine.thinking_tokens == 4
