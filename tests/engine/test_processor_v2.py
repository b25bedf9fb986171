"""The V2 processor and its hooks around a runner of the same shape, with tensors on the tests' device."""

from __future__ import annotations

import threading
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from server.budget.machine import BudgetMachine
from server.budget.receipt import EngineReceipt
from server.budget.spec import EffectiveBudget
from tests.support import kernel_device
from tests.support.toy_markers import ANSWER, EOS, TURN, VOCABULARY, WAIT, toy_markers

vllm = pytest.importorskip("vllm")
pytest.importorskip("triton")

from vllm.exceptions import VLLMValidationError  # noqa: E402
from vllm.sampling_params import SamplingParams  # noqa: E402
from vllm.v1.worker.gpu.model_runner import GPUModelRunner  # noqa: E402
from vllm.v1.worker.gpu.sample.sampler import Sampler  # noqa: E402
from vllm.v1.worker.gpu.spec_decode.rejection_sampler import RejectionSampler  # noqa: E402

from server.engine import sampler_hook_v2  # noqa: E402
from server.engine.outbox import Outbox  # noqa: E402
from server.engine.processor_v2 import BudgetForcing  # noqa: E402
from server.engine.sampler_hook import UnsupportedEngineError  # noqa: E402

IDS = toy_markers()
DEVICE = torch.device(kernel_device.NAME)
PROMPT = [TURN, 1, 25]
"""Ends inside open thinking."""


@dataclass
class Published:
    receipts: dict[str, EngineReceipt] = field(default_factory=dict)
    arrived: threading.Event = field(default_factory=threading.Event)

    def publish(self, receipt: EngineReceipt) -> None:
        self.receipts[receipt.receipt_id] = receipt
        self.arrived.set()

    def wait(self) -> None:
        assert self.arrived.wait(10)
        self.arrived.clear()


class ToySampler:
    """Says what the test wants, unless the processors leave only another token."""

    def __init__(self, processor: Any) -> None:
        self.logits_processors = [object(), processor]

    def sample(
        self, logits: Any, expanded_idx_mapping: Any, idx_mapping: Any, idx_mapping_np: Any, *rest: Any
    ) -> Any:
        context = SimpleNamespace(
            expanded_idx_mapping=expanded_idx_mapping,
            idx_mapping=idx_mapping,
            idx_mapping_np=idx_mapping_np,
            expanded_local_pos=torch.zeros(len(idx_mapping), dtype=torch.int32, device=DEVICE),
            input_ids=torch.zeros(len(idx_mapping), dtype=torch.int32, device=DEVICE),
        )
        logits = self.logits_processors[1].apply(logits, context)
        return logits.argmax(-1), logits


class ToyVerifier:
    """Accepts every draft."""

    def __init__(self, sampler: ToySampler) -> None:
        self.sampler = sampler

    def _verify(
        self, logits: Any, draft_logits: Any, draft_sampled: Any, pos: Any, cu_num_logits: Any,
        idx_mapping: Any, idx_mapping_np: Any, expanded_idx_mapping: Any, expanded_local_pos: Any,
        seq_lens_upper_bound_np: Any, verify_draft_sampled: Any,
    ) -> Any:  # fmt: skip
        context = SimpleNamespace(
            expanded_idx_mapping=expanded_idx_mapping,
            idx_mapping=idx_mapping,
            idx_mapping_np=idx_mapping_np,
            expanded_local_pos=expanded_local_pos,
            input_ids=draft_sampled,
        )
        logits = self.sampler.logits_processors[1].apply(logits, context)
        sampled = torch.cat([draft_sampled[1:], logits[-1:].argmax(-1)]).view(1, -1)
        return logits, sampled, torch.tensor([sampled.shape[1]], dtype=torch.int32, device=DEVICE)


