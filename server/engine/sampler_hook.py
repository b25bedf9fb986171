"""Replace tokens right after they are sampled, inside vLLM's V1 runner.

vLLM has no stage between sampling and committing a token, and only there does a replacement equal s1's
"stop at the delimiter, drop it, append Wait" under penalties, nucleus sampling and seeds. So two internal
methods are wrapped, and their signatures are checked first: another vLLM stops the start, not a request.
"""

from __future__ import annotations

import functools
import inspect
from typing import Any

import torch

_SAMPLE_PARAMETERS = ("self", "logits", "sampling_metadata", "logprobs_mode_override")
_BOOKKEEPING_PARAMETERS = (
    "self",
    "scheduler_output",
    "sampler_output",
    "logits",
    "hidden_states",
    "num_scheduled_tokens",
)


class UnsupportedEngineError(RuntimeError):
    """This vLLM, or this configuration of it, can't enforce budgets exactly."""


def install() -> None:
    """Wrap the V1 sampler, once per process.

    Raises:
        UnsupportedEngineError: the wrapped methods are not those of the supported vLLM.
    """
    from vllm.v1.sample.sampler import Sampler

    if getattr(Sampler.sample, "edits_sampled_ids", False):
        return
    check_signature(Sampler.sample, _SAMPLE_PARAMETERS)
    original = Sampler.sample

    @functools.wraps(original)
    def sample(self: Any, logits: torch.Tensor, sampling_metadata: Any, *args: Any, **kwargs: Any) -> Any:
        sampled, logprobs = original(self, logits, sampling_metadata, *args, **kwargs)
        for processor in sampling_metadata.logitsprocs.non_argmax_invariant:
            # Asked at every step: `isinstance` of a protocol would take longer than an idle step.
            if (post_sample := getattr(processor, "post_sample", None)) is not None:
                sampled = post_sample(sampled)
        return sampled, logprobs

    sample.edits_sampled_ids = True  # type: ignore[attr-defined]
    Sampler.sample = sample


def install_cpu_generator_rewind() -> None:
    """Let a seeded request's sample be discarded on a CPU.

    vLLM 0.32 rewinds a discarded sample by `Generator.set_offset`, which CPU generators do not have: a seed
    on a prompt prefilled in chunks, or on a preempted request, would kill the engine.
    """
    from vllm.v1.sample.sampler import Sampler
    from vllm.v1.worker.gpu_model_runner import GPUModelRunner

    if getattr(GPUModelRunner._bookkeeping_sync, "rewinds_cpu_generators", False):
        return
    check_signature(GPUModelRunner._bookkeeping_sync, _BOOKKEEPING_PARAMETERS)
    before_sampling: dict[int, torch.Tensor] = {}
    original_sample, original_sync = Sampler.sample, GPUModelRunner._bookkeeping_sync

    @functools.wraps(original_sample)
    def sample(self: Any, logits: torch.Tensor, sampling_metadata: Any, *args: Any, **kwargs: Any) -> Any:
        if sampling_metadata.generators or before_sampling:
            before_sampling.clear()
        for row, generator in sampling_metadata.generators.items():
            before_sampling[row] = generator.get_state()
        return original_sample(self, logits, sampling_metadata, *args, **kwargs)

    @functools.wraps(original_sync)
    def bookkeeping_sync(self: Any, *args: Any, **kwargs: Any) -> Any:
        generators = self.input_batch.generators
        if not generators:
            return original_sync(self, *args, **kwargs)
        discarded = {row: g for row, g in generators.items() if self.discard_request_mask.np[row]}
        for row, generator in discarded.items():
            if row in before_sampling:
                generator.set_state(before_sampling[row])
            del generators[row]
        try:
            return original_sync(self, *args, **kwargs)
        finally:
            generators.update(discarded)

    bookkeeping_sync.rewinds_cpu_generators = True  # type: ignore[attr-defined]
    Sampler.sample, GPUModelRunner._bookkeeping_sync = sample, bookkeeping_sync


def check_signature(method: Any, expected: tuple[str, ...]) -> None:
    """Stop the start on another vLLM.

    Raises:
        UnsupportedEngineError: `method` does not take these parameters.
    """
    found = tuple(inspect.signature(method).parameters)
    if found != expected:
        import vllm

        raise UnsupportedEngineError(
            f"{method.__qualname__} of vLLM {vllm.__version__} takes ({', '.join(found)}), not "
            f"({', '.join(expected)}): budgets can't be enforced. Install the pinned vLLM 0.32.0"
        )
