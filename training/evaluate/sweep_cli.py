"""``s1 evaluate run`` and ``s1 evaluate check``."""

from __future__ import annotations

import asyncio
import shlex
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console
from rich.markup import escape

from training.curate.options import GraderKey, GraderName, HubDir, ReplyTimeout, RetryFor

if TYPE_CHECKING:
    from training.curate.progress import Progress
    from training.endpoints.client import Endpoint
    from training.evaluate.benchmarks import Benchmark
    from training.evaluate.points import Sweep
    from training.evaluate.samples import Sample

SWEEPS = Path(__file__).parent / "sweeps"

Url = Annotated[str, typer.Option(help="An OpenAI-compatible API, such as http://127.0.0.1:8000/v1.")]
Out = Annotated[Path, typer.Option(file_okay=False, help="Folder for replies, samples and report.")]
BenchmarkNames = Annotated[
    list[str] | None,
    typer.Option(
        "--benchmark",
        help="demo, aime24, aime25, math500, gpqa-diamond, or a .jsonl or .parquet file; may be repeated.",
    ),
]
SweepFile = Annotated[
    str | None, typer.Option("--sweep", help="A YAML file, or demo: series of points instead of the options.")
]
Maxima = Annotated[str | None, typer.Option("--max", metavar="N,N,…", help="max_thinking_tokens.")]
Minima = Annotated[str | None, typer.Option("--min", metavar="N,N,…", help="min_thinking_tokens.")]
Waits = Annotated[str | None, typer.Option("--waits", metavar="N,N,…", help="num_waits.")]
WaitTexts = Annotated[list[str] | None, typer.Option("--wait-text", help="wait_text; may be repeated.")]
Temperatures = Annotated[str | None, typer.Option("--temperature", metavar="T,T,…", help="0 if absent.")]
Methods = Annotated[list[str] | None, typer.Option("--method", help="budget if absent; may be repeated.")]
Samples = Annotated[int | None, typer.Option(min=1, help="Answers per question and point. Default: 1.")]
Limit = Annotated[int | None, typer.Option(min=1, help="Only the first so many questions of each.")]
ModelName = Annotated[str | None, typer.Option(help="Model to ask; the first that is listed if absent.")]
Concurrency = Annotated[int, typer.Option(min=1, help="Requests in flight.")]
MaxTokens = Annotated[
    int | None, typer.Option(min=1, help="Thinking and answer together. Default: 32768; demo 1024.")
]
Suffix = Annotated[str, typer.Option(help="Put after every question, with a blank line between.")]
Overwrite = Annotated[
    bool,
    typer.Option("--overwrite", help="Replace the results of other settings in --out."),
]
Moved = Annotated[
    bool, typer.Option("--moved", help="Replies in --out from another URL are of the same model.")
]
KeyVariable = Annotated[str, typer.Option(help="Environment variable with the API key.")]


def run(
    url: Url,
    out: Out,
    benchmark: BenchmarkNames = None,
    sweep: SweepFile = None,
    maxima: Maxima = None,
    minima: Minima = None,
    waits: Waits = None,
    wait_text: WaitTexts = None,
    temperature: Temperatures = None,
    method: Methods = None,
    samples: Samples = None,
    limit: Limit = None,
    model: ModelName = None,
    concurrency: Concurrency = 16,
    max_tokens: MaxTokens = None,
    suffix: Suffix = "",
    hub_dir: HubDir = None,
    grader: GraderName = None,
    grader_key: GraderKey = "S1_GRADER_KEY",
    key: KeyVariable = "S1_API_KEY",
    retry_for: RetryFor = 300,
    reply_timeout: ReplyTimeout = 3600,
    overwrite: Overwrite = False,
    moved: Moved = False,
) -> None:
    """Ask benchmarks over a grid of budgets; run again, it asks only what is missing."""
    from training.curate.options import key_in, parse_endpoint
    from training.curate.progress import Progress
    from training.curate.running import one_line_errors
    from training.endpoints.client import Patience
    from training.evaluate.methods.registry import methods
    from training.evaluate.parts import recorded_part
    from training.evaluate.run import Plan, run_sweep
    from training.evaluate.sweep import Model
    from training.grading.model import GRADER_SAMPLING, Grader

    progress = Progress()
    grid = {
        "method": method,
        "max_thinking_tokens": _numbers("--max", maxima, int),
        "min_thinking_tokens": _numbers("--min", minima, int),
        "num_waits": _numbers("--waits", waits, int),
        "wait_text": wait_text,
        "temperature": _numbers("--temperature", temperature, float),
    }
    with one_line_errors(progress, out):
        chosen = chosen_sweep(sweep, benchmark, grid, samples, limit)
        benchmarks = load_benchmarks(chosen, hub_dir, suffix, progress)
        judge = parse_endpoint("--grader", grader, grader_key) if grader else None
        plan = Plan(
            sweep=chosen,
            benchmarks=benchmarks,
            model=Model(endpoint(url, model, key_in(key)), concurrency, max_tokens),
            methods=methods(),
            patience=Patience(retry_for, reply_timeout),
            command=shlex.join(["s1", *sys.argv[1:]]),
            grader=Grader(judge, GRADER_SAMPLING) if judge else None,
            overwrite=overwrite,
            moved=moved,
        )
        with recorded_part(out) as part:
            got = run_sweep(plan, out, progress.errors, part)
    if tell_errors(got, out, progress):
        raise typer.Exit(1)