class ToyRunner:
    """Slots and tokens as vLLM's V2 runner keeps them."""

    def __init__(self) -> None:
        self.published = Published()
        self.req_states = SimpleNamespace(
            max_num_reqs=3,
            vocab_size=VOCABULARY,
            device=DEVICE,
            all_token_ids=SimpleNamespace(gpu=torch.zeros((3, 200), dtype=torch.int32, device=DEVICE)),
            total_len=SimpleNamespace(gpu=torch.zeros(3, dtype=torch.int32, device=DEVICE)),
            req_id_to_index={},
        )
        self.processor = BudgetForcing.__new__(BudgetForcing)
        outbox = Outbox(self.published.publish)
        self.processor._configure(
            IDS, self.req_states, max_model_len=200, drafts=4, outbox=outbox, encode=list
        )
        self.sampler = ToySampler(self.processor)
        self.verifier = ToyVerifier(self.sampler)
        self.free = [0, 1, 2]

    def finish_requests(self, scheduler_output: Any) -> None:
        for name in scheduler_output.finished_req_ids | scheduler_output.preempted_req_ids:
            if name in self.req_states.req_id_to_index:
                self.free.insert(0, self.req_states.req_id_to_index.pop(name))

    def add_requests(self, scheduler_output: Any) -> None:
        for request in scheduler_output.scheduled_new_reqs:
            slot = self.free.pop()
            self.req_states.req_id_to_index[request.req_id] = slot
            text = request.prefill_token_ids
            self.req_states.all_token_ids.gpu[slot, : len(text)] = torch.tensor(text, dtype=torch.int32)
            self.req_states.total_len.gpu[slot] = len(text)
            self.processor.add_request(slot, request.sampling_params)

    # -- what a test does -----------------------------------------------------------------------------

    def schedule(
        self, *new: Any, finished: set[str] = frozenset(), preempted: set[str] = frozenset()
    ) -> None:
        output = SimpleNamespace(
            scheduled_new_reqs=list(new), finished_req_ids=finished, preempted_req_ids=preempted
        )
        self.finish_requests(output)
        self.add_requests(output)

    def say(self, **wanted: int) -> dict[str, int]:
        """One step in which the model would say these tokens; what stands is appended and returned."""
        slots = np.array([self.req_states.req_id_to_index[name] for name in wanted])
        index = torch.from_numpy(slots).to(DEVICE)
        logits = torch.zeros(len(wanted), VOCABULARY, device=DEVICE)
        logits[range(len(wanted)), list(wanted.values())] = 5.0
        sampled, _ = self.sampler.sample(logits, index, index, slots)
        for slot, token in zip(slots, sampled, strict=True):
            self._append(int(slot), [int(token)])
        return dict(zip(wanted, sampled.tolist(), strict=True))

    def verify(self, name: str, drafts: list[int], then: int) -> list[int]:
        slot = self.req_states.req_id_to_index[name]
        rows = len(drafts) + 1
        logits = torch.zeros(rows, VOCABULARY, device=DEVICE)
        logits[-1, then] = 5.0
        _, sampled, count = self.verifier._verify(
            logits,
            None,
            torch.tensor([24, *drafts], dtype=torch.int32, device=DEVICE),
            torch.arange(rows, device=DEVICE),
            cu_num_logits=torch.tensor([0, rows], dtype=torch.int32, device=DEVICE),
            idx_mapping=torch.tensor([slot], device=DEVICE),
            idx_mapping_np=np.array([slot]),
            expanded_idx_mapping=torch.full((rows,), slot, device=DEVICE),
            expanded_local_pos=torch.arange(rows, dtype=torch.int32, device=DEVICE),
            seq_lens_upper_bound_np=None,
            verify_draft_sampled=None,
        )
        kept: list[int] = sampled[0, : int(count)].tolist()
        self._append(slot, kept)
        return kept

    def _append(self, slot: int, tokens: list[int]) -> None:
        at = int(self.req_states.total_len.gpu[slot])
        self.req_states.all_token_ids.gpu[slot, at : at + len(tokens)] = torch.tensor(tokens).int()
        self.req_states.total_len.gpu[slot] += len(tokens)


sampler_hook_v2._wrap_sampler(ToySampler)
sampler_hook_v2._wrap_verifier(ToyVerifier)
sampler_hook_v2._wrap_runner(ToyRunner)


def request(name: str, output: tuple[int, ...] = (), **budget: int) -> Any:
    return SimpleNamespace(
        req_id=name,
        prompt_len=len(PROMPT),
        prefill_token_ids=[*PROMPT, *output],
        sampling_params=SamplingParams(max_tokens=100, extra_args={**budget, "receipt_id": f"r-{name}"}),
    )


def machine(maximum: int, waits: int) -> BudgetMachine:
    return BudgetMachine(IDS, EffectiveBudget(maximum, 0, waits, 0, ()), opened=True)


def test_a_request_from_its_arrival_to_its_receipt() -> None:
    runner = ToyRunner()
    runner.schedule(request("a", max_thinking_tokens=20, num_waits=1), request("free"))
    oracle = machine(20, 1)
    for token in (26, EOS, 27, TURN, 1, 1, 1, 1, 28, 29, EOS):
        stands = runner.say(free=token, a=token)
        assert stands == {"free": token, "a": oracle.commit(token)}
    runner.schedule(finished={"a", "free"})
    runner.published.wait()
    assert runner.published.receipts == {"r-a": oracle.receipt("r-a")}
    assert oracle.ended_by == "model"
    assert oracle.wait_positions == [1]


@pytest.mark.parametrize("lost", [0, 1])
def test_preempted_resumed_in_another_slot_with_a_token_lost(lost: int) -> None:
    """A model's own `Wait` and an injected one look alike: only the recorded events tell them apart."""
    runner = ToyRunner()
    runner.schedule(request("a", max_thinking_tokens=30, num_waits=2))
    said = [WAIT, EOS, 26, TURN, 27]
    stands = [runner.say(a=token)["a"] for token in said]
    assert stands == [WAIT, WAIT, 26, WAIT, 27]
    kept = len(said) - lost
    runner.schedule(request("b", max_thinking_tokens=0), preempted={"a"})
    runner.published.wait()
    runner.schedule(request("a", tuple(stands[:kept]), max_thinking_tokens=30, num_waits=2))
    oracle = machine(30, 2)
    for token in said[:kept]:
        oracle.commit(token)
    for token in (28, EOS, 1, 1, 29):
        assert runner.say(a=token)["a"] == oracle.commit(token)
    runner.schedule(finished={"a"})
    runner.published.wait()
    assert runner.published.receipts["r-a"] == oracle.receipt("r-a")
    assert oracle.waits == 2


