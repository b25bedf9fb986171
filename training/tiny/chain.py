"""The stages of a ``tiny`` recipe, from nothing to a fine-tuned model.

The curation is that of ``s1 curate``, called as its commands are, and the fine-tuning that of ``s1 sft``:
what they say, refuse and write is theirs.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from training.chain.served import served
from training.chain.step import Run, Step, read_json
from training.curate import cli as curate
from training.curate.files import questions_file, read_questions, write_rows
from training.curate.schema import as_row, question_columns
from training.evaluate.suite import held_out_questions
from training.recipe import Section
from training.sft.recipe import SftRunRecipe
from training.tiny.base import train_base_model
from training.tiny.examples import pool_row, sample_rows
from training.tiny.pool import make_pool
from training.tiny.recipe import Recipe, SamplesRecipe
from training.tiny.stages import random_stream
from training.train import TrainError, TrainStopped

QUALITY_RULES = Path(__file__).with_name("quality.yaml")
_SOLVER_CONCURRENCY = 64
_SOLVER_ANSWER_TOKENS = 32


def base_step(run: Run, recipe: Recipe) -> Path:
    def make(folder: Path) -> Mapping[str, Any]:
        return train_base_model(recipe, folder, run.terminal)

    settings = {
        **_fields(recipe.model),
        **_fields(recipe.base),
        "seed": recipe.seed,
        "threads": recipe.threads,
    }
    run.do(Step("base", settings, (), make))
    return run.folder("base")


def pool_step(run: Run, recipe: Recipe) -> Path:
    """``pool.parquet``, and ``held_out.jsonl``: what the checkpoint is measured on, and kept clean of."""

    def make(folder: Path) -> Mapping[str, Any]:
        pool = make_pool(random_stream(recipe.seed, "pool"), recipe.pool)
        write_rows(folder / "pool.parquet", [as_row(pool_row(trace)) for trace in pool], question_columns())
        held_out = [{"question": held.text, "answer": held.truth} for held in held_out_questions()]
        _write_lines(folder / "held_out.jsonl", held_out)
        return {"traces": len(pool), "held_out": len(held_out)}

    run.do(Step("pool", {**_fields(recipe.pool), "seed": recipe.seed}, (), make))
    return run.folder("pool")


def quality_steps(run: Run, recipe: Recipe, pool: Path) -> Path:
    """Collected, of good quality, and without what the held-out questions share."""
    # Questions that differ in a number or a cup are different ones here.
    collected = _curated(run, "collect", pool / "pool.parquet", curate.collect, near_duplicates=0.0)
    good = _curated(
        run,
        "quality",
        collected,
        curate.quality,
        rules=QUALITY_RULES,
        require_trace=True,
        require_correct=True,
    )
    return _curated(
        run,
        "decontaminate",
        good,
        curate.decontaminate,
        benchmark=[str(pool / "held_out.jsonl")],
        ngram_words=recipe.curate.ngram_words,
    )


def difficulty_step(run: Run, recipe: Recipe, questions: Path, base: Path) -> Path:
    """Without what the solver, the base fine-tuned on a few of these traces, gets right behind our server."""
    solver = recipe.curate.solver
    if solver is None:
        return questions
    few = _curated(
        run,
        "solver-set",
        questions,
        curate.diversity,
        select="random",
        label="none",
        size=solver.num_examples,
        seed=recipe.seed,
    )
    chat = recipe.samples.model_copy(update={"draws": solver.draws})
    rows = samples_step(run, recipe, few, "solver-samples", chat)
    steps = recipe.sft.optimization.model_copy(update={"effective_batch_size": solver.effective_batch_size})
    few_steps = recipe.model_copy(update={"sft": recipe.sft.model_copy(update={"optimization": steps})})
    model = sft_step(run, few_steps, base, rows, "solver")

    def solve(*, input: Path, out: Path, **options: Any) -> None:
        with served(model, "solver", out / "serve.log") as url:
            curate.difficulty(input=input, out=out, solver=[f"solver@{url}"], **options)

    return _curated(
        run,
        "difficulty",
        questions,
        solve,
        also=(model / "model.safetensors",),
        resumes=True,
        # A budget, so that it answers whatever happens to its thinking.
        extra=json.dumps({"max_thinking_tokens": solver.max_thinking_tokens}),
        max_tokens=solver.max_thinking_tokens + _SOLVER_ANSWER_TOKENS,
        temperature=0.0,
        keep_ungraded=False,
        concurrency=_SOLVER_CONCURRENCY,
    )


def select_step(run: Run, recipe: Recipe, questions: Path, name: str = "diversity", **other: Any) -> Path:
    """``other`` replaces what the recipe says of the selection."""
    settings = {
        "select": recipe.curate.select,
        "length": recipe.curate.length,
        "size": recipe.curate.size,
        **other,
    }
    return _curated(
        run, name, questions, curate.diversity, label="field", prefer=["none"], seed=recipe.seed, **settings
    )


def samples_step(run: Run, recipe: Recipe, chosen: Path, name: str, chat: SamplesRecipe) -> Path:
    """The chosen traces as rows of ``s1 sft``, each drawn several times in other surroundings."""

    def make(folder: Path) -> Mapping[str, Any]:
        questions = read_questions(questions_file(chosen))
        rows = list(sample_rows(random_stream(recipe.seed, "sft"), questions, chat))
        _write_lines(folder / "samples.jsonl", rows)
        cut = sum("ended_by" in row["messages"][-1] for row in rows)
        return {"traces": len(questions), "samples": len(rows), "cut": cut}

    settings = {**_fields(chat), "seed": recipe.seed}
    run.do(Step(name, settings, (questions_file(chosen),), make))
    return run.folder(name) / "samples.jsonl"


def sft_step(run: Run, recipe: Recipe, base: Path, rows: Path, name: str) -> Path:
    """The model's folder."""
    sft = recipe.sft_recipe(base, rows)
    # As in `s1 sft`: where files lie and how often it is saved may change.
    elsewhere = {"model": {"path"}, "data": {"files"}, "output": {"checkpoint_every_steps"}}
    settings = sft.model_dump(exclude=elsewhere)

    def make(folder: Path) -> Mapping[str, Any]:
        # Exported, but not known to be whole: exported again from the last checkpoint.
        shutil.rmtree(folder / "model", ignore_errors=True)
        manifest = read_json(_fine_tune(run, sft, folder, name) / "training_manifest.json")
        return {part: manifest[part] for part in ("data", "plan", "training")}

    inputs = (base / "model.safetensors", rows)
    run.do(Step(name, settings, inputs, make, resumes=True, outputs=("model/*",)))
    return run.folder(name) / "model"


