"""Real engines for benchmarks that need one: with our plugin, or stock vLLM."""

from __future__ import annotations

import contextlib
import json
import math
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from loadtest.bench.processes import Server, server
from loadtest.gpu_check.checkpoint import load_tokenizer, markers
from loadtest.gpu_check.configurations import graphs
from loadtest.gpu_check.shapes import SHAPES
from server.engine import one_process
from server.engine.launch import VLLM_SERVER, on_gpu
from server.engine.supervisor import free_port

DEMO = Path(__file__).parents[2] / "training" / "checkpoints" / "tiny-reasoner"
FAMILY = "s1"
_ENVIRONMENT = {
    "VLLM_CPU_KVCACHE_SPACE": "1",
    "VLLM_NO_USAGE_STATS": "1",
    # Engines that run side by side would starve each other by spinning.
    "OMP_NUM_THREADS": "1",
    "VLLM_CPU_OMP_THREADS_BIND": "nobind",
}
_GPU_SHARE = 0.45
"""Of its memory, for each of two engines."""
_ATTEMPT_EVERY = 32
"""Tokens; a reasoning model tries to end its thinking every few hundred."""


@dataclass(frozen=True, slots=True)
class Model:
    """What the engines of a benchmark serve."""

    path: Path
    name: str
    words: str
    """For the page."""
    arguments: tuple[str, ...] = ()
    """vLLM's."""
    ends_often: Mapping[str, Any] = field(default_factory=dict)
    """Fields of a request with which a model of random weights tries to end its thinking often."""


DEMO_MODEL = Model(DEMO, DEMO.name, "the demo checkpoint")


@contextlib.contextmanager
def model_of(shape: str | None) -> Iterator[Model]:
    """The demo checkpoint, or random weights of a public shape with the demo's tokenizer and vocabulary.

    Raises:
        ValueError: there is no such shape.
    """
    if shape is None:
        yield DEMO_MODEL
        return
    if shape not in SHAPES:
        raise ValueError(f"--shape must be one of {', '.join(SHAPES)}. Given: {shape}")
    with tempfile.TemporaryDirectory(prefix="s1-shape-") as directory:
        path = Path(directory) / shape
        # An id past the tokenizer's would have no text: as many ids as the demo checkpoint has.
        vocabulary = json.loads((DEMO / "config.json").read_text())["vocab_size"]
        replace(SHAPES[shape], vocab_size=vocabulary).write(path, DEMO)
        arguments = ("--load-format", "dummy", "--max-model-len", "4096")
        end = markers(str(path), load_tokenizer(str(path))).end[0]
        # All logits are nearly alike: p = e^bias / (e^bias + vocabulary).
        bias = math.log(vocabulary / (_ATTEMPT_EVERY - 1))
        yield Model(
            path,
            shape,
            f"random weights of {shape}'s layers, the demo's vocabulary",
            arguments,
            {"temperature": 1.0, "logit_bias": {str(end): round(bias, 2)}},
        )


def with_plugin(*arguments: str, model: Model = DEMO_MODEL) -> contextlib.AbstractContextManager[Server]:
    """`s1 engine`; `arguments` are vLLM's."""
    port = free_port()
    argv = [sys.executable, "-m", "server.cli", "engine", str(model.path), "--served-model-name", model.name]
    argv += ["--port", str(port), "--", *_arguments(model, arguments)]
    return server("engine", argv, port=port, env=_ENVIRONMENT)


def stock(*arguments: str, model: Model = DEMO_MODEL) -> contextlib.AbstractContextManager[Server]:
    """vLLM without our plugin."""
    port = free_port()
    return server(
        "stock", _stock_argv(port, model, _arguments(model, arguments)), port=port, env=_ENVIRONMENT
    )


def _arguments(model: Model, arguments: Sequence[str]) -> list[str]:
    """On a GPU, graphs without minutes of compiling, and room for a second engine."""
    gpu = ["--gpu-memory-utilization", str(_GPU_SHARE), "--compilation-config", json.dumps(graphs())]
    return [*(gpu if on_gpu() else ()), *model.arguments, *arguments]


def _stock_argv(port: int, model: Model, arguments: Sequence[str]) -> list[str]:
    on_cpu = [] if on_gpu() else ["--enforce-eager", *one_process.arguments(arguments, _ENVIRONMENT)]
    return [
        sys.executable, "-m", VLLM_SERVER, "--model", str(model.path),
        "--served-model-name", model.name, "--host", "127.0.0.1", "--port", str(port), *on_cpu, *arguments,
    ]  # fmt: skip
