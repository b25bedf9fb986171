"""The kernels against the scalar machine: random batches, drafts, discards, preemption, recycled slots."""

from __future__ import annotations

import copy
import random
import subprocess
import sys
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from server.budget.machine import BudgetMachine
from server.budget.markers import MarkerIds
from server.budget.spec import EffectiveBudget
from tests.support import kernel_device
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

torch = pytest.importorskip("torch")
pytest.importorskip("triton")

from server.engine.device_batch import DeviceBatch, SlotChoice, Snapshot, receipts_of  # noqa: E402

DEVICE = torch.device(kernel_device.NAME)
SLOTS = 5
MAX_MODEL_LEN = 130
MAX_DRAFTS = 4
# Tokens that decide something come often, so that short runs meet every rule.
_LIKELY = [TURN, EOS, NEWLINE, DOT, SPACE, WAIT, SPECIAL, 25, 26, 27]

budgets = st.builds(
    EffectiveBudget,
    max=st.one_of(st.integers(0, 14), st.integers(30, 90)),
    min=st.sampled_from([0, 0, 1, 3, 8, 40]),
    num_waits=st.sampled_from([0, 0, 1, 2, 4, 50]),
    landing=st.one_of(st.just(0), st.integers(0, 8)),
    clamped_by=st.just(()),
    loop_guard=st.sampled_from([0, 0, 8, 9, 12, 21]),
    wait_ids=st.sampled_from([(), ((30,),), ((WAIT, WAIT_TAIL), (30,), (30, 31, 32)), ((WAIT, DOT),)]),
    min_output=st.sampled_from([0, 0, 12, 40]),
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
    """One choice: in a slot, preempted, or without a budget (`machine` is None)."""

    choice: SlotChoice
    machine: BudgetMachine | None
    prompt: list[int]
    output: list[int] = field(default_factory=list)
    sampled: list[int] = field(default_factory=list)
    """What the model said at each output position, before any replacement."""
    slot: int | None = None
    parked: Snapshot | None = None


class Bench:
    """Drives a `DeviceBatch` as vLLM's V2 runner does, and checks every row of every step."""

    def __init__(self, ids: MarkerIds, seed: int) -> None:
        self.ids = ids
        self.random = random.Random(seed)
        self.batch = DeviceBatch(
            ids,
            slots=SLOTS,
            max_rows=SLOTS * (MAX_DRAFTS + 1),
            vocab_size=VOCABULARY,
            max_model_len=MAX_MODEL_LEN,
            device=DEVICE,
        )
        self.tokens = torch.full((SLOTS, MAX_MODEL_LEN), TURN, dtype=torch.int32, device=DEVICE)
        self.total_len = torch.full((SLOTS,), 7, dtype=torch.int32, device=DEVICE)
        self.runs: list[Run] = []
        self.repetitive = self.random.choice([0.0, 0.0, 0.5, 0.9, 1.0])
        self.periods = [1, 2, 3, 4]
        self.likely = self.random.choice([_LIKELY, _LIKELY, [EOS, SPACE, SPACE, SPACE, SPACE, NEWLINE]])

    def add(self, budget: EffectiveBudget | None, *, opened: bool, answer_prompt: bool) -> None:
        prompt = [TURN] * self.random.randint(1, 6)
        effective = budget or EffectiveBudget(max=0, min=0, num_waits=0, landing=0, clamped_by=())
        choice = SlotChoice(str(len(self.runs)), effective, opened, answer_prompt, len(prompt))
        self.runs.append(Run(choice, self._machine(choice) if budget else None, prompt))

    # -- between steps --------------------------------------------------------------------------------

    def leave(self, chance: float) -> None:
        """Finish or preempt some requests; preemption may cost the last tokens (async scheduling)."""
        leaving = [run for run in self._placed() if self.random.random() < chance]
        budgeted = [run for run in leaving if run.machine is not None]
        if budgeted:
            slots = [run.slot for run in budgeted]
            snapshot = self.batch.leave(slots, self.tokens, self.total_len)
            arriving = snapshot.to_host()
            _await_device()
            receipts = receipts_of(arriving)
            for i, run in enumerate(budgeted):
                assert receipts[i] == run.machine.receipt(run.choice.receipt_id)
                run.parked = snapshot.of(i)
        for run in leaving:
            run.slot = None
            if len(run.output) > 60 and self.random.random() < 0.5:
                self.runs.remove(run)
            elif self.random.random() < 0.5:
                self._take_back(run, self.random.randint(0, 6))

    def place(self) -> None:
        free = [slot for slot in range(SLOTS) if all(run.slot != slot for run in self.runs)]
        self.random.shuffle(free)
        for run in self.runs:
            if run.slot is None and free and self.random.random() < 0.6:
                run.slot = free.pop()
                text = run.prompt + run.output
                self.tokens[run.slot, : len(text)] = torch.tensor(text, dtype=torch.int32)
                self.total_len[run.slot] = len(text)
                self.batch.vacate(run.slot)
                if run.machine is not None:
                    self.batch.occupy(run.slot, run.choice, run.parked)
        self.batch.flush(self.tokens, self.total_len)

    # -- one step -------------------------------------------------------------------------------------

    def step(self, drafts: int) -> None:
        scheduled = [run for run in self._placed() if self.random.random() < 0.85 and self._room(run)]
        self.random.shuffle(scheduled)
        if not scheduled:
            return
        proposals = [self._propose(run, drafts) for run in scheduled]
        starts = [0]
        for proposal in proposals:
            starts.append(starts[-1] + 1 + len(proposal))
        before = torch.randn(starts[-1], VOCABULARY)
        logits = before.clone().to(DEVICE)
        slots = torch.tensor([run.slot for run in scheduled], dtype=torch.int64)
        places = torch.tensor([p for d in proposals for p in range(len(d) + 1)], dtype=torch.int32)
        self.batch.decide(
            logits,
            slots=slots.to(DEVICE),
            row_slots=torch.repeat_interleave(slots, torch.tensor(starts).diff()).to(DEVICE),
            row_places=places.to(DEVICE),
            input_ids=torch.tensor([t for d in proposals for t in (24, *d)], dtype=torch.int32).to(DEVICE),
            tokens=self.tokens,
            total_len=self.total_len,
        )
        logits = logits.cpu()
        said = []
        for run, proposal, start in zip(scheduled, proposals, starts, strict=False):
            self._check_rows(run, proposal, before[start:], logits[start:])
            said.append(self._sample(run, proposal, logits[start:]))
        self._settle(scheduled, said, slots.to(DEVICE), starts)

    def _settle(self, scheduled: list[Run], said: list[list[int]], slots: object, starts: list[int]) -> None:
        """Let the batch edit what was sampled, compare, and commit what vLLM keeps of it."""
        places = max(map(len, said))
        padded = [s + [-1] * (places - len(s)) for s in said]
        sampled = torch.tensor(padded, dtype=torch.int64, device=DEVICE)
        counts = torch.tensor([len(s) for s in said], dtype=torch.int32, device=DEVICE)
        if starts[-1] == len(scheduled) and self.random.random() < 0.5:
            self.batch.replace(sampled, slots)
        else:
            row_starts = torch.tensor(starts, dtype=torch.int32, device=DEVICE)
            self.batch.replace(sampled, slots, num_sampled=counts, row_starts=row_starts)
        for run, spoken, got, count in zip(scheduled, said, sampled.tolist(), counts.tolist(), strict=True):
            kept, demanded = _demanded(run.machine, spoken)
            assert got[:count] == demanded
            if self.random.random() < 0.12:
                continue  # a partial prefill: the runner drops what was sampled
            at = int(self.total_len[run.slot])
            self.tokens[run.slot, at : at + count] = torch.tensor(demanded, dtype=torch.int32)
            self.total_len[run.slot] += count
            run.output += demanded
            run.sampled += spoken[:count]
            run.machine = kept

    def _check_rows(self, run: Run, proposal: list[int], before: object, after: object) -> None:
        """Every row that its drafts can reach is the plain row, forced or masked as the machine says."""
        machine = copy.deepcopy(run.machine)
        for place in range(len(proposal) + 1):
            expected = before[place].clone()
            if machine is not None and machine.forced is not None:
                expected[:] = -torch.inf
                expected[machine.forced] = 0.0
            elif machine is not None:
                expected[sorted(machine.masked)] = -torch.inf
            assert torch.equal(after[place], expected), (run.choice, len(run.output), place)
            if place == len(proposal) or machine is None:
                continue
            draft = proposal[place]
            if draft < 0 or draft in machine.masked or machine.replace(draft) != draft:
                return
            machine.commit(draft)

    def _sample(self, run: Run, proposal: list[int], rows: object) -> list[int]:
        """What the verifier hands out: drafts as long as the target says the same, then its own token."""
        spoken: list[int] = []
        for place in range(len(proposal) + 1):
            allowed = torch.isfinite(rows[place]).nonzero().flatten().tolist()
            likely = [token for token in self.likely if token in allowed] or allowed
            draft = proposal[place] if place < len(proposal) else None
            pick = self.random.choice(likely if self.random.random() < 0.8 else allowed)
            again = self._again(run, spoken)
            if again in allowed:
                pick = again
            if draft in allowed and self.random.random() < 0.8:
                pick = draft
            if draft is not None and draft >= 0 and len(allowed) == 1 and self.random.random() < 0.05:
                pick = draft  # a verifier that accepts what it should not: the demanded token stands
            spoken.append(pick)
            if pick != draft:
                break
        return spoken

    def _propose(self, run: Run, drafts: int) -> list[int]:
        """Drafts that often fit: scripts are guessed, end tokens and placeholders come too."""
        machine = copy.deepcopy(run.machine)
        proposal: list[int] = []
        for _ in range(self.random.randint(0, drafts)):
            draft = self.random.choice([*self.likely, *self.likely, -1])
            again = self._again(run, proposal)
            if again is not None:
                draft = again
            if machine is not None and machine.forced is not None and self.random.random() < 0.85:
                draft = machine.forced
            if machine is not None and draft >= 0:
                machine.commit(draft)
            proposal.append(draft)
        return proposal

    def _again(self, run: Run, after: list[int]) -> int | None:
        """Now and then, what stands some places before."""
        output, period = run.output + after, self.random.choice(self.periods)
        return output[-period] if len(output) >= period and self.random.random() < self.repetitive else None

    # -- bookkeeping ----------------------------------------------------------------------------------

    def _placed(self) -> list[Run]:
        return [run for run in self.runs if run.slot is not None]

    def _room(self, run: Run) -> bool:
        return len(run.prompt) + len(run.output) + MAX_DRAFTS + 1 < MAX_MODEL_LEN

    def _machine(self, choice: SlotChoice) -> BudgetMachine:
        return BudgetMachine(
            self.ids, choice.budget, opened=choice.opened, answer_prompt=choice.answer_prompt
        )

    def _take_back(self, run: Run, count: int) -> None:
        kept = max(0, len(run.output) - count)
        del run.output[kept:], run.sampled[kept:]
        if run.machine is not None:
            run.machine = self._machine(run.choice)
            for token in run.sampled:
                run.machine.commit(token)


def _demanded(machine: BudgetMachine | None, spoken: list[int]) -> tuple[BudgetMachine | None, list[int]]:
    """The machine after them, and the tokens that must stand, up to the first that was not sampled."""
    if machine is None:
        return None, spoken
    machine = copy.deepcopy(machine)
    tokens: list[int] = []
    for token in spoken:
        tokens.append(machine.commit(token))
        if tokens[-1] != token:
            break
    return machine, tokens


def _await_device() -> None:
    if kernel_device.ON_GPU:
        torch.cuda.synchronize()


def _run(bench: Bench, *, steps: int, drafts: int) -> None:
    for _ in range(steps):
        bench.leave(0.06)
        bench.place()
        bench.step(drafts)
    bench.leave(1.0)


@pytest.mark.parametrize("seed", range(24))
def test_fixed_batches(seed: int) -> None:
    """The same 24 benches at every run, each of up to 8 requests and 30 steps."""
    rng = random.Random(seed)
    wait = rng.choice([(WAIT,), (WAIT, WAIT_TAIL), (WAIT, WAIT_TAIL, 30)])
    bench = Bench(toy_markers(family=rng.choice(["s1", "s1", "qwen3"]), wait=wait), seed)
    for _ in range(rng.randint(4, 8)):
        budget = EffectiveBudget(
            max=rng.choice([rng.randint(0, 14), rng.randint(30, 90)]),
            min=rng.choice([0, 0, 1, 4, 40]),
            num_waits=rng.choice([0, 0, 1, 3, 50]),
            landing=rng.choice([0, rng.randint(0, 8)]),
            clamped_by=(),
            loop_guard=rng.choice([0, 8, 9, 12]),
            wait_ids=rng.choice([(), ((30,), (30, 31)), ((WAIT, DOT),)]),
            min_output=rng.choice([0, 40]),
        )
        opened, answer_prompt = rng.random() < 0.6, rng.random() < 0.6
        bench.add(budget if rng.random() < 0.85 else None, opened=opened, answer_prompt=answer_prompt)
    _run(bench, steps=rng.randint(12, 30), drafts=seed % 5)


@pytest.mark.parametrize("texts", [((WAIT, DOT),), ((30,), (31, 32), (33,))], ids=["sentence", "in turn"])
@pytest.mark.parametrize("seed", range(3))
def test_many_waits(seed: int, texts: tuple[tuple[int, ...], ...]) -> None:
    """Texts in turn; and one that ends a sentence is no place to land."""
    bench = Bench(toy_markers(), seed)
    bench.likely = [EOS, 25]
    for _ in range(4):
        budget = EffectiveBudget(max=60, min=0, num_waits=50, landing=40, clamped_by=(), wait_ids=texts)
        bench.add(budget, opened=True, answer_prompt=True)
    _run(bench, steps=40, drafts=seed)


@pytest.mark.parametrize("seed", range(3))
def test_answers_with_min_tokens(seed: int) -> None:
    bench = Bench(toy_markers(), seed)
    for least in (20, 25, 30, 60):
        budget = EffectiveBudget(max=2, min=0, num_waits=0, landing=0, clamped_by=(), min_output=least)
        bench.add(budget, opened=True, answer_prompt=True)
    _run(bench, steps=40, drafts=seed)


@pytest.mark.parametrize("seed", range(2))
def test_the_smallest_maxima_after_a_marker_that_ends_a_line(seed: int) -> None:
    """The marker's newline is none of the thinking's."""
    bench = Bench(toy_markers(starts_a_line=True), seed)
    for maximum in (0, 1, 1, 2, 3):
        budget = EffectiveBudget(max=maximum, min=0, num_waits=0, landing=0, clamped_by=())
        bench.add(budget, opened=False, answer_prompt=True)
    _run(bench, steps=16, drafts=seed)


@pytest.mark.parametrize(("period", "drafts", "loops"), [(1, 4, True), (2, 2, True), (3, 2, False)])
def test_a_sequence_three_times_over_is_no_loop(period: int, drafts: int, loops: bool) -> None:
    bench = Bench(toy_markers(), seed=period)
    bench.likely, bench.periods, bench.repetitive = [25, 26, 27], [period], 1.0
    budget = EffectiveBudget(max=80, min=0, num_waits=0, landing=0, clamped_by=(), loop_guard=9)
    bench.add(budget, opened=True, answer_prompt=True)
    (run,) = bench.runs
    run.output, run.sampled = [25, 26, 27], [25, 26, 27]
    for token in run.output:
        run.machine.commit(token)
    while len(run.output) < 40:
        bench.place()
        bench.step(drafts=drafts)
    assert (run.machine.ended_by == "loop") is loops


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(
    ids=marker_sets,
    requests=st.lists(
        st.tuples(st.one_of(budgets, budgets, budgets, st.none()), st.booleans(), st.booleans()),
        min_size=1,
        max_size=8,
    ),
    seed=st.integers(0, 2**32),
    drafts=st.sampled_from([0, 1, 4, 4]),
    steps=st.integers(1, 30),
)
def test_kernels_equal_the_machine(
    ids: MarkerIds,
    requests: list[tuple[EffectiveBudget | None, bool, bool]],
    seed: int,
    drafts: int,
    steps: int,
) -> None:
    bench = Bench(ids, seed)
    for budget, opened, answer_prompt in requests:
        bench.add(budget, opened=opened, answer_prompt=answer_prompt)
    _run(bench, steps=steps, drafts=drafts)


def test_the_step_that_the_benchmark_measures_waits() -> None:
    from loadtest.bench.kernels import Step

    step = Step(3, 256, DEVICE)
    for _ in range(34):
        step.forced()
    waits = (step.tokens[:, :35] == 7).sum(1).tolist()
    assert waits == [3, 2, 2]


@pytest.mark.parametrize("capability", [80, 90])
def test_kernels_compile_for_gpus(capability: int) -> None:
    """Triton's own compiler, down to machine code; in a process of its own, without the interpreter."""
    nvidia = pytest.importorskip("triton.backends.nvidia")
    if not list(Path(nvidia.__path__[0]).glob("bin/ptxas*")):
        pytest.skip("this Triton has no assembler for NVIDIA GPUs")
    program = [sys.executable, "-m", "tests.support.compile_kernels", str(capability)]
    done = subprocess.run(program, capture_output=True, text=True, cwd=Path(__file__).parents[2])
    assert done.returncode == 0, done.stderr
    assert done.stdout.split() == ["advance"] * 2 + ["plan_rows"] * 4 + ["edit_logits"] + ["post"] * 4
