"""The hook inside vLLM's real sampler: a sampled step is the plain step with an end token replaced."""

from __future__ import annotations

import random
from dataclasses import dataclass
from typing import Any

import pytest
import torch

from server.budget.machine import BudgetMachine
from server.budget.spec import EffectiveBudget
from tests.support.toy_markers import EOS, TURN, VOCABULARY, toy_markers

vllm = pytest.importorskip("vllm")

from vllm.sampling_params import SamplingParams  # noqa: E402
from vllm.v1.sample.logits_processor import BatchUpdate, LogitsProcessors  # noqa: E402
from vllm.v1.sample.logits_processor.builtin import MinPLogitsProcessor  # noqa: E402
from vllm.v1.sample.metadata import SamplingMetadata  # noqa: E402
from vllm.v1.sample.sampler import Sampler  # noqa: E402

from server.engine import sampler_hook  # noqa: E402
from server.engine.edits import DeviceEdits, HostEdits  # noqa: E402
from server.engine.processor_v1 import BudgetForcing  # noqa: E402

CPU = torch.device("cpu")
ROWS = 8


@pytest.fixture(scope="module", autouse=True)
def hook() -> None:
    sampler_hook.install()


def new_processor(edits: type[DeviceEdits | HostEdits] = HostEdits) -> BudgetForcing:
    processor = BudgetForcing.__new__(BudgetForcing)
    processor._configure(
        toy_markers(),
        max_model_len=100_000,
        capacity=ROWS,
        device=CPU,
        receipts=None,
        encode=list,
    )
    if edits is DeviceEdits:
        processor._edits = DeviceEdits(toy_markers(), CPU)
    return processor


@dataclass(frozen=True)
class Sampling:
    temperature: float = 1.0
    top_p: float | None = None
    top_k: int | None = None
    min_p: float = 0.0


def metadata(sampling: Sampling, seeds: list[int], processors: list[Any]) -> SamplingMetadata:
    greedy = sampling.temperature == 0
    zeros = torch.zeros(ROWS)
    return SamplingMetadata(
        temperature=torch.full((ROWS,), sampling.temperature),
        all_greedy=greedy,
        all_random=not greedy,
        top_p=None if sampling.top_p is None else torch.full((ROWS,), sampling.top_p),
        top_k=None if sampling.top_k is None else torch.full((ROWS,), sampling.top_k),
        generators={} if greedy else {i: torch.Generator().manual_seed(s) for i, s in enumerate(seeds)},
        max_num_logprobs=None,
        no_penalties=True,
        prompt_token_ids=None,
        frequency_penalties=zeros,
        presence_penalties=zeros,
        repetition_penalties=torch.ones(ROWS),
        output_token_ids=[[] for _ in range(ROWS)],
        allowed_token_ids_mask=None,
        bad_words_token_ids={},
        logitsprocs=LogitsProcessors(processors),
    )


class MinP(MinPLogitsProcessor):  # type: ignore[misc]
    """vLLM's own rule with one value for all rows, without its batch bookkeeping."""

    def __init__(self, value: float) -> None:
        self.value = value

    def apply(self, logits: torch.Tensor) -> torch.Tensor:
        probabilities = logits.softmax(-1)
        return logits.masked_fill_(
            probabilities < self.value * probabilities.amax(-1, keepdim=True), -torch.inf
        )


CASES = [
    Sampling(temperature=0),
    Sampling(),
    Sampling(top_p=0.8),
    Sampling(top_k=6),
    Sampling(min_p=0.1),
    Sampling(temperature=0.7, top_p=0.9, top_k=12),
]


