"""The command ``s1 sft``."""

import os
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, NoReturn

import typer
from rich.console import Console
from rich.markup import escape

if TYPE_CHECKING:
    from training.sft.recipe import SftRunRecipe

app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)

RecipeName = Annotated[
    str, typer.Option("--recipe", help="A file of training/recipes (kind: sft), or a path to one.")
]
Data = Annotated[
    list[Path] | None,
    typer.Option("--data", help="JSONL or Parquet; may be repeated. Default: the recipe's."),
]
Model = Annotated[
    str | None, typer.Option("--model", help="Folder, hub id or `demo`. Default: the recipe's.")
]
Out = Annotated[Path | None, typer.Option(file_okay=False, help="Where to; runs/sft-RECIPE-SEED if absent.")]
Seed = Annotated[int | None, typer.Option(min=0, help="Replaces the recipe's seed.")]
Resume = Annotated[
    bool, typer.Option("--resume", help="Go on from the last whole checkpoint in --out, if any.")
]
DryRun = Annotated[
    bool, typer.Option("--dry-run", help="Print what would happen, and the first sample's mask.")
]
NumGpus = Annotated[int | None, typer.Option(min=1, help="With --dry-run: plan for so many processes.")]
OnTooLong = Annotated[
    str | None, typer.Option(help="error or drop: samples over data.max_length. They are never cut.")
]
OnInvalid = Annotated[str | None, typer.Option(help="error or drop: rows that can't be rendered.")]
Set = Annotated[
    list[str] | None, typer.Option("--set", help="SECTION.FIELD=VALUE of the recipe; may be repeated.")
]


@app.command()
def sft(
    recipe: RecipeName = "smoke",
    data: Data = None,
    model: Model = None,
    out: Out = None,
    seed: Seed = None,
    resume: Resume = False,
    dry_run: DryRun = False,
    num_gpus: NumGpus = None,
    on_too_long: OnTooLong = None,
    on_invalid: OnInvalid = None,
    set_: Set = None,
) -> None:
    """Fine-tune a model on questions with thinking traces and answers."""
    os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")
    from training.recipe import RecipeError
    from training.sft.recipe import load_sft_recipe

    overrides = list(set_ or ())
    named = {
        "data.on_too_long": on_too_long,
        "data.on_invalid": on_invalid,
        "model.path": model,
        "seed": seed,
    }
    overrides += [f"{field}={value}" for field, value in named.items() if value is not None]
    try:
        if num_gpus is not None and not dry_run:
            raise RecipeError("--num-gpus goes with --dry-run; a real run takes the number from torchrun")
        chosen = load_sft_recipe(recipe, overrides, data_files=[str(path) for path in data or ()])
    except RecipeError as error:
        _fail(str(error))
    if dry_run:
        _dry_run(chosen, num_gpus)
    else:
        _run(chosen, out or Path("runs") / f"sft-{chosen.name}-{chosen.seed}", resume=resume)


def _dry_run(recipe: "SftRunRecipe", num_gpus: int | None) -> None:
    from dataclasses import replace

    from training.sft.machine import MachineError, check_machine, this_machine
    from training.sft.setup import SETUP_ERRORS, prepare
    from training.sft.show import show_plan

    machine = this_machine()
    if num_gpus is not None:
        machine = replace(machine, num_processes=num_gpus)
    try:
        check_machine(recipe, machine)
        obstacle = None
    except MachineError as error:
        obstacle = str(error)
    try:
        setup = prepare(recipe, machine.num_processes, with_weights=False)
    except SETUP_ERRORS as error:
        _fail(str(error))
    show_plan(Console(), setup, obstacle)


def _run(recipe: "SftRunRecipe", out: Path, *, resume: bool) -> None:
    from training.sft.export import ExportError
    from training.sft.machine import MachineError, this_machine
    from training.sft.run import RunError, RunStopped, run_sft
    from training.sft.setup import SETUP_ERRORS

    machine = this_machine()
    console = Console(stderr=True)
    try:
        folder = run_sft(recipe, out, machine, resume=resume, console=console)
    except (MachineError, *SETUP_ERRORS) as error:
        _fail(str(error))
    except RunStopped as error:
        _fail(f"{error}. --resume goes on from the last checkpoint", code=1)
    except (RunError, ExportError) as error:
        _fail(str(error), code=1)
    except KeyboardInterrupt:
        _fail("interrupted; --resume goes on from the last checkpoint", code=130)
    if machine.is_main:
        console.print(
            f"model: {escape(str(folder))}\nserve it with: s1 serve {escape(str(folder))}", soft_wrap=True
        )


def _fail(message: str, *, code: int = 2) -> NoReturn:
    Console(stderr=True).print(f"[bold red]s1 sft:[/bold red] {escape(message)}", soft_wrap=True)
    raise typer.Exit(code)
