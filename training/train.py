"""``s1 train``: builds a checkpoint from a recipe and one seed."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Annotated

import typer

from training.terminal import Terminal, fail

RecipeName = Annotated[str, typer.Option("--recipe", help="A file of training/recipes, or a path to one.")]
Seed = Annotated[
    int | None, typer.Option(min=0, help="Replaces the recipe's seed; everything follows from it.")
]
Out = Annotated[Path | None, typer.Option(file_okay=False, help="Where to; runs/RECIPE-SEED if absent.")]
Evaluate = Annotated[bool, typer.Option(help="Measure the result at the end.")]
Overwrite = Annotated[bool, typer.Option("--overwrite", help="Write into a folder that is not empty.")]


@dataclass(frozen=True, slots=True)
class TrainOptions:
    """What the command line says beside the recipe."""

    seed: int | None
    out: Path | None
    evaluate: bool
    overwrite: bool

    def folder(self, recipe_name: str, seed: int) -> Path:
        return self.out or Path("runs") / f"{recipe_name}-{seed}"


class TrainError(ValueError):
    """The recipe, the folder or an option must change; one line."""


class TrainStopped(RuntimeError):
    """Something outside failed; the same command goes on where it stopped. One line."""


def train(
    recipe: RecipeName = "tiny-cpu",
    seed: Seed = None,
    out: Out = None,
    evaluate: Evaluate = True,
    overwrite: Overwrite = False,
) -> None:
    """Train a checkpoint: base model, data selection, fine-tuning, and its curve."""
    from training.recipe import TRAIN_KINDS, read_recipe_file

    terminal = Terminal()
    options = TrainOptions(seed, out, evaluate, overwrite)
    with one_line_errors(terminal):
        file = read_recipe_file(recipe, kinds=TRAIN_KINDS)
        import_module(TRAIN_KINDS[file.kind]).run(file, options, terminal)


@contextmanager
def one_line_errors(terminal: Terminal) -> Iterator[None]:
    """Exit status 2: something of the user's must change. 1, or 130: the same command goes on."""
    from training.recipe import RecipeError

    try:
        yield
    except (RecipeError, TrainError) as error:
        fail(terminal, str(error), 2)
    except TrainStopped as error:
        fail(terminal, f"{error}. Run the same command to go on.", 1)
    except KeyboardInterrupt:
        fail(terminal, "interrupted. Run the same command to go on.", 130)
