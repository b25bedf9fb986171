"""The vectorised rules against the scalar machine, over random batches that come, move, preempt and go."""

from __future__ import annotations

import random
from dataclasses import dataclass

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from server.budget.machine import BudgetMachine, Mask
from server.budget.markers import MarkerIds
from server.budget.spec import EffectiveBudget
from server.engine.ended_by import EndedBy
from server.engine.forcing import ForcingBatch
from server.engine.rows import Choice
from tests.support.toy_markers import (
    DOT,
    EOS,
    NEWLINE,
    SPACE,
    SPECIAL,
    TURN,
    VOCABULARY,
    WAIT,
    WAIT_TAIL,
    toy_markers,
)

MAX_MODEL_LEN = 200
# Tokens that decide something come often, so that short runs meet every rule.
_LIKELY = [TURN, EOS, NEWLINE, DOT, SPACE, SPECIAL, 25, 26, 27]

budgets = st.builds(
    EffectiveBudget,
    max=st.integers(0, 14),
    min=st.integers(0, 8),
    num_waits=st.integers(0, 4),
    landing=st.integers(0, 6),
    clamped_by=st.just(()),
    loop_guard=st.sampled_from([0, 8, 9, 12]),
    wait_ids=st.sampled_from([(), ((30,),), ((WAIT, WAIT_TAIL), (30,), (30, 31, 32))]),
    min_output=st.sampled_from([0, 0, 12, 40]),
)
long_budgets = st.builds(
    EffectiveBudget,
    max=st.integers(15, 60),
    min=st.sampled_from([0, 30]),
    num_waits=st.integers(0, 9),
    landing=st.sampled_from([0, 0, 20]),
    clamped_by=st.just(()),
    loop_guard=st.sampled_from([0, 8, 12, 21]),
    wait_ids=st.sampled_from([(), ((WAIT,), (30, 31))]),
)
marker_sets = st.builds(
    toy_markers,
    family=st.sampled_from(["s1", "qwen3"]),
    wait=st.sampled_from([(WAIT,), (WAIT, WAIT_TAIL), (WAIT, WAIT_TAIL, 30)]),
    answer_prompt=st.booleans(),
    starts_a_line=st.booleans(),
)


@dataclass
class Run:
    """One choice in both implementations."""

    machine: BudgetMachine
    choice: Choice
    row: int | None = None


