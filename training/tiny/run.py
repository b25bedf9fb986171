"""One training run, from recipe to checkpoint folder, with its manifest and model card."""

import asyncio
import json
import platform
import time
from collections.abc import Iterator
from contextlib import contextmanager
from importlib import metadata
from pathlib import Path
from string import Template
from typing import Any

from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from training.recipe import RecipeFile
from training.tiny.loop import OnStep
from training.tiny.model import new_model, save_checkpoint
from training.tiny.pool import Selection
from training.tiny.recipe import Recipe, parse_recipe
from training.tiny.stages import Stage, fine_tune, select_examples, train_base
from training.train import Terminal, TrainError, TrainOptions

_CARD = Path(__file__).with_name("model_card.md")
_MANIFEST = "training_manifest.json"
_SMOOTHING = 0.98


def run(file: RecipeFile, options: TrainOptions, terminal: Terminal) -> None:
    """Raises TrainError: the folder is taken."""
    recipe = parse_recipe(file)
    if options.seed is not None:
        recipe = recipe.model_copy(update={"seed": options.seed})
    folder = options.folder(recipe.name, recipe.seed)
    if folder.is_dir() and any(folder.iterdir()) and not options.overwrite:
        raise TrainError(f"--out must be an empty or a new folder, or pass --overwrite. Given: {folder}")
    run_recipe(recipe, folder, terminal.console)
    terminal.console.print(f"checkpoint: {escape(str(folder))}")
    if options.evaluate:
        _show_curve(folder, terminal.console)


def _show_curve(folder: Path, console: Console) -> None:
    from training.evaluate.measure import measure_local
    from training.evaluate.report import print_tables, update_card
    from training.evaluate.suite import held_out_questions

    command = f"s1 evaluate --local {folder}"
    measurement = asyncio.run(measure_local(folder, held_out_questions(), console, command))
    print_tables(console, measurement.curves)
    update_card(folder / "README.md", measurement.curves, measurement.provenance)


def run_recipe(recipe: Recipe, folder: Path, console: Console) -> None:
    """Everything random follows from ``recipe.seed``: the same recipe gives the same weights again."""
    import torch

    threads_before = torch.get_num_threads()
    torch.set_num_threads(recipe.threads)
    try:
        model = new_model(recipe.model, recipe.seed)
        base, base_seconds = _timed_base(model, recipe, console)
        selection = select_examples(recipe.pool, recipe.sft.num_examples, recipe.seed)
        sft, sft_seconds = _timed_sft(model, selection, recipe, console)
    finally:
        torch.set_num_threads(threads_before)
    save_checkpoint(model, folder)
    seconds = {"base": round(base_seconds, 1), "sft": round(sft_seconds, 1)}
    manifest = _manifest(recipe, model.num_parameters(), base, selection, sft, seconds)
    (folder / _MANIFEST).write_text(json.dumps(manifest, indent=2) + "\n")
    (folder / "README.md").write_text(_card(manifest))


def _timed_base(model: Any, recipe: Recipe, console: Console) -> tuple[Stage, float]:
    began = time.monotonic()
    with progress_line(console, "base", recipe.base.steps) as on_step:
        stage = train_base(model, recipe.base, recipe.seed, on_step)
    return stage, time.monotonic() - began


def _timed_sft(model: Any, selection: Selection, recipe: Recipe, console: Console) -> tuple[Stage, float]:
    began = time.monotonic()
    with progress_line(console, "sft", None) as on_step:
        stage = fine_tune(model, selection.examples, recipe.sft, recipe.seed, on_step)
    return stage, time.monotonic() - began


@contextmanager
def progress_line(console: Console, name: str, total: int | None) -> Iterator[OnStep]:
    """One line: stage, steps, smoothed loss, time left."""
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("loss {task.fields[loss]:.3f}"),
        TextColumn("ETA"),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=console) as progress:
        task = progress.add_task(name, total=total, loss=float("nan"))
        smooth: float | None = None

        def on_step(step: int, loss: float, of: int) -> None:
            nonlocal smooth
            smooth = loss if smooth is None else _SMOOTHING * smooth + (1 - _SMOOTHING) * loss
            progress.update(task, completed=step, total=of, loss=smooth)

        yield on_step


def _manifest(
    recipe: Recipe,
    num_parameters: int,
    base: Stage,
    selection: Selection,
    sft: Stage,
    seconds: dict[str, float],
) -> dict[str, Any]:
    packages = ("torch", "transformers", "tokenizers", "safetensors")
    return {
        "recipe": recipe.model_dump(),
        "seed": recipe.seed,
        "versions": {
            "python": platform.python_version(),
            "machine": platform.machine(),
            **{name: metadata.version(name) for name in packages},
        },
        "parameters": num_parameters,
        "base": _stage_summary(base),
        "pool": {
            "traces": selection.pool,
            "after_quality": selection.after_quality,
            "after_difficulty": selection.after_difficulty,
            "selected": len(selection.examples),
            "selected_waits": sum(example.num_waits for example in selection.examples),
        },
        "sft": _stage_summary(sft),
        "seconds": seconds,
    }


def _stage_summary(stage: Stage) -> dict[str, Any]:
    last = stage.losses[-50:]
    return {
        "steps": stage.steps,
        "documents": stage.documents,
        "tokens": stage.tokens,
        "first_loss": round(stage.losses[0], 4),
        "last_loss": round(sum(last) / len(last), 4),
    }


def _card(manifest: dict[str, Any]) -> str:
    return Template(_CARD.read_text()).substitute(
        recipe=manifest["recipe"]["name"],
        seed=manifest["seed"],
        parameters=f"{manifest['parameters']:,}",
        base_steps=f"{manifest['base']['steps']:,}",
        base_documents=f"{manifest['base']['documents']:,}",
        base_tokens=f"{manifest['base']['tokens'] / 1e6:.1f}",
        pool=f"{manifest['pool']['traces']:,}",
        after_quality=f"{manifest['pool']['after_quality']:,}",
        after_difficulty=f"{manifest['pool']['after_difficulty']:,}",
        selected=f"{manifest['pool']['selected']:,}",
        epochs=manifest["recipe"]["sft"]["epochs"],
        cut_share=f"{100 * manifest['recipe']['sft']['cut_share']:.0f}",
        minutes=f"{sum(manifest['seconds'].values()) / 60:.0f}",
        threads=manifest["recipe"]["threads"],
    )
