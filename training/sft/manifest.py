"""What a run was: enough to say truthfully where a model comes from, and to refuse a resume that differs."""

import platform
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from training.sft.machine import Machine, resolved_precision
from training.sft.setup import Setup
from training.versions import versions

_PACKAGES = ("torch", "transformers", "trl", "accelerate", "datasets", "tokenizers", "safetensors")
_LORA_PACKAGES = ("peft",)
_GPU_PACKAGES = ("liger-kernel", "flash-attn", "bitsandbytes")
_TAIL_STEPS = 10


def identity(setup: Setup, machine: Machine) -> dict[str, Any]:
    """What must be the same when a run is resumed. Where files lie and what is logged may change."""
    recipe = setup.recipe.model_dump(exclude={"output", "threads"})
    del recipe["data"]["files"]
    return {
        "recipe": recipe,
        "data_sha256": setup.data_sha256,
        "num_processes": machine.num_processes,
        "precision": resolved_precision(setup.recipe, machine),
    }


def differences(before: Any, now: Any, path: str = "") -> list[str]:
    """``field: before -> now`` for every leaf that differs."""
    if isinstance(before, dict) and isinstance(now, dict):
        names = sorted(before.keys() | now.keys())
        return [
            difference
            for name in names
            for difference in differences(before.get(name), now.get(name), f"{path}.{name}" if path else name)
        ]
    return [] if before == now else [f"{path}: {before!r} -> {now!r}"]


def make_manifest(
    setup: Setup,
    machine: Machine,
    *,
    losses: Sequence[float],
    seconds: float,
    resumed_from: Sequence[int],
    peak_gpu_bytes: int | None,
) -> dict[str, Any]:
    """``seconds`` are those of this process alone: a resumed run took longer in all."""
    examples, last = setup.examples, list(losses)[-_TAIL_STEPS:]
    return {
        "recipe": {**setup.recipe.model_dump(), "data": _named(setup.recipe.model_dump()["data"])},
        "seed": setup.recipe.seed,
        "base": _base_name(setup),
        "format": setup.trace_format.name,
        "data": {
            "files": [asdict(file) for file in setup.files],
            "form": examples.form,
            "answer_columns": dict(examples.answer_columns),
            "samples": len(examples.input_ids),
            "dropped": len(examples.dropped),
            "tokens": examples.num_tokens,
            "learned_tokens": examples.num_learned,
            "rows_after_packing": len(setup.dataset),
            "sha256": setup.data_sha256,
        },
        "plan": {**asdict(setup.plan), "effective_batch_size": setup.plan.effective_batch_size},
        "training": {
            "first_loss": round(losses[0], 4) if losses else None,
            "last_loss": round(sum(last) / len(last), 4) if last else None,
            "seconds": round(seconds, 1),
            "resumed_from_steps": list(resumed_from),
            "peak_gpu_bytes": peak_gpu_bytes,
        },
        "machine": {
            "gpu": machine.gpu,
            "num_processes": machine.num_processes,
            "precision": resolved_precision(setup.recipe, machine),
            "architecture": platform.machine(),
        },
        "versions": package_versions(with_lora=setup.recipe.lora is not None),
    }


def package_versions(*, with_lora: bool = False) -> dict[str, str]:
    """Of what trains; packages for GPUs where they are installed."""
    names = (*_PACKAGES, *(_LORA_PACKAGES if with_lora else ()), "s1-server", *_GPU_PACKAGES)
    return {"python": platform.python_version(), **versions(names)}


def _base_name(setup: Setup) -> dict[str, Any]:
    """A folder's name, not its place: a card is published, and paths are private."""
    given = setup.recipe.model.path
    return {
        "model": Path(given).name if Path(given).is_dir() else given,
        "revision": setup.recipe.model.revision,
    }


def _named(data: dict[str, Any]) -> dict[str, Any]:
    return {**data, "files": [Path(file).name for file in data["files"]]}
