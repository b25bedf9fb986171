"""The kernels under rule 10: choices that are told to end their thinking, at any moment of their life."""

from __future__ import annotations

import random

import pytest

pytest.importorskip("torch")
pytest.importorskip("triton")

from server.budget.machine import BudgetMachine
from server.budget.spec import EffectiveBudget
from server.engine.ended_by import EndedBy
from server.engine.kernels import Column
from tests.engine.test_kernels import Bench, Run
from tests.support.toy_markers import WAIT, WAIT_TAIL, toy_markers


class TellingBench(Bench):
    """The machine is told before it takes the token at the position that the batch had come to."""

    def __init__(self, *args: object) -> None:
        super().__init__(*args)  # type: ignore[arg-type]
        self.told: dict[str, tuple[int, EndedBy]] = {}
        self.left: set[str] = set()

    def tell(self, chance: float) -> None:
        for run in self._placed():
            name = run.choice.receipt_id
            if run.machine is None or self.random.random() >= chance:
                continue
            assert self.batch.slot_of(name) == run.slot
            by = self.random.choice([EndedBy.REQUEST, EndedBy.TIME])
            self.batch.end_thinking(run.slot, by, self.tokens, self.total_len)
            seen = int(self.batch._state[run.slot, Column.SEEN])
            assert seen == len(run.output)
            self.told.setdefault(name, (seen, by))
            run.machine = self._replayed(run)

    def step(self, drafts: int) -> None:
        super().step(drafts)
        for run in self.runs:
            if run.machine is not None and run.machine.ended_by in ("request", "time"):
                self.left.add(run.machine.ended_by)

    def _take_back(self, run: Run, count: int) -> None:
        super()._take_back(run, count)
        if run.machine is not None:
            run.machine = self._replayed(run)

    def _replayed(self, run: Run) -> BudgetMachine:
        machine, name = self._machine(run.choice), run.choice.receipt_id
        position, by = self.told.get(name, (-1, EndedBy.REQUEST))
        position = min(position, len(run.sampled))
        if name in self.told:
            self.told[name] = (position, by)
        for at, token in enumerate(run.sampled):
            if at == position:
                machine.end_thinking(by.word)
            assert machine.commit(token) == run.output[at]
        if position == len(run.sampled):
            machine.end_thinking(by.word)
        return machine


@pytest.mark.parametrize("seed", range(6))
def test_told_choices(seed: int) -> None:
    rng = random.Random(seed)
    bench = TellingBench(toy_markers(family=rng.choice(["s1", "qwen3"]), wait=(WAIT, WAIT_TAIL)), seed)
    for _ in range(6):
        budget = EffectiveBudget(
            max=90,
            min=rng.choice([0, 40]),
            num_waits=rng.choice([0, 3, 50]),
            landing=rng.choice([0, 8]),
            clamped_by=(),
            loop_guard=rng.choice([0, 9]),
        )
        bench.add(budget, opened=rng.random() < 0.6, answer_prompt=rng.random() < 0.6)
    for _ in range(24):
        bench.leave(0.06)
        bench.place()
        bench.tell(0.05)
        bench.step(seed % 4)
    bench.leave(1.0)
    assert bench.left
