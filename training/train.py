"""``s1 train``: builds a checkpoint from a recipe and one seed."""

import asyncio
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.markup import escape

app = typer.Typer(add_completion=False)

RecipeName = Annotated[str, typer.Option("--recipe", help="A file of training/recipes, or a path to one.")]
Seed = Annotated[
    int | None, typer.Option(min=0, help="Replaces the recipe's seed; everything follows from it.")
]
Out = Annotated[Path | None, typer.Option(file_okay=False, help="Where to; runs/RECIPE-SEED if absent.")]
Evaluate = Annotated[bool, typer.Option(help="Measure the result at the end, without a server.")]
Overwrite = Annotated[bool, typer.Option("--overwrite", help="Write into a folder that is not empty.")]


@app.command()
def train(
    recipe: RecipeName = "tiny-cpu",
    seed: Seed = None,
    out: Out = None,
    evaluate: Evaluate = True,
    overwrite: Overwrite = False,
) -> None:
    """Train a checkpoint: base model, data selection, fine-tuning, and its curve."""
    from training.recipe import RecipeError, load_recipe

    console, errors = Console(), Console(stderr=True)
    try:
        chosen = load_recipe(recipe)
    except RecipeError as error:
        errors.print(escape(str(error)))
        raise typer.Exit(2) from error
    if seed is not None:
        chosen = chosen.model_copy(update={"seed": seed})
    folder = out or Path("runs") / f"{chosen.name}-{chosen.seed}"
    if folder.is_dir() and any(folder.iterdir()) and not overwrite:
        errors.print(
            f"--out must be an empty or a new folder, or pass --overwrite. Given: {escape(str(folder))}"
        )
        raise typer.Exit(2)
    from training.tiny.run import run_recipe

    run_recipe(chosen, folder, console)
    console.print(f"checkpoint: {escape(str(folder))}")
    if evaluate:
        _show_curve(folder, console)


def _show_curve(folder: Path, console: Console) -> None:
    from training.evaluate.measure import measure_local
    from training.evaluate.report import print_tables, update_card
    from training.evaluate.suite import held_out_questions

    command = f"s1 evaluate --local {folder}"
    measurement = asyncio.run(measure_local(folder, held_out_questions(), console, command))
    print_tables(console, measurement.curves)
    update_card(folder / "README.md", measurement.curves, measurement.provenance)
