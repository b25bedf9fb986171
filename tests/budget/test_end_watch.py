"""An end marker of ordinary tokens is an end attempt when its text is complete."""

from __future__ import annotations

from dataclasses import replace

import pytest

from server.budget.end_watch import EndWatch
from server.budget.machine import BudgetMachine
from server.budget.markers import FAMILIES, MarkerIds
from server.budget.spec import EffectiveBudget
from tests.support.toy_markers import NEWLINE, WAIT, toy_markers

TEXTS = ("<", "/think", ">", "a", ".</", "think", "</think>b", "</", *(f"{i}" for i in range(8, 40)))


def described() -> MarkerIds:
    ids = toy_markers(family="qwen3", answer_prompt=False)
    return replace(
        ids,
        family=replace(FAMILIES["qwen3"], name="custom"),
        start=(20, 21),
        end=(7, 5, 2),
        special=frozenset({30}),
        eos_token=30,
        eos=frozenset({30}),
        end_is_text=True,
        texts=TEXTS,
    )


def run(sampled: list[int], *, maximum: int = 100, waits: int = 0) -> tuple[list[int], BudgetMachine]:
    """The output when the model samples these tokens wherever nothing is forced."""
    budget = EffectiveBudget(max=maximum, min=0, num_waits=waits, landing=0, clamped_by=())
    machine = BudgetMachine(described(), budget, opened=True)
    watch, output = EndWatch(machine), []
    for token in sampled:
        while machine.forced is not None:
            output.append(machine.commit(machine.forced))
        output += watch.take(token)
    while machine.forced is not None:
        output.append(machine.commit(machine.forced))
    return output, machine


@pytest.mark.parametrize(
    ("marker", "written"),
    [
        ((7, 5, 2), (7, 5, 2)),
        ((0, 1, 2), (0, 1, 2)),
        ((4, 5, 2), (4, 5, 2)),  # the dot belongs to the marker's first token
        ((6,), (6,)),  # complete inside a token
    ],
)
def test_an_end_that_stands_is_left_as_the_model_wrote_it(
    marker: tuple[int, ...], written: tuple[int, ...]
) -> None:
    output, machine = run([3, 3, *marker])
    assert output == [3, 3, *written]
    assert (machine.thinking_tokens, machine.ended_by) == (2, "model")
    assert (machine.thinking_end, machine.answer_begin) == (2, 2 + len(written))


def test_an_attempt_that_waits_is_taken_back_whole() -> None:
    output, machine = run([3, 4, 5, 2, 3, 7, 5, 2], waits=1)
    assert output == [3, WAIT, 3, 7, 5, 2]
    assert (machine.thinking_tokens, machine.waits, machine.wait_positions) == (3, 1, [1])


def test_what_only_begins_like_the_marker_is_a_thought() -> None:
    output, machine = run([7, 5, 3, 0, 0, 1, 3])
    assert output == [7, 5, 3, 0, 0, 1, 3]
    assert machine.thinking_tokens == 7


def test_a_maximum_inside_a_marker_leaves_its_beginning_in_the_thinking() -> None:
    output, machine = run([3, 7, 5], maximum=4)
    assert output == [3, 7, 5, NEWLINE, 7, 5, 2]
    assert (machine.thinking_tokens, machine.ended_by) == (4, "max_thinking_tokens")


def test_an_end_token_inside_a_begun_marker_is_the_attempt() -> None:
    output, machine = run([3, 7, 30])
    assert output == [3, 7, 7, 5, 2]
    assert machine.thinking_tokens == 2


def test_a_marker_written_in_more_tokens_than_the_rooms_reserve_is_put_the_short_way() -> None:
    texts = list(TEXTS)
    texts[8:16] = list("</think>")
    ids = replace(described(), texts=tuple(texts))
    budget = EffectiveBudget(max=100, min=0, num_waits=0, landing=0, clamped_by=())
    machine = BudgetMachine(ids, budget, opened=True)
    watch = EndWatch(machine)
    assert [token for sampled in range(8, 16) for token in watch.take(sampled)] == [7]
    assert [machine.commit(t) for t in iter(lambda: machine.forced, None)] == [5, 2]


def test_a_marker_that_a_user_wrote_opens_nothing() -> None:
    ids = replace(described(), start=(10, 11), family=replace(FAMILIES["qwen3"], think_start="1011"))
    assert ids.opened([3, 30, 3, 10, 11])
    assert ids.opened([3, 30, 10, 11, 3])
    assert not ids.opened([10, 11, 3, 30, 3])
    assert not ids.opened([30, 10, 11, 3, 7, 5, 2])
    assert not ids.opened([])
