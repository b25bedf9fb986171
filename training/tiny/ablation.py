"""The data ablations of the paper (section 5.1, table 2) on one base model: five sets, one table."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from training.chain.step import STEP_MANIFEST, Run, Step, disk_errors, read_json
from training.evaluate.demo_curve.results import Setting
from training.evaluate.intervals import wilson_interval
from training.evaluate.suite import fingerprint, held_out_questions
from training.files import write_json, write_text
from training.tiny import chain
from training.tiny.bootstrap import paired_difference
from training.tiny.publish import run_manifest
from training.tiny.recipe import Recipe

DEFAULT_SET = "s1"
SETTINGS = (
    Setting(num_waits=0),
    Setting(num_waits=1),
    Setting(num_waits=2),
    Setting(num_waits=4),
)
_RESAMPLES = 10_000
_DESCRIBED = {
    "s1": "quality, difficulty, then the recipe's selection",
    "random": "at random from what passed quality",
    "diverse": "every kind of question alike from what passed quality, difficulty ignored",
    "longest": "the longest traces of what passed quality",
    "full": "the whole pool, faults included",
}


@dataclass(frozen=True, slots=True)
class Answers:
    """What one model scored: by setting, 1 or 0 and thinking tokens per question, in the suite's order."""

    correct: dict[Setting, list[int]]
    thinking_tokens: dict[Setting, list[int]]


def run_ablation(run: Run, recipe: Recipe, *, num_questions: int, command: str) -> dict[str, Any]:
    """Every set's model and answers, and the table in ``out/ablation/``; done stages are kept.

    Raises:
        TrainError, TrainStopped, typer.Exit: as `s1 train` does.
    """
    base = chain.base_step(run, recipe)
    pool = chain.pool_step(run, recipe)
    questions = chain.quality_steps(run, recipe, pool)
    hard = chain.difficulty_step(run, recipe, questions, base)
    sets = {
        DEFAULT_SET: chain.select_step(run, recipe, hard),
        "random": chain.select_step(run, recipe, questions, "random", select="random"),
        "diverse": chain.select_step(run, recipe, questions, "diverse", select="diverse"),
        "longest": chain.select_step(run, recipe, questions, "longest", select="longest", length="thinking"),
        "full": run.folder("curate/collect"),
    }
    answers = {}
    for name, chosen in sets.items():
        rows = chain.samples_step(run, recipe, chosen, f"ablation/{name}/samples", recipe.samples)
        model = chain.sft_step(run, recipe, base, rows, f"ablation/{name}/sft")
        answers[name] = _answers_step(run, name, model, num_questions)
    results = _results(run, recipe, answers, num_questions, command)
    with disk_errors(f"can't write to {run.folder('ablation')}"):
        write_json(run.folder("ablation") / "data-ablation.json", results)
        write_text(run.folder("ablation") / "data-ablation.md", markdown(results))
    return results


def _answers_step(run: Run, name: str, model: Path, num_questions: int) -> Answers:
    """Asked without a server, with the budget machine in a plain loop: nothing has to start."""
    questions = held_out_questions(num_questions)

    def make(folder: Path) -> Mapping[str, Any]:
        from training.evaluate.demo_curve.local import LocalModel

        local = LocalModel(model)
        lines = []
        for setting in SETTINGS:
            outcomes = asyncio.run(local.answer_all(questions, setting, lambda: None))
            fields = {
                "correct": [int(outcome.correct) for outcome in outcomes],
                "thinking_tokens": [outcome.thinking_tokens for outcome in outcomes],
            }
            lines.append(json.dumps({"setting": setting.fields(), **fields}) + "\n")
        write_text(folder / "answers.jsonl", "".join(lines))
        return {"questions": len(questions), "suite": fingerprint(questions)}

    settings = {"settings": [setting.fields() for setting in SETTINGS], "questions": num_questions}
    step = Step(f"ablation/{name}/answers", settings, (model / "model.safetensors",), make)
    run.do(step)
    return _read_answers(run.folder(step.name) / "answers.jsonl")


