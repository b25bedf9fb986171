"""The base model of a ``tiny`` recipe, as a folder that ``s1 sft`` starts from."""

from pathlib import Path
from typing import Any

from training.terminal import Terminal
from training.tiny.model import new_model, save_checkpoint
from training.tiny.progress import progress_line
from training.tiny.recipe import Recipe
from training.tiny.stages import train_base

_LAST_STEPS = 50


def train_base_model(recipe: Recipe, folder: Path, terminal: Terminal) -> dict[str, Any]:
    """Everything random follows from ``recipe.seed``: the same recipe gives the same weights again."""
    import torch

    threads_before = torch.get_num_threads()
    torch.set_num_threads(recipe.threads)
    try:
        model = new_model(recipe.model, recipe.seed)
        with progress_line(terminal.errors, "base", recipe.base.steps) as on_step:
            stage = train_base(model, recipe.base, recipe.seed, on_step)
    finally:
        torch.set_num_threads(threads_before)
    parameters = model.num_parameters()
    save_checkpoint(model, folder, torch.float32)
    last = stage.losses[-_LAST_STEPS:]
    return {
        "parameters": parameters,
        "steps": stage.steps,
        "documents": stage.documents,
        "tokens": stage.tokens,
        "first_loss": round(stage.losses[0], 4),
        "last_loss": round(sum(last) / len(last), 4),
    }
