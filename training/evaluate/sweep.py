"""Runs a sweep: asks what is not on disk yet, then grades, then writes samples and what they are of."""

from __future__ import annotations

import contextlib
import json
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from training.endpoints.client import Caller, Endpoint, for_all
from training.endpoints.errors import RequestRefused
from training.endpoints.wire import Reply, Sampling
from training.evaluate.benchmarks import Benchmark, Item
from training.evaluate.methods.base import Answer, Method
from training.evaluate.points import Point, Sweep, jobs_of
from training.evaluate.samples import Sample
from training.grading.model import Grader, UnparsableVerdict
from training.grading.program import Verdict, grade

_ATTEMPTS_PER_SAMPLE = 100_000
_NOT_COUNTED = "the reply counts neither reasoning tokens nor completion tokens"


@dataclass(frozen=True, slots=True, eq=False)
class Job:
    """One sample to get. Equal only to itself: it is a key of answers and verdicts."""

    benchmark: Benchmark
    item: Item
    point: Point
    sample: int


@dataclass(frozen=True, slots=True)
class Model:
    """Whom to ask, how many requests at a time, and most tokens of an answer where a point says nothing."""

    endpoint: Endpoint
    concurrency: int
    max_tokens: int | None = None


@dataclass(slots=True)
class Asked:
    """Answers and refusals by job."""

    answers: dict[Job, Answer] = field(default_factory=dict)
    errors: dict[Job, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Asker:
    """`Ask` for one job: the point's common parameters, and a seed where chance plays a part."""

    caller: Caller
    endpoint: Endpoint
    fields: Mapping[str, Any]
    max_tokens: int
    sample: int

    async def __call__(self, prompt: str, fields: Mapping[str, Any], *, attempt: int = 0) -> Reply:
        temperature = float(self.fields.get("temperature", 0))
        number = self.sample * _ATTEMPTS_PER_SAMPLE + attempt
        extra = {**({"top_p": self.fields["top_p"]} if "top_p" in self.fields else {}), **fields}
        limit = int(self.fields.get("max_completion_tokens", self.max_tokens))
        seed = number if temperature > 0 else None
        sampling = Sampling(limit, temperature, seed, extra)
        return await self.caller.ask(self.endpoint, prompt, sampling, attempt=number)


@contextlib.contextmanager
def progress_bar(console: Console, title: str, total: int) -> Iterator[Callable[[], None]]:
    """Shows the share done and the time left; the yielded function tells that one more is done."""
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=console, transient=True) as bars:
        task = bars.add_task(title, total=total)
        yield lambda: bars.advance(task)


def jobs(sweep: Sweep, benchmarks: Sequence[Benchmark]) -> list[Job]:
    return [
        Job(benchmark, benchmark.items[at], point, sample)
        for benchmark in benchmarks
        for at, point, sample in jobs_of(sweep, len(benchmark.items))
    ]


async def ask_all(
    todo: Sequence[Job], model: Model, methods: Mapping[str, Method], caller: Caller, console: Console
) -> Asked:
    """Raises EndpointError or OSError; what was answered until then is in the cache."""
    asked = Asked()
    with progress_bar(console, "asking", len(todo)) as advance:

        async def work(job: Job) -> None:
            fields, limit = job.point.fields, model.max_tokens or job.benchmark.max_tokens
            ask = Asker(caller, model.endpoint, fields, limit, job.sample)
            try:
                asked.answers[job] = await methods[job.point.method].answer(ask, job.item, fields)
            except RequestRefused as error:
                asked.errors[job] = str(error)
            advance()

        await for_all(todo, work, concurrency=model.concurrency)
    return asked


def grade_all(todo: Sequence[Job], asked: Asked, console: Console) -> dict[Job, Verdict]:
    """By program. Must run in the main thread (see `training.grading.mathematics`)."""
    verdicts: dict[Job, Verdict] = {}
    with progress_bar(console, "grading", len(todo)) as advance:
        for job in todo:
            if job in asked.answers:
                item, answer = job.item, asked.answers[job]
                cut = answer.finish_reason == "length"
                verdicts[job] = grade(item.reference, answer.content, item.kind, item.options, cut=cut)
            advance()
    return verdicts


async def judge_undecided(
    verdicts: dict[Job, Verdict],
    asked: Asked,
    grader: Grader,
    caller: Caller,
    concurrency: int,
    console: Console,
) -> None:
    """Ask the grader model what no rule could decide; a refusal or an unclear verdict is recorded as such."""
    undecided = [job for job, verdict in verdicts.items() if not verdict.decided]
    with progress_bar(console, "judging", len(undecided)) as advance:

        async def work(job: Job) -> None:
            prompt, reference = job.item.prompt, job.item.reference
            try:
                content = asked.answers[job].content
                verdicts[job] = await grader.grade(caller, prompt, reference, content)
            except (RequestRefused, UnparsableVerdict) as error:
                asked.errors[job] = f"grader: {error}"
            advance()

        await for_all(undecided, work, concurrency=concurrency)


def make_samples(
    todo: Sequence[Job], asked: Asked, verdicts: Mapping[Job, Verdict]
) -> tuple[list[Sample], Counter[str]]:
    """The rows, and how often each rule graded."""
    samples = [_sample(job, asked, verdicts.get(job)) for job in todo]
    return samples, Counter(sample.graded_by for sample in samples if sample.error is None)


def _sample(job: Job, asked: Asked, verdict: Verdict | None) -> Sample:
    answer, error = asked.answers.get(job), asked.errors.get(job)
    thinking, tokens_are = (None, "") if answer is None else _tokens(answer)
    if answer is not None and thinking is None:
        error = error or _NOT_COUNTED
    return Sample(
        benchmark=job.benchmark.name,
        question=job.item.id,
        point=job.point.key,
        method=job.point.method,
        parameters=json.dumps(job.point.fields, sort_keys=True, ensure_ascii=False),
        sample=job.sample,
        content="" if answer is None else answer.content,
        extracted="" if verdict is None else verdict.extracted,
        reference=job.item.reference,
        correct=verdict is not None and verdict.correct and error is None,
        decided=verdict is not None and verdict.decided,
        graded_by="" if verdict is None else verdict.graded_by,
        thinking_tokens=thinking or 0,
        completion_tokens=None if answer is None else answer.completion_tokens,
        tokens_are=tokens_are,
        num_requests=0 if answer is None else answer.num_requests,
        finish_reason=None if answer is None else answer.finish_reason,
        receipts=json.dumps([dict(r) for r in answer.receipts] if answer else [], ensure_ascii=False),
        error=error,
    )


def _tokens(answer: Answer) -> tuple[int | None, str]:
    """Thinking tokens that are not reported must not be taken for none."""
    if answer.thinking_tokens is not None:
        return answer.thinking_tokens, "thinking"
    return answer.completion_tokens, "" if answer.completion_tokens is None else "completion"