def _fine_tune(run: Run, sft: SftRunRecipe, folder: Path, name: str) -> Path:
    """`s1 sft`, from the last checkpoint if there is one of this very run."""
    from training.sft.export import ExportError
    from training.sft.machine import MachineError, this_machine
    from training.sft.run import RunError, RunStopped, run_sft
    from training.sft.setup import SETUP_ERRORS

    began = (folder / "run.json").is_file()
    try:
        return run_sft(sft, folder, this_machine(), resume=began, console=run.terminal.errors)
    except (MachineError, ExportError, *SETUP_ERRORS) as error:
        raise TrainError(f"{name}: {error}") from error
    except RunStopped as error:
        raise TrainStopped(f"{name}: {error}") from error
    except RunError as error:
        if began and run.overwrite:
            shutil.rmtree(folder)
            return _fine_tune(run, sft, folder, name)
        raise TrainError(f"{name}: {error}; pass another --out, or --overwrite") from error


def _curated(
    run: Run,
    stage: str,
    source: Path,
    command: Callable[..., None],
    *,
    also: tuple[Path, ...] = (),
    resumes: bool = False,
    **options: Any,
) -> Path:
    """One command of ``s1 curate`` as a step; ``options`` are its own."""
    name = f"curate/{stage}"

    def make(folder: Path) -> Mapping[str, Any]:
        given = {"source": [str(source)]} if stage == "collect" else {"input": source}
        command(out=folder, **given, **options)
        manifest = read_json(folder / "manifest.json")
        return {"funnel": manifest["funnel"][-1], **manifest["notes"]}

    settings = {key: value for key, value in options.items() if key not in ("rules", "benchmark")}
    files = [options[key] for key in ("rules",) if key in options]
    files += [Path(path) for path in options.get("benchmark", ())]
    inputs = (questions_file(source), *files, *also)
    run.do(Step(name, settings, inputs, make, resumes=resumes))
    return run.folder(name)


def _write_lines(path: Path, rows: list[dict[str, Any]]) -> None:
    with path.open("w", encoding="utf-8") as lines:
        lines.writelines(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)


def _fields(section: Section) -> dict[str, Any]:
    return section.model_dump()
