"""``s1 curate``: the stages from a pool of questions to a training set."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from training.curate.options import (
    Concurrency,
    Extra,
    FileFormat,
    GraderKey,
    GraderName,
    HubDir,
    Input,
    MaxTokens,
    Ngram,
    Out,
    Overwrite,
    ReplyTimeout,
    RetryFor,
    Seed,
    Temperature,
)

if TYPE_CHECKING:
    from training.curate.decontaminate import Benchmarks
    from training.curate.progress import Progress

app = typer.Typer(
    name="curate",
    help="Turn questions into a training set: collect, quality, difficulty, diversity.",
    no_args_is_help=True,
    add_completion=False,
)

Sources = Annotated[
    list[str],
    typer.Option("--source", help="FILE, NAME=FILE, hub:NAME or hub:all; repeat for more. First wins."),
]
Columns = Annotated[
    list[str] | None,
    typer.Option("--column", help="ROLE=COLUMN or SOURCE.ROLE=COLUMN, where the names are not found."),
]
BenchmarkFiles = Annotated[
    list[str] | None,
    typer.Option("--benchmark", help="Drop what shares words with this FILE or hub:NAME; may be repeated."),
]
LabelWay = Literal["none", "field", "clusters", "model"]
SelectorName = Literal["s1", "s1-notebook", "random", "diverse", "longest", "full"]


@app.command()
def collect(
    source: Sources,
    out: Out,
    column: Columns = None,
    benchmark: BenchmarkFiles = None,
    ngram_words: Ngram = 8,
    near_duplicates: Annotated[
        float, typer.Option(min=0, max=1, help="Overlap from which two questions are one; 0 keeps both.")
    ] = 0.8,
    hub_dir: HubDir = None,
    seed: Seed = 0,
    format: FileFormat = "parquet",
    overwrite: Overwrite = False,
) -> None:
    """Gather questions of any form into one pool, without duplicates and what benchmarks share."""
    from training.curate import collect as collecting
    from training.curate.hub import LocalHub, hub_rows
    from training.curate.progress import Progress
    from training.curate.running import one_line_errors, run_stage
    from training.curate.stage import Outcome, Stage

    progress = Progress()
    with one_line_errors(progress, out):
        specs = collecting.parse_sources(source)
        columns = collecting.parse_columns(column or [])
        tests = collecting.parse_sources(benchmark or [])
        settings = {
            "sources": [[spec.name, "hub" if spec.is_hub else "file"] for spec in specs],
            "columns": columns,
            "benchmarks": [spec.name for spec in tests],
            "ngram_words": ngram_words,
            "near_duplicates": near_duplicates,
            "seed": seed,
        }
        inputs = collecting.input_files([*specs, *tests], hub_dir)
        stage = Stage("collect", out, settings, inputs, format, overwrite)
        rows = hub_rows if hub_dir is None else LocalHub(hub_dir)

        def make() -> Outcome:
            loaded = []
            for spec in specs:
                part = collecting.load_source(spec, columns, rows, seed=seed)
                collecting.report(part, progress)
                loaded.append(part)
            against = _benchmarks(benchmark, column, hub_dir, ngram_words, progress) if tests else None
            return collecting.collect(loaded, against, near_duplicates, progress)

        run_stage(stage, [], make, progress)


@app.command()
def decontaminate(
    input: Input,
    out: Out,
    benchmark: BenchmarkFiles = None,
    column: Columns = None,
    ngram_words: Ngram = 8,
    hub_dir: HubDir = None,
    format: FileFormat = "parquet",
    overwrite: Overwrite = False,
) -> None:
    """Drop questions that share words in a row with benchmarks."""
    from training.curate import collect as collecting
    from training.curate.decontaminate import drop_contaminated
    from training.curate.errors import CurationError
    from training.curate.files import questions_file
    from training.curate.progress import Progress
    from training.curate.running import one_line_errors, run_stage
    from training.curate.stage import Outcome, Stage, read_input

    progress = Progress()
    with one_line_errors(progress, out):
        if not benchmark:
            raise CurationError("--benchmark is missing: name a file or hub:NAME to keep clean of")
        tests = collecting.parse_sources(benchmark)
        settings = {"benchmarks": [spec.name for spec in tests], "ngram_words": ngram_words}
        settings |= {"columns": collecting.parse_columns(column or [])}
        inputs = (questions_file(input), *collecting.input_files(tests, hub_dir))
        stage = Stage("decontaminate", out, settings, inputs, format, overwrite)
        start = read_input(input)

        def make() -> Outcome:
            against = _benchmarks(benchmark, column, hub_dir, ngram_words, progress)
            with progress.bar("decontamination", len(start.questions)) as advance:
                kept, drops = drop_contaminated(start.questions, against, "decontaminate", advance)
            return Outcome(len(start.questions), kept, drops)

        run_stage(stage, start.funnel, make, progress)


def _benchmarks(
    benchmark: list[str] | None,
    column: list[str] | None,
    hub_dir: Path | None,
    ngram_words: int,
    progress: Progress,
) -> Benchmarks:
    from training.curate import collect as collecting
    from training.curate.decontaminate import Benchmarks
    from training.curate.hub import LocalHub, hub_rows

    rows = hub_rows if hub_dir is None else LocalHub(hub_dir)
    against = Benchmarks(ngram_words)
    for spec in collecting.parse_sources(benchmark or []):
        part = collecting.load_source(spec, collecting.parse_columns(column or []), rows, seed=0)
        collecting.report(part, progress)
        against.add(spec.name, part.questions)
    return against


@app.command()
def quality(
    input: Input,
    out: Out,
    rules: Annotated[
        Path | None, typer.Option(dir_okay=False, help="YAML; the package's quality.yaml if absent.")
    ] = None,
    english_only: Annotated[bool, typer.Option(help="Drop questions in other languages.")] = False,
    require_trace: Annotated[bool, typer.Option(help="Drop questions without thinking and answer.")] = False,
    require_solution: Annotated[
        bool, typer.Option(help="Drop questions with neither solution nor answer, as s1 does.")
    ] = False,
    require_correct: Annotated[
        bool, typer.Option(help="Drop traces whose answer is not known to be right.")
    ] = False,
    format: FileFormat = "parquet",
    overwrite: Overwrite = False,
) -> None:
    """Drop failed, cut and empty traces, texts that are not whole, and other languages."""
    from training.curate import quality as checking
    from training.curate.files import questions_file
    from training.curate.progress import Progress
    from training.curate.running import one_line_errors, run_stage
    from training.curate.stage import Outcome, Stage, read_input

    progress = Progress()
    with one_line_errors(progress, out):
        loaded = checking.load_rules(rules or checking.DEFAULT_RULES)
        options = checking.QualityOptions(english_only, require_trace, require_solution, require_correct)
        settings = {
            "rules": loaded.model_dump(mode="json"),
            "english_only": english_only,
            "require_trace": require_trace,
            "require_solution": require_solution,
            "require_correct": require_correct,
        }
        stage = Stage("quality", out, settings, (questions_file(input),), format, overwrite)
        start = read_input(input)

        def make() -> Outcome:
            with progress.bar("quality", len(start.questions)) as advance:
                return checking.quality(start.questions, loaded, options, advance)

        run_stage(stage, start.funnel, make, progress)


@app.command()
def difficulty(
    input: Input,
    out: Out,
    solver: Annotated[
        list[str], typer.Option("--solver", help="MODEL@URL of an OpenAI-compatible API; repeat for more.")
    ],
    grader: GraderName = None,
    keep_ungraded: Annotated[
        bool, typer.Option(help="Take a question that nothing can grade as a hard one.")
    ] = False,
    max_tokens: MaxTokens = 32768,
    temperature: Temperature = 0.05,
    extra: Extra = None,
    concurrency: Concurrency = 64,
    retry_for: RetryFor = 300,
    reply_timeout: ReplyTimeout = 3600,
    solver_key: Annotated[
        str, typer.Option(help="Environment variable with the solvers' key.")
    ] = "S1_API_KEY",
    grader_key: GraderKey = "S1_GRADER_KEY",
    format: FileFormat = "parquet",
    overwrite: Overwrite = False,
) -> None:
    """Let models solve the questions and drop those that any of them gets right."""
    from training.curate import difficulty as solving
    from training.curate.files import questions_file
    from training.curate.options import parse_endpoint, parse_extra
    from training.curate.progress import Progress
    from training.curate.running import one_line_errors, run_stage
    from training.curate.stage import Stage, read_input
    from training.endpoints.client import Patience
    from training.endpoints.wire import Sampling
    from training.grading.model import GRADER_SAMPLING, Grader

    progress = Progress()
    with one_line_errors(progress, out):
        judge = parse_endpoint("--grader", grader, grader_key) if grader else None
        options = solving.DifficultyOptions(
            tuple(parse_endpoint("--solver", text, solver_key) for text in solver),
            Sampling(max_tokens, temperature, extra=parse_extra(extra)),
            Grader(judge, GRADER_SAMPLING) if judge else None,
            keep_ungraded,
            concurrency,
            Patience(retry_for, reply_timeout),
        )
        settings = solving.settings_of(options)
        stage = Stage("difficulty", out, settings, (questions_file(input),), format, overwrite)
        start = read_input(input)
        cache = out / "calls.jsonl"
        run_stage(
            stage,
            start.funnel,
            lambda: solving.difficulty(start.questions, options, cache, progress),
            progress,
        )


@app.command()
def diversity(
    input: Input,
    out: Out,
    size: Annotated[int, typer.Option(min=1, help="Questions to choose.")] = 1000,
    select: Annotated[SelectorName, typer.Option(help="s1's algorithm, or a set to compare with.")] = "s1",
    label: Annotated[LabelWay, typer.Option(help="Where domains come from; none: as they are.")] = "field",
    field: Annotated[str, typer.Option(help="For --label field: domain, or metadata.KEY.")] = "domain",
    clusters: Annotated[int, typer.Option(min=1, help="For --label clusters: how many.")] = 50,
    labeller: Annotated[str | None, typer.Option(help="For --label model: MODEL@URL.")] = None,
    labeller_key: Annotated[str, typer.Option(help="Environment variable with its key.")] = "S1_API_KEY",
    codes: Annotated[
        Path | None, typer.Option(dir_okay=False, help="YAML of two-digit codes; MSC2020 if absent.")
    ] = None,
    length: Annotated[
        Literal["thinking", "solver", "text"], typer.Option(help="Tokens of the trace or solver, or words.")
    ] = "thinking",
    prefer: Annotated[
        list[str] | None, typer.Option(help="SOURCE[:TOKENS] to take first if right; none for none.")
    ] = None,
    benchmark: Annotated[
        list[Path] | None, typer.Option(help="For s1-notebook: labelled questions; the first counts twice.")
    ] = None,
    uniform_share: Annotated[
        float, typer.Option(min=0, max=1, help="For s1-notebook: of the set, before the benchmark's domains.")
    ] = 0.7,
    concurrency: Concurrency = 64,
    retry_for: RetryFor = 300,
    reply_timeout: ReplyTimeout = 3600,
    seed: Seed = 0,
    format: FileFormat = "parquet",
    overwrite: Overwrite = False,
) -> None:
    """Label domains and choose the set: all domains, and in each the longest traces first."""
    from training.curate import diversity as choosing
    from training.curate.files import questions_file
    from training.curate.labelling import LabelOptions, label_questions
    from training.curate.progress import Progress
    from training.curate.running import one_line_errors, run_stage
    from training.curate.stage import Outcome, Stage, read_input
    from training.endpoints.client import Patience

    progress = Progress()
    with one_line_errors(progress, out):
        patience = Patience(retry_for, reply_timeout)
        labels = LabelOptions(
            label, field, clusters, labeller, labeller_key, codes, seed, concurrency, patience
        )
        preference = choosing.parse_preference(prefer or [])
        benchmarks = tuple(questions_file(path) for path in benchmark or [])
        options = choosing.DiversityOptions(select, size, seed, length, preference, uniform_share, benchmarks)
        settings = {**labels.settings(), **choosing.settings_of(options)}
        inputs = (questions_file(input), *benchmarks, *([codes] if codes else []))
        stage = Stage("diversity", out, settings, inputs, format, overwrite)
        start = read_input(input)

        def make() -> Outcome:
            questions, drops, calls = label_questions(start.questions, labels, out / "calls.jsonl", progress)
            return choosing.diversity(questions, drops, options, calls)

        run_stage(stage, start.funnel, make, progress)