@pytest.mark.parametrize(
    ("fields", "says"),
    [
        (
            {"logit_bias": dict.fromkeys(range(1025), 1.0)},
            "`logit_bias` must have at most 1024 .* Given: 1025",
        ),
        (
            {"allowed_token_ids": list(range(1025))},
            "`allowed_token_ids` must have at most 1024 .* Given: 1025",
        ),
        (
            {"stop_token_ids": list(range(121)), "min_tokens": 1},
            "`stop_token_ids` must have at most 120 entries",
        ),
    ],
)
def test_what_would_end_the_engine_is_refused(fields: dict[str, Any], says: str) -> None:
    """vLLM's tables for these have a fixed size; a worker that finds too many entries raises."""
    with pytest.raises(VLLMValidationError, match=says):
        BudgetForcing.validate_params(SamplingParams(**fields))


def test_the_most_that_the_engine_takes_is_let_through() -> None:
    many = SamplingParams(logit_bias=dict.fromkeys(range(1024), 1.0), allowed_token_ids=list(range(1024)))
    BudgetForcing.validate_params(many)
    BudgetForcing.validate_params(SamplingParams(stop_token_ids=list(range(120)), min_tokens=1))
    BudgetForcing.validate_params(SamplingParams(stop_token_ids=list(range(500))))
    BudgetForcing.validate_params(SamplingParams(bad_words=["a few", "words"]))


def test_an_aborted_preempted_request_leaves_nothing_behind() -> None:
    runner = ToyRunner()
    runner.schedule(request("a", max_thinking_tokens=30))
    runner.say(a=26)
    runner.schedule(preempted={"a"})
    assert runner.processor._preempted.keys() == {"a"}
    runner.schedule(finished={"a"})
    assert not runner.processor._preempted


def test_a_recycled_slot_forgets_its_budget() -> None:
    runner = ToyRunner()
    runner.schedule(request("a", max_thinking_tokens=0), request("b"), request("c"))
    assert runner.say(a=26)["a"] == TURN
    runner.schedule(request("d"), finished={"a"})
    assert runner.say(d=26, b=EOS) == {"d": 26, "b": EOS}


@pytest.mark.parametrize(
    ("budget", "drafts", "then", "stands"),
    [
        ({"max_thinking_tokens": 50}, [26, 27], 28, [26, 27, 28]),
        ({"max_thinking_tokens": 50, "num_waits": 1}, [26, TURN, ANSWER], 28, [26, WAIT]),
        ({"max_thinking_tokens": 50}, [26, TURN, ANSWER], 28, [26, TURN, ANSWER, 28]),
        ({"max_thinking_tokens": 50}, [26, EOS, 27], 28, [26, TURN]),
        ({"max_thinking_tokens": 3}, [26, 27, 30, 31], 28, [26, 27, IDS.newline]),
    ],
    ids=[
        "thoughts",
        "end-in-a-draft-waits",
        "end-in-a-draft-ends",
        "eos-in-a-draft",
        "maximum-inside-drafts",
    ],
)
def test_drafts(budget: dict[str, int], drafts: list[int], then: int, stands: list[int]) -> None:
    """With a verifier that would take any draft."""
    runner = ToyRunner()
    runner.schedule(request("a", **budget))
    assert runner.verify("a", drafts, then) == stands


@pytest.mark.parametrize(
    ("owner", "name"),
    [
        (Sampler, "sample"),
        (RejectionSampler, "_verify"),
        (GPUModelRunner, "finish_requests"),
        (GPUModelRunner, "add_requests"),
    ],
)
def test_another_signature_stops_the_start(owner: Any, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def method(self: Any, other: int) -> None: ...

    monkeypatch.setattr(owner, name, method)
    with pytest.raises(UnsupportedEngineError, match=r"takes \(self, other\)"):
        sampler_hook_v2.install()


def test_the_installed_vllm_is_hooked_once(monkeypatch: pytest.MonkeyPatch) -> None:
    for owner, name in (
        (Sampler, "sample"),
        (RejectionSampler, "_verify"),
        (GPUModelRunner, "finish_requests"),
        (GPUModelRunner, "add_requests"),
    ):
        monkeypatch.setattr(owner, name, getattr(owner, name))
    sampler_hook_v2.install()
    hooked = Sampler.sample, RejectionSampler._verify, GPUModelRunner.add_requests
    sampler_hook_v2.install()
    assert hooked == (Sampler.sample, RejectionSampler._verify, GPUModelRunner.add_requests)
    assert all(hasattr(method, "__wrapped__") for method in hooked)