def tell_errors(samples: Sequence[Sample], out: Path, progress: Progress) -> bool:
    """Whether there are any; the first few are shown."""
    from training.evaluate.granted import clamps_of

    errors = [sample.error for sample in samples if sample.error is not None]
    for error in list(dict.fromkeys(errors))[:5]:
        progress.errors.print(f"error: {escape(error)}", soft_wrap=True)
    tell_warnings([clamps_of(samples).warning], progress)
    progress.console.print(
        f"{len(samples):,} samples, {len(errors):,} errors: {escape(str(out))}", soft_wrap=True
    )
    return bool(errors)


def tell_warnings(warnings: Sequence[str | None], progress: Progress) -> None:
    for warning in filter(None, warnings):
        progress.errors.print(escape(f"warning: {warning}"), soft_wrap=True, highlight=False)


def check(
    benchmark: Annotated[list[str], typer.Argument(help="Benchmarks, as --benchmark takes them.")],
    hub_dir: HubDir = None,
) -> None:
    """Can it be graded? Every reference must grade itself right, and a changed one wrong."""
    from training.curate.progress import Progress
    from training.curate.running import one_line_errors
    from training.evaluate.benchmarks import load_benchmark
    from training.grading.references import check_references

    progress, failed = Progress(), False
    with one_line_errors(progress, Path()):
        for name in benchmark:
            loaded = load_benchmark(name, _hub(hub_dir))
            _tell_repeated(loaded, progress)
            result = check_references((item.reference, item.kind) for item in loaded.items)
            failed = failed or bool(result.refused or result.accepted)
            progress.console.print(
                f"{escape(loaded.name)}: {result.num_references:,} references, "
                f"{result.num_references - len(result.refused):,} right as themselves, "
                f"{result.num_references - len(result.accepted):,} wrong when changed, "
                f"{result.num_by_words:,} compared as words",
                soft_wrap=True,
                highlight=False,
            )
            for reference in result.refused[:10]:
                progress.errors.print(f"not right as itself: {escape(reference)}", soft_wrap=True)
            for reference, changed in result.accepted[:10]:
                progress.errors.print(f"right as {escape(changed)}: {escape(reference)}", soft_wrap=True)
    if failed:
        raise typer.Exit(1)


def chosen_sweep(
    file: str | None,
    benchmarks: Sequence[str] | None,
    grid: dict[str, Any],
    samples: int | None,
    limit: int | None,
) -> Sweep:
    """A file's series, or one series of the options; benchmarks, samples and limit win over the file's."""
    from dataclasses import replace

    from training.curate.errors import CurationError
    from training.evaluate.methods.registry import methods
    from training.evaluate.points import Sweep, read_sweep, series_of

    given = [name for name, values in grid.items() if values is not None]
    if file is not None:
        if given:
            raise CurationError(f"--sweep can't be combined with an option for {given[0]}")
        path = SWEEPS / f"{file}.yaml" if (SWEEPS / f"{file}.yaml").is_file() else Path(file)
        read = read_sweep(path, methods())
        return replace(
            read,
            benchmarks=tuple(benchmarks or read.benchmarks),
            samples=samples or read.samples,
            limit=limit or read.limit,
        )
    if not benchmarks:
        raise CurationError("name at least one --benchmark, or a --sweep")
    return Sweep(tuple(benchmarks), series_of("sweep", grid, methods()), samples or 1, limit)


def load_benchmarks(
    sweep: Sweep, hub_dir: Path | None, suffix: str, progress: Progress
) -> tuple[Benchmark, ...]:
    from training.evaluate.benchmarks import load_benchmark

    rows = _hub(hub_dir)
    loaded = tuple(load_benchmark(name, rows, limit=sweep.limit, suffix=suffix) for name in sweep.benchmarks)
    for benchmark in loaded:
        _tell_repeated(benchmark, progress)
    return loaded


def _tell_repeated(benchmark: Benchmark, progress: Progress) -> None:
    if benchmark.num_repeated:
        line = (
            f"{benchmark.name}: {benchmark.num_repeated:,} rows repeat a question and are left out; "
            "each question is asked once, with its first answer"
        )
        tell_warnings([line], progress)


def _hub(hub_dir: Path | None) -> Any:
    from training.curate.hub import LocalHub, hub_rows

    return hub_rows if hub_dir is None else LocalHub(hub_dir)


def endpoint(url: str, model: str | None, api_key: str | None) -> Endpoint:
    """With the checkpoint that is served now.

    Raises EndpointError: no model is named, and the server names none; or `url` is none.
    """
    import httpx

    from training.endpoints.client import Endpoint
    from training.endpoints.errors import EndpointError, EndpointRefuses
    from training.evaluate.demo_curve.client import (
        ServerError,
        ServerRefuses,
        open_client,
        served_checkpoint,
        served_model,
    )

    async def served() -> Endpoint:
        async with open_client(url, api_key, concurrency=1) as http:
            name = model or await served_model(http)
            return Endpoint(name, url, api_key=api_key, checkpoint=await served_checkpoint(http, name))

    try:
        return asyncio.run(served())
    except httpx.InvalidURL as error:
        raise EndpointRefuses(f"{url} is not a URL: {error}") from error
    except ServerRefuses as error:
        raise EndpointRefuses(str(error)) from error
    except ServerError as error:
        raise EndpointError(str(error)) from error


def _numbers(option: str, text: str | None, kind: type[int] | type[float]) -> list[Any] | None:
    if text is None:
        return None
    try:
        return [kind(part) for part in text.split(",")]
    except ValueError as error:
        Console(stderr=True).print(f"s1: {option} takes numbers, with commas between. Given: {escape(text)}")
        raise typer.Exit(2) from error
