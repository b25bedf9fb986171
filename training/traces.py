"""``s1 traces``: thinking and answer of a teacher for every question (paper 2.1)."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import typer

from training.curate.options import (
    Concurrency,
    Extra,
    FileFormat,
    GraderKey,
    GraderName,
    Input,
    MaxTokens,
    Out,
    Overwrite,
    ReplyTimeout,
    RetryFor,
    Temperature,
)

Teacher = Annotated[
    str, typer.Option("--teacher", help="MODEL@URL; the URL up to and with the version, such as …/v1.")
]
Api = Annotated[
    Literal["openai", "openai-max-tokens", "anthropic", "gemini"],
    typer.Option(help="The teacher's wire form; openai-max-tokens for servers that know only that field."),
]


def traces(
    input: Input,
    out: Out,
    teacher: Teacher,
    api: Api = "openai",
    max_tokens: MaxTokens = 32768,
    temperature: Temperature = None,
    extra: Extra = None,
    tokenizer: Annotated[
        Path | None, typer.Option(help="tokenizer.json that counts the thinking; the API's count if absent.")
    ] = None,
    grade: Annotated[
        bool, typer.Option(help="Record whether the answer is right, where it can be told.")
    ] = True,
    grader: GraderName = None,
    only_correct: Annotated[
        bool, typer.Option("--only-correct", help="Keep only answers that are known to be right.")
    ] = False,
    concurrency: Concurrency = 64,
    retry_for: RetryFor = 300,
    reply_timeout: ReplyTimeout = 3600,
    teacher_key: Annotated[str, typer.Option(help="Environment variable with the API key.")] = "S1_API_KEY",
    grader_key: GraderKey = "S1_GRADER_KEY",
    format: FileFormat = "parquet",
    overwrite: Overwrite = False,
) -> None:
    """Ask a teacher to think and answer; whether it is right is recorded, not filtered."""
    from training.curate import traces as teaching
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
        options = teaching.TraceOptions(
            parse_endpoint("--teacher", teacher, teacher_key, api=api),
            Sampling(max_tokens, temperature, extra=parse_extra(extra)),
            tokenizer,
            grade,
            Grader(judge, GRADER_SAMPLING) if judge else None,
            only_correct,
            concurrency,
            Patience(retry_for, reply_timeout),
        )
        settings = teaching.settings_of(options)
        inputs = (questions_file(input), *([tokenizer] if tokenizer else []))
        stage = Stage("traces", out, settings, inputs, format, overwrite)
        start = read_input(input)
        cache = out / "calls.jsonl"
        run_stage(
            stage, start.funnel, lambda: teaching.teach(start.questions, options, cache, progress), progress
        )