def _read_answers(path: Path) -> Answers:
    rows = [json.loads(line) for line in path.read_text().splitlines()]
    by_setting = {Setting(**row["setting"]): row for row in rows}
    return Answers(
        {setting: row["correct"] for setting, row in by_setting.items()},
        {setting: row["thinking_tokens"] for setting, row in by_setting.items()},
    )


def _results(
    run: Run, recipe: Recipe, answers: Mapping[str, Answers], num_questions: int, command: str
) -> dict[str, Any]:
    rows = []
    for name in answers:
        samples = read_json(run.folder(f"ablation/{name}/samples") / STEP_MANIFEST)
        sft = read_json(run.folder(f"ablation/{name}/sft") / STEP_MANIFEST)
        rows.append(
            {
                "set": name,
                "description": _DESCRIBED[name],
                "traces": samples["notes"]["traces"],
                "sft_steps": sft["notes"]["plan"]["total_steps"],
                "sft_cpu_seconds": sft["seconds"]["cpu"],
                "settings": [_row(answers[name], answers[DEFAULT_SET], setting) for setting in SETTINGS],
            }
        )
    manifest = run_manifest(run, recipe)
    return {
        "command": command,
        "questions": num_questions,
        "suite": fingerprint(held_out_questions(num_questions)),
        "seed": recipe.seed,
        "draws": recipe.samples.draws,
        "resamples": _RESAMPLES,
        "versions": manifest["versions"],
        "sets": rows,
    }


def _row(answers: Answers, default: Answers, setting: Setting) -> dict[str, Any]:
    correct = answers.correct[setting]
    low, high = wilson_interval(sum(correct), len(correct))
    difference = paired_difference(correct, default.correct[setting], resamples=_RESAMPLES)
    tokens = answers.thinking_tokens[setting]
    return {
        **setting.fields(),
        "accuracy": round(sum(correct) / len(correct), 4),
        "interval_95": [round(low, 4), round(high, 4)],
        "difference": round(difference.mean, 4),
        "difference_interval_95": [round(difference.low, 4), round(difference.high, 4)],
        "mean_thinking_tokens": round(sum(tokens) / len(tokens), 1),
    }


def markdown(results: Mapping[str, Any]) -> str:
    """The table as in the paper: accuracy, and in brackets the interval of the difference to the default."""
    sets: Sequence[Mapping[str, Any]] = results["sets"]
    headings = [_heading(row) for row in sets[0]["settings"]]
    lines = [
        "# Data ablations on the demo model",
        "",
        f"`{results['command']}`; {results['questions']} held-out questions",
        f"(suite `{results['suite']}`), greedy, without a server; one base, one seed ({results['seed']}).",
        f"Every trace is drawn {results['draws']} times for `s1 sft`, with the same hyperparameters: `full`",
        "gets as many more steps as it has more traces. Accuracy in percent, and mean thinking tokens; in",
        f"brackets the 95 % interval of the difference to `{DEFAULT_SET}` in points (paired bootstrap over",
        f"questions, {results['resamples']:,} resamples).",
        "",
        _line(["set", "traces", "steps", *headings]),
        _line(["---", "---:", "---:", *(["---"] * len(headings))]),
    ]
    for row in sets:
        cells = [_cell(value, is_default=row["set"] == DEFAULT_SET) for value in row["settings"]]
        lines.append(_line([f"`{row['set']}`", f"{row['traces']:,}", f"{row['sft_steps']:,}", *cells]))
    lines += ["", *(f"- `{row['set']}`: {row['description']}" for row in sets), ""]
    versions = ", ".join(f"{name} {version}" for name, version in results["versions"].items())
    return "\n".join([*lines, versions, ""])


def _heading(row: Mapping[str, Any]) -> str:
    maximum = row.get("max_thinking_tokens")
    return f"{row['num_waits']} waits" + (f", at most {maximum} tokens" if maximum is not None else "")


def _cell(row: Mapping[str, Any], *, is_default: bool) -> str:
    said = f"{100 * row['accuracy']:.1f} ({row['mean_thinking_tokens']:.0f})"
    low, high = row["difference_interval_95"]
    return said if is_default else f"{said} [{100 * low:+.1f}, {100 * high:+.1f}]"


def _line(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cells)} |"
