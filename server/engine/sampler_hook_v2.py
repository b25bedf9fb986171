"""Replace tokens right after they are sampled, inside vLLM's Model Runner V2.

V2's logits processors have no stage after the sample, and are not told when a request ends or is preempted.
So four internal methods are wrapped, their signatures checked first:

- `Sampler.sample` and `RejectionSampler._verify`: what was sampled, or verified against drafts, is edited
  before log-probabilities are taken of it and before the runner counts how many tokens were rejected;
- `GPUModelRunner.finish_requests` and `add_requests`: who leaves which slot, and who takes it.
"""

from __future__ import annotations

import functools
from collections.abc import Iterator
from typing import Any, Protocol, runtime_checkable

import numpy as np
import numpy.typing as npt
import torch

from server.engine.sampler_hook import check_signature

_SAMPLE_PARAMETERS = (
    "self",
    "logits",
    "expanded_idx_mapping",
    "idx_mapping",
    "idx_mapping_np",
    "pos",
    "input_ids",
    "expanded_local_pos",
    "seq_lens_upper_bound_np",
    "return_logprobs",
)
_VERIFY_PARAMETERS = (
    "self",
    "logits",
    "draft_logits",
    "draft_sampled",
    "pos",
    "cu_num_logits",
    "idx_mapping",
    "idx_mapping_np",
    "expanded_idx_mapping",
    "expanded_local_pos",
    "seq_lens_upper_bound_np",
    "verify_draft_sampled",
)
_SCHEDULER_PARAMETERS = ("self", "scheduler_output")

Slots = npt.NDArray[np.integer[Any]]


@runtime_checkable
class SlotProcessor(Protocol):
    """A logits processor of the V2 runner that also edits sampled ids and follows requests in and out."""

    def post_sample(self, sampled: torch.Tensor, slots: torch.Tensor, slots_np: Slots) -> None:
        """Edit `sampled`, [requests], in place."""
        ...

    def post_verify(
        self,
        sampled: torch.Tensor,
        num_sampled: torch.Tensor,
        row_starts: torch.Tensor,
        slots: torch.Tensor,
        slots_np: Slots,
    ) -> None:
        """Edit `sampled`, [requests, places], and `num_sampled`, [requests], in place."""
        ...

    def requests_leave(self, slot_of: dict[str, int], *, finished: set[str], preempted: set[str]) -> None:
        """Before the runner frees the slots of these requests; a waiting request has none."""
        ...

    def requests_arrive(self, slot_of: dict[str, int], requests: list[Any]) -> None:
        """After the runner has put these `NewRequestData` into slots and their tokens on the device."""
        ...


def install() -> None:
    """Wrap the V2 sampler and runner, once per process.

    Raises:
        UnsupportedEngineError: a wrapped method is not that of the supported vLLM.
    """
    from vllm.v1.worker.gpu.model_runner import GPUModelRunner
    from vllm.v1.worker.gpu.sample.sampler import Sampler
    from vllm.v1.worker.gpu.spec_decode.rejection_sampler import RejectionSampler

    if getattr(Sampler.sample, "edits_sampled_ids", False):
        return
    check_signature(Sampler.sample, _SAMPLE_PARAMETERS)
    check_signature(RejectionSampler._verify, _VERIFY_PARAMETERS)
    check_signature(GPUModelRunner.finish_requests, _SCHEDULER_PARAMETERS)
    check_signature(GPUModelRunner.add_requests, _SCHEDULER_PARAMETERS)
    _wrap_sampler(Sampler)
    _wrap_verifier(RejectionSampler)
    _wrap_runner(GPUModelRunner)


def _wrap_sampler(sampler_class: Any) -> None:
    original = sampler_class.sample

    @functools.wraps(original)
    def sample(
        self: Any,
        logits: torch.Tensor,
        expanded_idx_mapping: torch.Tensor,
        idx_mapping: torch.Tensor,
        idx_mapping_np: Slots,
        *args: Any,
        **kwargs: Any,
    ) -> Any:
        sampled, processed_logits = original(
            self, logits, expanded_idx_mapping, idx_mapping, idx_mapping_np, *args, **kwargs
        )
        for processor in _processors(self):
            processor.post_sample(sampled, idx_mapping, idx_mapping_np)
        return sampled, processed_logits

    sample.edits_sampled_ids = True  # type: ignore[attr-defined]
    sampler_class.sample = sample


def _wrap_verifier(verifier_class: Any) -> None:
    original = verifier_class._verify
    places = {name: i for i, name in enumerate(_VERIFY_PARAMETERS[1:])}

    @functools.wraps(original)
    def verify(self: Any, *args: Any, **kwargs: Any) -> Any:
        processed_logits, sampled, num_sampled = original(self, *args, **kwargs)

        def argument(name: str) -> Any:
            return kwargs[name] if name in kwargs else args[places[name]]

        for processor in _processors(self.sampler):
            processor.post_verify(
                sampled,
                num_sampled,
                argument("cu_num_logits"),
                argument("idx_mapping"),
                argument("idx_mapping_np"),
            )
        return processed_logits, sampled, num_sampled

    verifier_class._verify = verify


def _wrap_runner(runner_class: Any) -> None:
    original_finish, original_add = runner_class.finish_requests, runner_class.add_requests

    @functools.wraps(original_finish)
    def finish_requests(self: Any, scheduler_output: Any) -> None:
        for processor in _processors(self.sampler):
            processor.requests_leave(
                self.req_states.req_id_to_index,
                finished=set(scheduler_output.finished_req_ids),
                preempted=set(scheduler_output.preempted_req_ids or ()),
            )
        original_finish(self, scheduler_output)

    @functools.wraps(original_add)
    def add_requests(self: Any, scheduler_output: Any) -> None:
        original_add(self, scheduler_output)
        if scheduler_output.scheduled_new_reqs:
            for processor in _processors(self.sampler):
                processor.requests_arrive(
                    self.req_states.req_id_to_index, scheduler_output.scheduled_new_reqs
                )

    runner_class.finish_requests, runner_class.add_requests = finish_requests, add_requests


def _processors(sampler: Any) -> Iterator[SlotProcessor]:
    """Ours among the sampler's processors; a pipeline stage before the last has no sampler."""
    if sampler is not None:
        for processor in sampler.logits_processors:
            kind: Any = type(processor)
            if _is_slot_processor(kind):
                yield processor


@functools.cache
def _is_slot_processor(kind: Any) -> bool:
    """Remembered: looking through a protocol's methods at every step takes longer than launching a kernel."""
    return issubclass(kind, SlotProcessor)
