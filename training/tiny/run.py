"""``s1 train`` for ``kind: tiny``: questions, curation, fine-tuning and the served result, from nothing."""

from __future__ import annotations

import asyncio
import fcntl
import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from rich.markup import escape

from training.chain.served import served
from training.chain.step import Run, Step, disk_errors
from training.files import write_json
from training.recipe import RecipeFile
from training.terminal import Terminal
from training.tiny import chain
from training.tiny.progress import progress_line as progress_line
from training.tiny.publish import publish
from training.tiny.recipe import Recipe, parse_recipe
from training.train import TrainError, TrainOptions, TrainStopped

RUN_FILE = "run.json"


def run(file: RecipeFile, options: TrainOptions, terminal: Terminal) -> None:
    """Every stage that is not done yet, in order.

    Raises:
        RecipeError, TrainError: something of the user's must change.
        TrainStopped: the same command goes on.
        typer.Exit: a stage of `s1 curate` said what is wrong, and that is its status.
    """
    recipe = parse_recipe(file)
    if options.seed is not None:
        recipe = recipe.model_copy(update={"seed": options.seed})
    out = options.folder(recipe.name, recipe.seed)
    with claimed(out, recipe):
        run = Run(out, options.overwrite, terminal)
        base = chain.base_step(run, recipe)
        pool = chain.pool_step(run, recipe)
        questions = chain.quality_steps(run, recipe, pool)
        hard = chain.difficulty_step(run, recipe, questions, base)
        chosen = chain.select_step(run, recipe, hard)
        rows = chain.samples_step(run, recipe, chosen, "samples", recipe.samples)
        model = chain.sft_step(run, recipe, base, rows, "sft")
        if options.evaluate:
            evaluate_step(run, recipe, model)
        with disk_errors(f"can't write to {out / 'model'}"):
            publish(run, recipe, model, evaluated=options.evaluate)
    _show(run, terminal, evaluated=options.evaluate)


@contextmanager
def claimed(out: Path, recipe: Recipe) -> Iterator[None]:
    """Raises TrainError: the folder holds something else, or another process works in it."""
    path = out / RUN_FILE
    if out.is_dir() and any(out.iterdir()) and not path.is_file():
        raise TrainError(f"{out} is not empty and no run of `s1 train`; pass another --out")
    with disk_errors(f"can't write to {out}"):
        out.mkdir(parents=True, exist_ok=True)
        with path.open("a", encoding="utf-8") as file:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError as error:
                raise TrainError(f"{out} is in use: is the same command running already?") from error
            if path.stat().st_size == 0:
                file.write(json.dumps({"recipe": recipe.name, "seed": recipe.seed}) + "\n")
                file.flush()
            yield


def evaluate_step(run: Run, recipe: Recipe, model: Path) -> None:
    """``evaluate/curve.json`` and the tables for the card, measured through our own server."""
    from training.evaluate.demo_curve.client import ServerError
    from training.evaluate.demo_curve.measure import measure_served
    from training.evaluate.demo_curve.report import as_json, update_card
    from training.evaluate.suite import held_out_questions
    from training.tiny.publish import empty_curve

    questions = held_out_questions(recipe.evaluate.num_questions)

    def make(folder: Path) -> Mapping[str, Any]:
        command = "s1 evaluate --url http://127.0.0.1:PORT/v1"
        if len(questions) != 400:
            command += f" --limit {len(questions)}"
        with served(model, recipe.name, folder / "serve.log") as url:
            try:
                measurement = asyncio.run(
                    measure_served(
                        url,
                        None,
                        None,
                        recipe.evaluate.concurrency,
                        questions,
                        run.terminal.errors,
                        command,
                    )
                )
            except ServerError as error:
                raise TrainStopped(f"evaluate: {error}") from error
        if measurement.errors:
            failed = f"{len(measurement.errors)} kinds of error, the first: {measurement.errors[0]}"
            raise TrainStopped(f"evaluate: {failed}")
        write_json(folder / "curve.json", as_json(measurement.curves, measurement.provenance))
        empty_curve(folder / "curve.md")
        update_card(folder / "curve.md", measurement.curves, measurement.provenance)
        return {"questions": len(questions), "suite": measurement.provenance.suite}

    settings = recipe.evaluate.model_dump()
    outputs = ("curve.json", "curve.md")
    run.do(Step("evaluate", settings, (model / "model.safetensors",), make, outputs=outputs))


def _show(run: Run, terminal: Terminal, *, evaluated: bool) -> None:
    model = run.folder("model")
    if evaluated:
        terminal.console.print((run.folder("evaluate") / "curve.md").read_text(), markup=False)
    terminal.console.print(
        f"checkpoint: {escape(str(model))}\nserve it with: s1 serve {escape(str(model))}", soft_wrap=True
    )
