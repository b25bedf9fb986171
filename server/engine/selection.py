"""Which of our processors an engine gets: the one for vLLM's V1 runner, or the one for Model Runner V2.

V1 is the default everywhere. vLLM has no V2 runner on CPUs, and our V2 processor has been proven in Triton's
interpreter and compiled for NVIDIA GPUs, but not yet been run on one: it must be asked for.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, Literal

Runner = Literal["v1", "v2"]

RUNNER_VARIABLE = "S1_ENGINE_RUNNER"
_VLLM_VARIABLE = "VLLM_USE_V2_MODEL_RUNNER"
_VLLM_VALUE: dict[Runner, str] = {"v1": "0", "v2": "1"}

PROCESSORS: dict[Runner, str] = {
    "v1": "server.engine.processor_v1:BudgetForcing",
    "v2": "server.engine.processor_v2:BudgetForcing",
}


class SelectionError(ValueError):
    """These settings can't be enforced together; the message says what to change."""


def choose_runner(environment: Mapping[str, str], *, on_gpu: bool) -> Runner:
    """The runner that `S1_ENGINE_RUNNER` asks for.

    Raises:
        SelectionError: the value is unknown, needs a GPU, or contradicts vLLM's own variable.
    """
    value = environment.get(RUNNER_VARIABLE) or "v1"
    if value not in ("v1", "v2"):
        raise SelectionError(f"{RUNNER_VARIABLE} must be v1 or v2. Given: {value}")
    runner: Runner = "v2" if value == "v2" else "v1"
    if runner == "v2" and not on_gpu:
        raise SelectionError(
            f"{RUNNER_VARIABLE}=v2 needs an NVIDIA GPU and the CUDA build of vLLM, which has no other V2 "
            f"runner. Unset {RUNNER_VARIABLE}"
        )
    vllm_value = environment.get(_VLLM_VARIABLE)
    if vllm_value is not None and vllm_value != _VLLM_VALUE[runner]:
        raise SelectionError(
            f"{_VLLM_VARIABLE} must be {_VLLM_VALUE[runner]} with {RUNNER_VARIABLE}={runner}: our "
            f"processor is written for one of vLLM's runners. Given: {vllm_value}. "
            f"Unset it, and set {RUNNER_VARIABLE}"
        )
    return runner


def runner_environment(runner: Runner) -> dict[str, str]:
    return {_VLLM_VARIABLE: _VLLM_VALUE[runner]}


def require_v2_support(vllm_config: Any) -> None:
    """Stop the start of an engine whose configuration our V2 processor can't enforce budgets in.

    Raises:
        SelectionError: naming what to change.
    """
    reasons = list(_unsupported(vllm_config))
    if reasons:
        raise SelectionError(
            "budgets can't be enforced with this engine configuration: " + "; ".join(reasons)
        )


def _unsupported(vllm_config: Any) -> Iterator[str]:
    if getattr(vllm_config, "watermark_config", None) is not None:
        yield "watermarking samples past our hook: leave the watermark configuration out"
    is_diffusion = getattr(vllm_config.model_config, "is_diffusion", False)
    if is_diffusion or getattr(vllm_config, "diffusion_config", None) is not None:
        yield "diffusion models do not sample token by token: serve another model"
    if vllm_config.parallel_config.enable_batch_sharded_sampling:
        yield "batch-sharded sampling spreads a batch's state over ranks: turn it off"
    if getattr(vllm_config.model_config, "enable_trace_replay", False):
        yield "trace replay overwrites sampled tokens: turn it off"
    if getattr(vllm_config.model_config, "enable_sleep_mode", False):
        yield "sleep mode may discard the budgets' tables on the device: leave --enable-sleep-mode out"
    speculative = vllm_config.speculative_config
    if speculative is None:
        return
    if speculative.rejection_sample_method == "synthetic":
        yield "synthetic acceptance keeps drafts that were not sampled: use another rejection_sample_method"
    if speculative.enable_adaptive_verification:
        yield "adaptive draft verification has not been proven: set enable_adaptive_verification to false"
