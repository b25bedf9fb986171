"""Real engines on the demo checkpoint, for benchmarks that need one: with our plugin, or stock vLLM."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Sequence
from pathlib import Path

from loadtest.bench.processes import Server, free_port, server
from server.engine import one_process

DEMO = Path(__file__).parents[2] / "training" / "checkpoints" / "tiny-reasoner"
FAMILY = "s1"
_ENVIRONMENT = {
    "VLLM_CPU_KVCACHE_SPACE": "1",
    "VLLM_NO_USAGE_STATS": "1",
    # Engines that run side by side would starve each other by spinning.
    "OMP_NUM_THREADS": "1",
    "VLLM_CPU_OMP_THREADS_BIND": "nobind",
}


def with_plugin(*arguments: str) -> contextlib.AbstractContextManager[Server]:
    """`s1 engine`; `arguments` are vLLM's."""
    port = free_port()
    argv = [sys.executable, "-m", "server.cli", "engine", "--port", str(port), "--", *arguments]
    return server("engine", argv, port=port, env=_ENVIRONMENT)


def stock(*arguments: str) -> contextlib.AbstractContextManager[Server]:
    """vLLM without our plugin."""
    port = free_port()
    return server("stock", _stock_argv(port, arguments), port=port, env=_ENVIRONMENT)


def _stock_argv(port: int, arguments: Sequence[str]) -> list[str]:
    return [
        sys.executable, "-m", "vllm.entrypoints.launchers.api_server.entry", "--model", str(DEMO),
        "--served-model-name", DEMO.name, "--host", "127.0.0.1", "--port", str(port),
        "--enforce-eager", *one_process.arguments(arguments, _ENVIRONMENT), *arguments,
    ]  # fmt: skip
