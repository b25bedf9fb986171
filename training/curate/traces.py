"""Traces: a teacher's thinking and answer per question, and whether the answer is right."""

from __future__ import annotations

import asyncio
import dataclasses
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from training.curate.asking import Asking
from training.curate.errors import CurationError
from training.curate.progress import Progress
from training.curate.schema import ENDED_BY_SERVER, Drop, Question, drop, is_cut, reference_of
from training.curate.stage import Outcome
from training.endpoints.cache import CallCache
from training.endpoints.client import Caller, Endpoint, Patience
from training.endpoints.errors import RequestRefused
from training.endpoints.wire import Reply, Sampling
from training.grading.model import Grader, UnparsableVerdict
from training.grading.program import check

STAGE = "traces"


@dataclass(frozen=True, slots=True)
class TraceOptions:
    teacher: Endpoint
    sampling: Sampling
    tokenizer: Path | None
    grade: bool
    grader: Grader | None
    only_correct: bool
    concurrency: int
    patience: Patience

    def __post_init__(self) -> None:
        if not self.grade and (self.grader is not None or self.only_correct):
            raise CurationError("--no-grade can't be combined with --grader or --only-correct")


@dataclass(slots=True)
class _State:
    replies: dict[str, Reply] = field(default_factory=dict)
    errors: dict[str, str] = field(default_factory=dict)
    """Of questions that the teacher refused."""
    correct: dict[str, bool] = field(default_factory=dict)
    ungraded: dict[str, str] = field(default_factory=dict)
    """Why a verdict is missing."""


def settings_of(options: TraceOptions) -> Mapping[str, Any]:
    """What decides the result; where the models are served does not."""
    return {
        "teacher": [options.teacher.model, options.teacher.api],
        "sampling": dataclasses.asdict(options.sampling),
        "counts_by": "the API" if options.tokenizer is None else "a tokenizer",
        "grade": options.grade,
        "grader": None if options.grader is None else options.grader.endpoint.model,
        "only_correct": options.only_correct,
    }


def teach(
    questions: Sequence[Question], options: TraceOptions, cache_path: Path, progress: Progress
) -> Outcome:
    """Every question with its trace, or with `trace_error`, which `s1 curate quality` drops.

    Raises EndpointError, CacheError or OSError; what was answered until then is in the cache.
    """
    count = None if options.tokenizer is None else token_counter(options.tokenizer)
    state = _State()
    with CallCache(cache_path) as cache:
        asking = Asking(cache, options.patience, options.concurrency, progress)
        calls = asyncio.run(_ask_all(questions, options, asking, state))
        if options.grade:
            ungraded = _check_all(questions, progress, state)
            if options.grader is not None:
                calls += asyncio.run(_grade(ungraded, options.grader, asking, state))
    return _outcome(questions, options, state, calls, count)


def token_counter(path: Path) -> Callable[[str], int]:
    """Raises CurationError: the file is no tokenizer.json."""
    from tokenizers import Tokenizer

    if not path.is_file():
        raise CurationError(f"--tokenizer {path}: no such file; it must be a tokenizer.json")
    try:
        tokenizer = Tokenizer.from_file(str(path))
    except Exception as error:
        raise CurationError(f"--tokenizer {path} is no tokenizer.json: {error}") from error
    return lambda text: len(tokenizer.encode(text, add_special_tokens=False).ids)


async def _ask_all(
    questions: Sequence[Question], options: TraceOptions, asking: Asking, state: _State
) -> Counter[str]:
    async def work(caller: Caller, question: Question) -> None:
        try:
            reply = await caller.ask(options.teacher, question.question, options.sampling)
            state.replies[question.id] = reply
        except RequestRefused as error:
            state.errors[question.id] = str(error)

    return await asking.each("asking the teacher", questions, work)


def _check_all(questions: Sequence[Question], progress: Progress, state: _State) -> list[Question]:
    """Grade by math-verify; returns the questions that it can't grade, or whose answer it can't compare."""
    ungraded = []
    answered = [question for question in questions if question.id in state.replies]
    with progress.bar("checking", len(answered)) as advance:
        for question in answered:
            next(advance)
            reply = state.replies[question.id]
            answer = reply.answer
            verdicts = check(question.answer, [answer], [is_cut(reply.finish_reason)])
            if not answer.strip():
                state.ungraded[question.id] = "empty answer"
            elif verdicts is not None and verdicts[0].decided:
                state.correct[question.id] = verdicts[0].correct
            elif verdicts is not None:
                ungraded.append(question)
                state.ungraded[question.id] = "not comparable by a program"
            elif reference_of(question) is not None:
                ungraded.append(question)
                state.ungraded[question.id] = "not checkable by a program"
            else:
                state.ungraded[question.id] = "no reference"
    return ungraded


async def _grade(
    questions: Sequence[Question], grader: Grader, asking: Asking, state: _State
) -> Counter[str]:
    async def work(caller: Caller, question: Question) -> None:
        answer, reference = state.replies[question.id].answer, reference_of(question) or ""
        try:
            verdict = await grader.grade(caller, question.question, reference, answer)
            state.correct[question.id] = verdict.correct
            del state.ungraded[question.id]
        except RequestRefused:
            state.ungraded[question.id] = "grader refused"
        except UnparsableVerdict:
            state.ungraded[question.id] = "unparsable verdict"

    return await asking.each("grading", questions, work)


def _outcome(
    questions: Sequence[Question],
    options: TraceOptions,
    state: _State,
    calls: Counter[str],
    count: Callable[[str], int] | None,
) -> Outcome:
    kept: list[Question] = []
    drops: list[Drop] = []
    for question in questions:
        traced = _traced(question, options.teacher.model, state, count)
        if options.only_correct and traced.trace_correct is not True:
            reason = "not_correct" if traced.trace_correct is False else "not_known_correct"
            detail = state.ungraded.get(question.id) or state.errors.get(question.id, "")
            drops.append(drop(question, STAGE, reason, detail))
        else:
            kept.append(traced)
    right = sum(state.correct.values())
    notes = {
        "correct": {"right": right, "wrong": len(state.correct) - right},
        "ungraded": dict(sorted(Counter(state.ungraded.values()).items())),
        "errors": len(state.errors),
        "calls": dict(sorted(calls.items())),
    }
    return Outcome(len(questions), kept, drops, notes)


def _finish_reason(reply: Reply) -> str | None:
    """Of the thinking, where our receipt says that the server ended it: then the answer's own is `stop`."""
    ended_by = (reply.thinking_budget or {}).get("ended_by")
    return ended_by if ended_by in ENDED_BY_SERVER else reply.finish_reason


def _traced(question: Question, model: str, state: _State, count: Callable[[str], int] | None) -> Question:
    reply = state.replies.get(question.id)
    if reply is None:
        return dataclasses.replace(
            question,
            trace_model=model,
            trace_error=state.errors[question.id],
            thinking=None,
            trace_answer=None,
            trace_correct=None,
            trace_finish_reason=None,
            thinking_tokens=None,
        )
    return dataclasses.replace(
        question,
        thinking=reply.thinking,
        trace_answer=reply.answer,
        trace_model=model,
        trace_correct=state.correct.get(question.id),
        trace_error=None,
        trace_finish_reason=_finish_reason(reply),
        thinking_tokens=reply.thinking_tokens if count is None else count(reply.thinking),
    )
