"""``s1 train --recipe tiny-prm``: from labelled synthetic steps to a reward model that vLLM serves."""

import json
import random
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from string import Template
from typing import Any

from rich.markup import escape

from training.prm.model import fit_reward_model, new_reward_model, save_reward_model
from training.prm.quality import Quality, interval, measure_quality
from training.prm.recipe import PrmRecipe, parse_prm_recipe
from training.recipe import RecipeFile
from training.terminal import Terminal
from training.tiny.run import progress_line
from training.train import TrainError, TrainOptions
from training.versions import environment

_CHECKPOINTS = Path(__file__).parents[1] / "checkpoints"
_CARD = Path(__file__).with_name("model_card.md")
_MANIFEST = "training_manifest.json"


def run(file: RecipeFile, options: TrainOptions, terminal: Terminal) -> None:
    """Raises TrainError: the folder is taken, or there is no such policy."""
    recipe = parse_prm_recipe(file)
    if options.seed is not None:
        recipe = recipe.model_copy(update={"seed": options.seed})
    folder, policy = options.folder(recipe.name, recipe.seed), policy_folder(recipe.policy)
    if folder.is_dir() and any(folder.iterdir()) and not options.overwrite:
        raise TrainError(f"--out must be an empty or a new folder, or pass --overwrite. Given: {folder}")
    manifest = train_reward_model(recipe, policy, folder, terminal)
    _describe(folder, manifest)
    terminal.console.print(f"checkpoint: {escape(str(folder))}")
    if options.evaluate:
        quality = _measure(recipe, policy, folder)
        terminal.console.print_json(json.dumps(quality.told()))
        _describe(folder, manifest | {"quality": quality.told()})


def _describe(folder: Path, manifest: dict[str, Any]) -> None:
    (folder / _MANIFEST).write_text(json.dumps(manifest, indent=2) + "\n")
    (folder / "README.md").write_text(card(manifest))


def policy_folder(name: str) -> Path:
    """Raises TrainError"""
    for folder in (_CHECKPOINTS / name, Path(name)):
        if (folder / "config.json").is_file():
            return folder
    raise TrainError(f"policy must be a folder of training/checkpoints, or a path to one. Given: {name}")


def train_reward_model(recipe: PrmRecipe, policy: Path, folder: Path, terminal: Terminal) -> dict[str, Any]:
    """The manifest of the checkpoint that is then in `folder`."""
    rng = random.Random(f"{recipe.seed}/prm")  # noqa: S311 -- data generation, not cryptography
    began = time.monotonic()
    with _threads(recipe.threads):
        model = new_reward_model(policy, recipe.seed)
        with progress_line(terminal.console, "reward model", recipe.fit.steps) as on_step:
            losses = fit_reward_model(model, recipe.data, recipe.fit, rng, on_step)
    parameters = model.num_parameters()
    save_reward_model(model, folder)
    last = losses[-50:]
    return {
        "recipe": recipe.model_dump(),
        "seed": recipe.seed,
        "versions": environment(("torch", "transformers", "tokenizers", "safetensors")),
        "parameters": parameters,
        "steps": len(losses),
        "first_loss": round(losses[0], 4),
        "last_loss": round(sum(last) / len(last), 4),
        "seconds": round(time.monotonic() - began, 1),
    }


def _measure(recipe: PrmRecipe, policy: Path, folder: Path) -> Quality:
    """Of the checkpoint as it was written: its weights are rounded there."""
    import torch
    from transformers import LlamaForSequenceClassification

    from training.evaluate.suite import held_out_questions

    model = LlamaForSequenceClassification.from_pretrained(
        folder, dtype=torch.float32, attn_implementation="eager"
    ).eval()
    questions = held_out_questions(recipe.measure.questions)
    with _threads(recipe.threads):
        return measure_quality(model, policy, questions, recipe.measure, recipe.seed)


@contextmanager
def _threads(count: int) -> Iterator[None]:
    """Two threads on a busy machine are slower than one."""
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def card(manifest: dict[str, Any]) -> str:
    quality = manifest.get("quality")
    return Template(_CARD.read_text()).substitute(
        recipe=manifest["recipe"]["name"],
        seed=manifest["seed"],
        policy=manifest["recipe"]["policy"],
        parameters=f"{manifest['parameters']:,}",
        steps=f"{manifest['steps']:,}",
        minutes=f"{manifest['seconds'] / 60:.0f}",
        threads=manifest["recipe"]["threads"],
        quality=_quality_text(quality) if quality else "Not measured: it was trained with `--no-evaluate`.",
    )


def _quality_text(quality: dict[str, Any]) -> str:
    count = int(quality["questions"])
    rows = [
        f"| {label} | {100 * quality[name]:.1f} | {_percent(quality[name], count)} |"
        for name, label in (
            ("majority_vote", "majority vote"),
            ("weighted_vote", "vote weighted by the score"),
            ("best_of", "best score"),
            ("any_right", "at least one sample is right"),
        )
    ]
    return (
        f"On {count} held-out questions, {quality['samples']} samples of the policy each at temperature "
        f"{quality['temperature']:g}, without waits ({quality['steps']:,} steps, "
        f"{100 * quality['right_steps']:.1f} % of them right):\n\n"
        f"- A right step scores above a wrong one in {100 * quality['step_auc']:.1f} % of pairs (AUC); a "
        f"right answer above a wrong one in {100 * quality['answer_auc']:.1f} %.\n"
        f"- One sample is right in {100 * quality['one_sample']:.1f} %.\n\n"
        f"| of {quality['samples']} samples | accuracy | 95 % interval |\n| --- | ---: | ---: |\n"
        + "\n".join(rows)
    )


def _percent(share: float, count: int) -> str:
    low, high = interval(share, count)
    return f"{100 * low:.1f} – {100 * high:.1f}"