class Bench:
    """A batch driven as vLLM's V1 runner drives it: samples may be discarded, rows move and are preempted."""

    def __init__(self, ids: MarkerIds, seed: int, capacity: int = 6) -> None:
        self.ids = ids
        self.random = random.Random(seed)
        self.batch = ForcingBatch(ids, capacity=capacity, max_model_len=MAX_MODEL_LEN)
        self.capacity = capacity
        self.repetitive = self.random.choice([0.0, 0.5, 0.9, 1.0])
        self.told = self.random.choice([0.0, 0.02, 0.1])
        self.runs: list[Run] = []

    def add(self, budget: EffectiveBudget, *, opened: bool, answer_prompt: bool) -> None:
        choice = Choice(str(len(self.runs)), budget, opened, answer_prompt, output=[])
        machine = BudgetMachine(self.ids, budget, opened=opened, answer_prompt=answer_prompt)
        self.runs.append(Run(machine, choice))

    def place(self) -> None:
        free = [row for row in range(self.capacity) if all(run.row != row for run in self.runs)]
        for run in self.runs:
            if run.row is None and free and self.random.random() < 0.7:
                run.row = free.pop(self.random.randrange(len(free)))
                self.batch.add(run.row, run.choice)

    def preempt(self) -> None:
        for run in self.runs:
            if run.row is not None and self.random.random() < 0.08:
                assert self.batch.remove(run.row) is run.choice
                run.row = None
                # A resumed request may come back with another list of the same tokens.
                run.choice.output = list(run.choice.output)

    def tell(self) -> None:
        """Somebody wants an answer now."""
        for run in self.runs:
            if run.row is not None and self.random.random() < self.told:
                by = self.random.choice([EndedBy.REQUEST, EndedBy.TIME])
                thinks = run.machine.thinking_end is None
                assert self.batch.end_thinking(run.choice.receipt_id, by) is thinks
                run.machine.end_thinking(by.word)

    def shuffle(self) -> None:
        if self.random.random() > 0.2:
            return
        a, b = self.random.sample(range(self.capacity), 2)
        self.batch.move(a, b, swap=True)
        for run in self.runs:
            run.row = b if run.row == a else a if run.row == b else run.row

    def step(self, says: int | None = None) -> None:
        """
        Args:
            says: what the model says where it may, and no sample is discarded.
        """
        self.batch.advance()
        plan = self.batch.plan()
        forced = dict(zip(plan.forced_rows.tolist(), plan.forced_tokens.tolist(), strict=True))
        masked = {row: mask for mask, rows in plan.masked for row in rows.tolist()}
        sampled_ids = np.full(self.capacity, TURN, dtype=np.int64)
        placed = [run for run in self.runs if run.row is not None]
        assert plan.budgeted_rows.tolist() == sorted(run.row for run in placed)
        for run in placed:
            row = run.row
            assert row is not None
            assert forced.get(row) == run.machine.forced
            allowed = self._allowed(masked.get(row, Mask.NONE))
            if run.machine.forced is None:
                assert allowed == set(range(VOCABULARY)) - run.machine.masked
            choices = [t for t in _LIKELY if t in allowed] or sorted(allowed)
            said = says if says in allowed else self._say(run.choice.output, choices)
            sampled_ids[row] = forced.get(row, said)
        tokens = sampled_ids.copy()
        edited = self.batch.replace(tokens)
        if self.random.random() < 0.5:
            # The engine is told so while this step's tokens are on their way to the outputs.
            self.tell()
        assert edited or np.array_equal(tokens, sampled_ids)
        assert all(tokens[row] == TURN for row in set(range(self.capacity)) - {run.row for run in placed})
        for run in placed:
            sampled = int(sampled_ids[run.row])
            assert tokens[run.row] == run.machine.replace(sampled)
            if says is None and self.random.random() < 0.15:
                continue  # the runner discards this row's sample
            run.choice.output.append(int(tokens[run.row]))
            run.machine.commit(sampled)

    def _say(self, output: list[int], choices: list[int]) -> int:
        """A model that repeats itself now and then."""
        period = self.random.choice([1, 2, 3, 3, 4])
        if len(output) >= period and output[-period] in choices and self.random.random() < self.repetitive:
            return output[-period]
        return self.random.choice(choices)

    def _allowed(self, mask: Mask) -> set[int]:
        everything = set(range(VOCABULARY)) - self.ids.unknown
        if mask is Mask.NONE:
            return everything
        if mask is Mask.ENDS:
            return everything - self.ids.end_attempt
        if mask is Mask.MARKERS:
            return everything - {self.ids.start[0], self.ids.end[0]}
        if mask is Mask.CONSTRAINED_START:
            return everything - self.ids.end_attempt - {self.ids.start[0]}
        blank = self.ids.blank if mask is Mask.ANSWER_START_VISIBLE else frozenset()
        return everything - self.ids.not_first_in_answer - blank

    def check_receipts(self) -> None:
        for run in self.runs:
            if run.row is not None:
                self.batch.remove(run.row)
            if run.choice.parked is not None:
                assert self.batch.receipt(run.choice) == run.machine.receipt(run.choice.receipt_id)


@settings(max_examples=300, deadline=None)
@given(
    ids=marker_sets,
    requests=st.lists(
        st.tuples(st.one_of(budgets, long_budgets), st.booleans(), st.booleans()), min_size=1, max_size=8
    ),
    seed=st.integers(0, 2**32),
    steps=st.integers(1, 60),
)
def test_vectorised_rules_equal_the_machine(
    ids: MarkerIds, requests: list[tuple[EffectiveBudget, bool, bool]], seed: int, steps: int
) -> None:
    bench = Bench(ids, seed)
    for budget, opened, answer_prompt in requests:
        bench.add(budget, opened=opened, answer_prompt=answer_prompt)
    for _ in range(steps):
        bench.preempt()
        bench.place()
        bench.shuffle()
        bench.tell()
        bench.step()
    bench.check_receipts()


