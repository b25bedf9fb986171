"""An engine on few CPU cores: all of it in one process.

vLLM runs a model on a CPU in a process of its own, and this and the engine's core wait for one another by
spinning. Where there are two or four cores, that is time taken from those that have something to do: on two
a fifth of a small model's tokens a second (docs/performance.md). vLLM wants the second process because OpenMP
reads its threads from the environment as a process starts; the environment is ours to set before the engine
starts at all.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path

from server.engine.flags import flag_among

_FLAG = "--distributed-executor-backend"
_EXECUTOR = "vllm.v1.executor.uniproc_executor.UniProcExecutor"
_FEW_CPUS = 4
_THREADS = "OMP_NUM_THREADS"
_BINDING = "VLLM_CPU_OMP_THREADS_BIND"
_UNBOUND = "nobind"
_SEVERAL_WORKERS = (
    _FLAG, "--tensor-parallel-size", "-tp", "--pipeline-parallel-size", "-pp", "--data-parallel-size", "-dp",
    "--nnodes", "-n",
)  # fmt: skip
_CPU_QUOTA = Path("/sys/fs/cgroup/cpu.max")


def suits(extra_args: Sequence[str], environment: Mapping[str, str]) -> bool:
    """Whether an engine with one worker on a CPU is better off in one process here.

    Args:
        extra_args: the user's flags for vLLM, which may ask for something else.
        environment: may bind OpenMP's threads to cores, which needs vLLM's own process.
    """
    asked = any(flag_among(argument, _SEVERAL_WORKERS) is not None for argument in extra_args)
    return not asked and environment.get(_BINDING, _UNBOUND) == _UNBOUND and cpus() <= _FEW_CPUS


def arguments(extra_args: Sequence[str], environment: Mapping[str, str]) -> list[str]:
    """Flags for vLLM; none where `suits` is false."""
    return [_FLAG, _EXECUTOR] if suits(extra_args, environment) else []


def threads() -> dict[str, str]:
    """Environment variables, unless the user has set them: cores are left for HTTP, here and in gateways."""
    return {_THREADS: str(max(1, cpus() // 2)), _BINDING: _UNBOUND}


def cpus(quota: Path = _CPU_QUOTA) -> int:
    """That this process may use, by affinity and by its container's limit.

    Args:
        quota: cgroup v2's file, "MICROSECONDS PERIOD" or "max PERIOD".
    """
    mine = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    try:
        granted, period = quota.read_text().split()
        return max(1, min(mine, -(-int(granted) // int(period))))
    except (OSError, ValueError):
        return mine