@pytest.mark.parametrize("edits", [HostEdits, DeviceEdits])
@pytest.mark.parametrize("sampling", CASES, ids=str)
def test_every_step_is_the_plain_step_with_the_end_replaced(
    sampling: Sampling, edits: type[DeviceEdits | HostEdits]
) -> None:
    """8 rows of different budgets over 400 steps, an unbudgeted one among them: 3,200 steps a case."""
    rng = random.Random(1)
    torch.manual_seed(2)
    processor = new_processor(edits)
    ids = toy_markers()
    outputs: list[list[int]] = [[] for _ in range(ROWS)]
    budgets = [None] + [
        {"max_thinking_tokens": rng.choice([60, 200, 390]), "num_waits": rng.choice([0, 3, 200])}
        for _ in range(ROWS - 1)
    ]
    params = [SamplingParams(max_tokens=50_000, extra_args=b) for b in budgets]
    machines = [_machine(ids, budget) for budget in budgets]
    processor.update_state(
        BatchUpdate(
            ROWS, removed=[], moved=[], added=[(i, p, [TURN, 1], outputs[i]) for i, p in enumerate(params)]
        )
    )
    extra = [MinP(sampling.min_p)] if sampling.min_p else []
    seeds = [rng.randrange(2**31) for _ in range(ROWS)]
    ours = metadata(sampling, seeds, [*extra, processor])
    plain = metadata(sampling, seeds, extra)
    sampler = Sampler()
    replaced = 0
    for _ in range(400):
        logits = torch.randn(ROWS, VOCABULARY) * 2
        logits[:, [TURN, EOS]] += 1.5
        got = sampler.forward(logits.clone(), ours).sampled_token_ids[:, 0].tolist()
        masked = logits.clone()
        for row, machine in enumerate(machines):
            if machine is not None:
                masked[row, sorted(machine.masked)] = -torch.inf
        expected = sampler.forward(masked, plain).sampled_token_ids[:, 0].tolist()
        for row, machine in enumerate(machines):
            demanded = expected[row] if machine is None else machine.commit(expected[row])
            assert got[row] == demanded
            replaced += demanded != expected[row]
            outputs[row].append(got[row])
    assert replaced > 100


def _machine(ids: Any, budget: dict[str, int] | None) -> BudgetMachine | None:
    if budget is None:
        return None
    effective = EffectiveBudget(
        max=budget["max_thinking_tokens"], min=0, num_waits=budget["num_waits"], landing=0, clamped_by=()
    )
    return BudgetMachine(ids, effective, opened=True)


def test_another_signature_stops_the_start(monkeypatch: pytest.MonkeyPatch) -> None:
    def sample(self: Any, logits: torch.Tensor, other: int) -> None: ...

    monkeypatch.setattr(Sampler, "sample", sample)
    with pytest.raises(sampler_hook.UnsupportedEngineError, match=r"takes \(self, logits, other\)"):
        sampler_hook.install()


@pytest.mark.parametrize(
    ("arguments", "param"),
    [
        ({"max_thinking_tokens": -1}, "max_thinking_tokens"),
        ({"num_waits": 1.5}, "num_waits"),
        ({"max_thinking_tokens": 1, "min_thinking_tokens": 2}, "min_thinking_tokens"),
        ({"num_waits": 1, "receipt_id": 7}, "receipt_id"),
        ({"num_waits": 1, "answer_prompt": "no"}, "answer_prompt"),
    ],
)
def test_admission_names_the_field(arguments: dict[str, Any], param: str) -> None:
    with pytest.raises(vllm.exceptions.VLLMValidationError) as caught:
        BudgetForcing.validate_params(SamplingParams(extra_args=arguments))
    assert caught.value.parameter == param


def test_vllms_own_budget_beside_ours_is_refused() -> None:
    params = SamplingParams(extra_args={"max_thinking_tokens": 4}, thinking_token_budget=5)
    with pytest.raises(
        vllm.exceptions.VLLMValidationError, match="`thinking_token_budget` can't be combined"
    ):
        BudgetForcing.validate_params(params)


def test_other_requests_are_not_looked_at() -> None:
    BudgetForcing.validate_params(SamplingParams(extra_args={"someone_elses": "argument"}))
    BudgetForcing.validate_params(SamplingParams())