LONG_BUDGETS = {
    "maximum": EffectiveBudget(max=24, min=0, num_waits=0, landing=0, clamped_by=()),
    "minimum": EffectiveBudget(max=60, min=20, num_waits=0, landing=0, clamped_by=()),
    "landing": EffectiveBudget(max=30, min=0, num_waits=0, landing=12, clamped_by=()),
    "loop": EffectiveBudget(max=60, min=0, num_waits=0, landing=0, clamped_by=(), loop_guard=12),
}


@pytest.mark.parametrize("event", [TURN, EOS, DOT, None])
@pytest.mark.parametrize("budget", LONG_BUDGETS.values(), ids=LONG_BUDGETS.keys())
def test_something_is_decided_after_any_number_of_plain_tokens(
    budget: EffectiveBudget, event: int | None
) -> None:
    """After so many plain tokens, all different or all the same, one that may decide something."""
    ids = toy_markers(wait=(WAIT, WAIT_TAIL))
    for plain in range(1, 30):
        for words in ([25, 26, 27, 28, 29], [25]):
            bench = Bench(ids, seed=0, capacity=1)
            bench.add(budget, opened=True, answer_prompt=True)
            bench.runs[0].row = 0
            bench.batch.add(0, bench.runs[0].choice)
            said = [words[i % len(words)] for i in range(plain)] + ([] if event is None else [event])
            for i in range(plain + 8):
                bench.step(says=said[i] if i < len(said) else 27)
            bench.check_receipts()


def test_a_loop_is_of_the_tokens_that_stand() -> None:
    """Two different ends became the same wait text."""
    bench = Bench(toy_markers(wait=(WAIT,)), seed=0, capacity=1)
    budget = EffectiveBudget(max=60, min=0, num_waits=20, landing=0, clamped_by=(), loop_guard=8)
    bench.add(budget, opened=True, answer_prompt=True)
    bench.runs[0].row = 0
    bench.batch.add(0, bench.runs[0].choice)
    for _ in range(4):
        for said in (TURN, 25, EOS, 25):
            bench.step(says=said)
    assert bench.runs[0].machine.ended_by == "loop"
    bench.check_receipts()


def test_nobody_is_told_who_is_not_there() -> None:
    assert (
        ForcingBatch(toy_markers(), capacity=2, max_model_len=8).end_thinking("nobody", EndedBy.REQUEST)
        is None
    )


@pytest.mark.parametrize("told_after", [None, 2, 6])
@pytest.mark.parametrize("kept", range(1, 12))
@pytest.mark.parametrize("most", [12, 60])
def test_tokens_that_vllm_takes_back_are_replayed(most: int, kept: int, told_after: int | None) -> None:
    """A shorter output than the one last seen (a failed KV load) rolls the state back."""
    ids = toy_markers(wait=(WAIT, WAIT_TAIL))
    budget = EffectiveBudget(max=most, min=0, num_waits=2, landing=0, clamped_by=())
    bench = Bench(ids, seed=0, capacity=1)
    bench.add(budget, opened=True, answer_prompt=True)
    run = bench.runs[0]
    run.row = 0
    bench.batch.add(0, run.choice)
    sampled: list[int] = []
    for token in [25, 26, TURN, 0, 27, 25, TURN, 0, 27, *[25, 26] * (most // 10)]:
        bench.batch.advance()
        if len(sampled) == told_after:
            bench.batch.end_thinking("0", EndedBy.TIME)
            run.machine.end_thinking("time")
        bench.batch.plan()
        bench.batch.replace(np.array([token]))
        sampled.append(token)
        run.choice.output.append(run.machine.commit(token))
    bench.batch.advance()
    del run.choice.output[kept:]
    bench.batch.advance()
    again = BudgetMachine(ids, budget, opened=True)
    for position, token in enumerate(sampled[:kept]):
        if position == told_after:
            again.end_thinking("time")
        again.commit(token)
    plan = bench.batch.plan()
    assert plan.forced_tokens.tolist() == ([] if again.forced is None else [again.forced])
    assert [mask for mask, _ in plan.masked] == ([] if again.mask is Mask.NONE else [again.mask])
    assert bench.batch.remove(0) is run.choice
    assert bench.batch.receipt(run.choice) == again.receipt("0")
