"""Difficulty: a question that one of the solvers gets right is too easy (paper 2.2)."""

from __future__ import annotations

import asyncio
import dataclasses
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from training.curate.asking import Asking
from training.curate.errors import CurationError
from training.curate.progress import Progress
from training.curate.schema import Attempt, Drop, Question, drop, is_cut, reference_of
from training.curate.stage import Outcome
from training.endpoints.cache import CallCache
from training.endpoints.client import Caller, Endpoint, Patience
from training.endpoints.errors import RequestRefused
from training.endpoints.wire import Reply, Sampling
from training.grading.model import Grader, UnparsableVerdict
from training.grading.program import Verdict, check, is_checkable

STAGE = "difficulty"


@dataclass(frozen=True, slots=True)
class DifficultyOptions:
    solvers: tuple[Endpoint, ...]
    sampling: Sampling
    grader: Grader | None
    keep_ungraded: bool
    """Whether a question that nothing can grade is kept; without a grader model this must be said."""
    concurrency: int
    patience: Patience


@dataclass(slots=True)
class _State:
    """Replies, verdicts and failures so far, by question id and the solver's place in the list."""

    replies: dict[tuple[str, int], Reply] = field(default_factory=dict)
    verdicts: dict[tuple[str, int], Verdict] = field(default_factory=dict)
    failures: dict[str, tuple[str, str]] = field(default_factory=dict)


def difficulty(
    questions: Sequence[Question], options: DifficultyOptions, cache_path: Path, progress: Progress
) -> Outcome:
    """Raises EndpointError, CacheError or OSError; what was answered until then is in the cache.

    Questions that a solver refuses and verdicts that stay unclear are dropped with that reason, and asked
    again when the stage runs again with --overwrite.
    """
    _require_checkable(questions, options)
    state = _State()
    with CallCache(cache_path) as cache:
        asking = Asking(cache, options.patience, options.concurrency, progress)
        calls = asyncio.run(_solve(questions, options, asking, state))
        ungraded = _check_all(questions, options, progress, state)
        if options.grader is not None:
            calls += asyncio.run(_grade(ungraded, options.grader, asking, state))
    return _outcome(questions, options, state, calls)


def _require_checkable(questions: Sequence[Question], options: DifficultyOptions) -> None:
    """Before any call is paid for: is there a way to grade?"""
    if options.grader is not None or options.keep_ungraded:
        return
    ungradable = [question for question in questions if not is_checkable(question.answer or "")]
    if ungradable:
        sources = ", ".join(
            f"{name} {count}" for name, count in Counter(q.source for q in ungradable).items()
        )
        raise CurationError(
            f"{len(ungradable)} questions have no answer that a program can check ({sources}): "
            "pass --grader, or --keep-ungraded to take them as hard"
        )


async def _solve(
    questions: Sequence[Question], options: DifficultyOptions, asking: Asking, state: _State
) -> Counter[str]:
    pairs = [(question, place) for question in questions for place in range(len(options.solvers))]

    async def work(caller: Caller, pair: tuple[Question, int]) -> None:
        question, place = pair
        solver = options.solvers[place]
        try:
            reply = await caller.ask(solver, question.question, options.sampling)
            state.replies[question.id, place] = reply
        except RequestRefused as error:
            state.failures[question.id] = ("solver_refused", f"{solver.model} {error}")

    return await asking.each("solving", pairs, work)


def _check_all(
    questions: Sequence[Question], options: DifficultyOptions, progress: Progress, state: _State
) -> list[tuple[Question, int]]:
    """Grade by math-verify; returns the attempts, by question and solver, that it can't grade or compare."""
    ungraded: list[tuple[Question, int]] = []
    places = range(len(options.solvers))
    with progress.bar("checking", len(questions)) as advance:
        for question in questions:
            next(advance)
            if question.id in state.failures:
                continue
            replies = [state.replies[question.id, place] for place in places]
            were_cut = [is_cut(reply.finish_reason) for reply in replies]
            verdicts = check(question.answer, [reply.answer for reply in replies], were_cut)
            for place in places:
                # A solver that ran out of tokens before it stated an answer has not solved it.
                if verdicts is not None and (verdicts[place].decided or were_cut[place]):
                    state.verdicts[question.id, place] = verdicts[place]
                else:
                    ungraded.append((question, place))
    return ungraded


async def _grade(
    attempts: Sequence[tuple[Question, int]], grader: Grader, asking: Asking, state: _State
) -> Counter[str]:
    async def work(caller: Caller, attempt: tuple[Question, int]) -> None:
        question, place = attempt
        reference = reference_of(question)
        try:
            if reference is not None:
                answer = state.replies[question.id, place].answer
                state.verdicts[question.id, place] = await grader.grade(
                    caller, question.question, reference, answer
                )
        except RequestRefused as error:
            state.failures[question.id] = ("grader_refused", str(error))
        except UnparsableVerdict as error:
            state.failures[question.id] = ("unparsable_verdict", str(error))

    return await asking.each("grading", attempts, work)


def _outcome(
    questions: Sequence[Question], options: DifficultyOptions, state: _State, calls: Counter[str]
) -> Outcome:
    kept: list[Question] = []
    drops: list[Drop] = []
    for question in questions:
        if question.id in state.failures:
            drops.append(drop(question, STAGE, *state.failures[question.id]))
            continue
        attempts = tuple(
            _attempt(solver, state.replies[question.id, place], state.verdicts.get((question.id, place)))
            for place, solver in enumerate(options.solvers)
        )
        solved_by = [attempt.model for attempt in attempts if attempt.correct]
        if solved_by:
            drops.append(drop(question, STAGE, "solved", f"by {', '.join(solved_by)}"))
        elif any(attempt.correct is None for attempt in attempts) and not options.keep_ungraded:
            unclear = ", ".join(attempt.model for attempt in attempts if attempt.correct is None)
            detail = f"nothing can compare the answer of {unclear} with {question.answer!r}"
            drops.append(drop(question, STAGE, "ungraded", detail))
        else:
            kept.append(dataclasses.replace(question, attempts=attempts))
    right = Counter(key[1] for key, verdict in state.verdicts.items() if verdict.correct)
    notes: dict[str, Any] = {
        "solved_by": {solver.model: right[place] for place, solver in enumerate(options.solvers)},
        "graded_by": dict(sorted(Counter(verdict.graded_by for verdict in state.verdicts.values()).items())),
    }
    progress_note = {"calls": dict(sorted(calls.items()))}
    return Outcome(len(questions), kept, drops, {**notes, **progress_note})


def _attempt(solver: Endpoint, reply: Reply, verdict: Verdict | None) -> Attempt:
    return Attempt(
        model=solver.model,
        answer=reply.answer,
        correct=None if verdict is None else verdict.correct,
        graded_by=None if verdict is None else verdict.graded_by,
        thinking_tokens=reply.thinking_tokens,
        completion_tokens=reply.completion_tokens,
        finish_reason=reply.finish_reason,
    )


def settings_of(options: DifficultyOptions) -> Mapping[str, Any]:
    """What decides the result; where the models are served does not."""
    return {
        "solvers": [[solver.model, solver.api] for solver in options.solvers],
        "sampling": dataclasses.asdict(options.sampling),
        "grader": None if options.grader is None else options.grader.endpoint.model,
        "keep_ungraded": options.keep_ungraded,
    }
