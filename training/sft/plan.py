"""How many steps of what size a run takes, and what that needs of each GPU. Pure arithmetic."""

import math
from dataclasses import dataclass

from training.sft.recipe import OptimizationRecipe


class PlanError(ValueError):
    """The recipe can't be divided over these processes."""


@dataclass(frozen=True, slots=True)
class Plan:
    """``num_rows`` counts what is batched: samples, or packs of samples."""

    num_rows: int
    num_processes: int
    micro_batch_size: int
    accumulation_steps: int
    steps_per_epoch: int
    total_steps: int
    warmup_steps: int

    @property
    def effective_batch_size(self) -> int:
        return self.num_processes * self.micro_batch_size * self.accumulation_steps


def accumulation_steps(effective_batch_size: int, micro_batch_size: int, num_processes: int) -> int:
    """Micro batches that each process adds up before a step.

    Raises:
        PlanError: the effective batch is not a multiple of what the processes take at once.
    """
    at_once = micro_batch_size * num_processes
    if effective_batch_size % at_once:
        fitting = [
            count
            for count in range(1, effective_batch_size // micro_batch_size + 1)
            if effective_batch_size % (micro_batch_size * count) == 0
        ]
        raise PlanError(
            f"effective_batch_size {effective_batch_size} does not divide by {num_processes} processes x "
            f"micro_batch_size {micro_batch_size}; numbers of processes that do: "
            f"{', '.join(map(str, fitting)) or 'none'}"
        )
    return effective_batch_size // at_once


def make_plan(recipe: OptimizationRecipe, num_rows: int, num_processes: int) -> Plan:
    """The last step of an epoch may be smaller, as in s1: 1,000 samples by 16 are 63 steps."""
    accumulation = accumulation_steps(recipe.effective_batch_size, recipe.micro_batch_size, num_processes)
    micro_batches = math.ceil(num_rows / (recipe.micro_batch_size * num_processes))
    steps_per_epoch = math.ceil(micro_batches / accumulation)
    total = steps_per_epoch * recipe.epochs
    return Plan(
        num_rows=num_rows,
        num_processes=num_processes,
        micro_batch_size=recipe.micro_batch_size,
        accumulation_steps=accumulation,
        steps_per_epoch=steps_per_epoch,
        total_steps=total,
        warmup_steps=math.ceil(recipe.warmup_share * total),
    )


@dataclass(frozen=True, slots=True)
class MemoryEstimate:
    """Bytes per GPU that stay for the whole run; activations and gathered layers come on top."""

    weights: float
    gradients: float
    optimizer: float

    @property
    def total(self) -> float:
        return self.weights + self.gradients + self.optimizer


def estimate_memory(
    *, parameters: int, trainable: int, bytes_per_weight: float, bytes_per_trainable: int, shards: int
) -> MemoryEstimate:
    """AdamW keeps two numbers per trainable weight, in that weight's type."""
    frozen = parameters - trainable
    return MemoryEstimate(
        weights=(frozen * bytes_per_weight + trainable * bytes_per_trainable) / shards,
        gradients=trainable * bytes_per_trainable / shards,
        optimizer=2 * trainable * bytes_per_trainable / shards,
    )
