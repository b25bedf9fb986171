"""``s1 ablate``: what the choice of the training set is worth, on the demo model."""

from pathlib import Path
from typing import Annotated

import typer
from rich.markup import escape

from training.terminal import Terminal
from training.train import Out, Overwrite, RecipeName, Seed, TrainOptions, one_line_errors

Questions = Annotated[int, typer.Option("--questions", min=1, help="Held-out questions to ask each model.")]
Draws = Annotated[
    int | None, typer.Option(min=1, help="Samples of every trace; the recipe's samples.draws if absent.")
]
Results = Annotated[
    Path | None,
    typer.Option(file_okay=False, help="Copy data-ablation.md and data-ablation.json here as well."),
]


def ablate(
    recipe: RecipeName = "tiny-cpu",
    seed: Seed = None,
    out: Out = None,
    questions: Questions = 400,
    draws: Draws = None,
    results: Results = None,
    overwrite: Overwrite = False,
) -> None:
    """Fine-tune one base model on five choices of the same pool, and compare them.

    Shares its folder, and every stage that is done there, with `s1 train` of the same recipe and seed.
    """
    from training.recipe import read_recipe_file

    terminal = Terminal()
    with one_line_errors(terminal):
        from training.chain.step import Run, disk_errors
        from training.files import write_text
        from training.tiny.ablation import run_ablation
        from training.tiny.recipe import parse_recipe
        from training.tiny.run import claimed

        chosen = parse_recipe(read_recipe_file(recipe, kinds=("tiny",)))
        if seed is not None:
            chosen = chosen.model_copy(update={"seed": seed})
        command = f"s1 ablate --recipe {chosen.name} --seed {chosen.seed} --questions {questions}"
        if draws is not None:
            samples = chosen.samples.model_copy(update={"draws": draws})
            chosen = chosen.model_copy(update={"samples": samples})
            command += f" --draws {draws}"
        folder = TrainOptions(seed, out, evaluate=True, overwrite=overwrite).folder(chosen.name, chosen.seed)
        with claimed(folder, chosen):
            run_ablation(Run(folder, overwrite, terminal), chosen, num_questions=questions, command=command)
        table = (folder / "ablation" / "data-ablation.md").read_text()
        terminal.console.print(table, markup=False, soft_wrap=True)
        if results is not None:
            with disk_errors(f"can't write to {results}"):
                results.mkdir(parents=True, exist_ok=True)
                for name in ("data-ablation.md", "data-ablation.json"):
                    write_text(results / name, (folder / "ablation" / name).read_text())
        terminal.console.print(f"results: {escape(str(folder / 'ablation'))}", soft_wrap=True)
