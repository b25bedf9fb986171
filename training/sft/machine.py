"""What this machine can train with; what it can't is refused before anything is loaded."""

import os
from collections.abc import Mapping
from dataclasses import dataclass
from importlib.util import find_spec
from typing import Literal

from training.sft.recipe import SftRunRecipe

_OPTIONAL = ("flash_attn", "flash_attn_interface", "liger_kernel", "bitsandbytes", "wandb", "tensorboard")
_AMPERE = (8, 0)
_HOPPER = (9, 0)


class MachineError(ValueError):
    """The recipe asks for what this machine does not have; the message says what, and what to set instead."""


@dataclass(frozen=True, slots=True)
class Machine:
    """One process's view. ``capability`` is CUDA's compute capability, None without a GPU."""

    num_processes: int
    rank: int
    gpu: str | None
    capability: tuple[int, int] | None
    packages: frozenset[str]

    @property
    def is_main(self) -> bool:
        return self.rank == 0


def this_machine(environment: Mapping[str, str] = os.environ) -> Machine:
    """From torchrun's variables, the GPU that torch sees, and what is installed."""
    import torch

    has_gpu = torch.cuda.is_available()
    local_rank = int(environment.get("LOCAL_RANK", "0"))
    return Machine(
        num_processes=int(environment.get("WORLD_SIZE", "1")),
        rank=int(environment.get("RANK", "0")),
        gpu=torch.cuda.get_device_name(local_rank) if has_gpu else None,
        capability=torch.cuda.get_device_capability(local_rank) if has_gpu else None,
        packages=frozenset(name for name in _OPTIONAL if find_spec(name) is not None),
    )


def check_machine(recipe: SftRunRecipe, machine: Machine) -> None:
    """
    Raises:
        MachineError: the first thing that is missing.
    """
    _check_attention(recipe, machine)
    if recipe.precision == "bf16":
        _need_gpu(machine, "precision: bf16", "precision: fp32 or auto", _AMPERE)
    if recipe.model.liger:
        _need_gpu(machine, "model.liger", "model.liger: false")
        _need_package(machine, "model.liger", "model.liger: false", "liger_kernel", "liger-kernel")
    if recipe.lora is not None and recipe.lora.quantize != "none":
        _need_gpu(machine, "lora.quantize", "lora.quantize: none")
        _need_package(machine, "lora.quantize", "lora.quantize: none", "bitsandbytes")
    if recipe.sharding == "fsdp2":
        _need_gpu(machine, "sharding: fsdp2", "sharding: none")
        if machine.num_processes < 2:
            raise MachineError(
                "sharding: fsdp2 needs several processes (torchrun); with one set sharding: none"
            )
    if recipe.output.log_to != "none":
        log_to = recipe.output.log_to
        _need_package(machine, f"output.log_to: {log_to}", "output.log_to: none", log_to)


def resolved_precision(recipe: SftRunRecipe, machine: Machine) -> Literal["bf16", "fp32"]:
    if recipe.precision != "auto":
        return recipe.precision
    return "bf16" if machine.capability is not None and machine.capability >= _AMPERE else "fp32"


def _check_attention(recipe: SftRunRecipe, machine: Machine) -> None:
    attention = recipe.model.attention
    if not attention.startswith("flash"):
        return
    hopper = attention == "flash_attention_3"
    setting = f"model.attention: {attention}"
    _need_gpu(machine, setting, "model.attention: sdpa", _HOPPER if hopper else _AMPERE)
    module, distribution = (
        ("flash_attn_interface", "flash-attn-3") if hopper else ("flash_attn", "flash-attn")
    )
    _need_package(machine, setting, "model.attention: sdpa", module, distribution)
    if resolved_precision(recipe, machine) == "fp32":
        raise MachineError(f"{setting} computes in bf16 only; set precision: bf16 or model.attention: sdpa")


def _need_gpu(
    machine: Machine, setting: str, instead: str, capability: tuple[int, int] | None = None
) -> None:
    if machine.capability is None:
        raise MachineError(f"{setting} needs an NVIDIA GPU, and torch sees none; set {instead}")
    if capability is not None and machine.capability < capability:
        wanted, given = (".".join(map(str, numbers)) for numbers in (capability, machine.capability))
        raise MachineError(
            f"{setting} needs compute capability {wanted}; set {instead}. Given: {machine.gpu} ({given})"
        )


def _need_package(
    machine: Machine, setting: str, instead: str, module: str, distribution: str | None = None
) -> None:
    """``distribution``, where pip's name is not the module's."""
    if module not in machine.packages:
        raise MachineError(
            f"{setting} needs the package {distribution or module}, which is not installed; "
            f"install it, or set {instead}"
        )
