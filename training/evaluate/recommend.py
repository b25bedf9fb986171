"""Which budget to set: the smallest whose accuracy is, with confidence, within a margin of the best."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import yaml
from pydantic import ValidationError

from server.budget.policy import Policy
from server.budget.spec import BUDGET_FIELDS
from training.curate.errors import CurationError
from training.evaluate.bootstrap import resample
from training.evaluate.granted import together
from training.evaluate.summary import Results, RunSummary
from training.files import write_text

BUDGET_METHOD = "budget"
MIN_QUESTIONS = 30
"""As many as AIME has. Of fewer, resamples look surer than they are."""


@dataclass(frozen=True, slots=True)
class Wish:
    """Within how many percentage points of the best, and how sure (a share of the resamples)."""

    margin_points: float
    confidence: float
    price_per_million_tokens: float | None = None


@dataclass(frozen=True, slots=True)
class Candidate:
    """One run that a policy can ask for. `confidence` is the share of resamples in which it is within the
    margin of whichever run is best in that resample; `p95_tokens` is of single samples."""

    series: str
    run: RunSummary
    confidence: float
    p95_tokens: float

    @property
    def fields(self) -> dict[str, Any]:
        return {name: self.run.parameters[name] for name in BUDGET_FIELDS if name in self.run.parameters}

    @property
    def is_settable(self) -> bool:
        """Whether a policy can set it, and some sample was answered with just this budget."""
        return bool(self.fields) and self.run.clamps.num_clamped < len(self.run.tokens_of_samples)


@dataclass(frozen=True, slots=True)
class Recommendation:
    """`candidates` are all, the cheapest first; `chosen` and `best` are among them."""

    benchmark: str
    wish: Wish
    candidates: tuple[Candidate, ...]
    chosen: Candidate
    best: Candidate
    num_left_out: int = 0
    """Runs that were asked fewer questions than others, which can't be compared question by question."""

    def cost_per_thousand_requests(self, candidate: Candidate) -> float | None:
        """In the price's currency, by mean completion tokens; None without a price or a count."""
        tokens, price = candidate.run.completion_tokens, self.wish.price_per_million_tokens
        return None if price is None or tokens is None else tokens * price / 1000


def recommend(results: Results, benchmark: str | None, wish: Wish) -> Recommendation:
    """Among the runs of method `budget` at one temperature, by mean thinking tokens.

    Raises:
        CurationError: no such benchmark, several and none named, too few questions, no right answer, or no
            run that a policy can ask for.
    """
    name = _benchmark(results, benchmark)
    longest_first = sorted(results.series, key=lambda series: -series.num_questions)
    found = [
        (series.name, run)
        for series in longest_first
        if series.benchmark == name and series.method == BUDGET_METHOD
        for run in series.runs
    ]
    unique = {_key(run): (series, run) for series, run in reversed(found)}
    # A run without any budget field is no budget to set, but it may be the best there is.
    every = list(reversed(unique.values()))
    most = max((len(run.questions.accuracy_points) for _, run in every), default=0)
    runs = [(series, run) for series, run in every if len(run.questions.accuracy_points) == most]
    if not any(any(name in run.parameters for name in BUDGET_FIELDS) for _, run in runs):
        raise CurationError(f"{name}: no run has a budget that a policy could set")
    _require_one_temperature([run for _, run in runs])
    if most < MIN_QUESTIONS:
        raise CurationError(
            f"{name}: to compare budgets takes answers to at least {MIN_QUESTIONS} questions. Given: {most}"
        )
    if not any(run.accuracy.value for _, run in runs):
        raise CurationError(
            f"{name}: no run has a right answer to any of {most} questions, so none is better than another"
        )
    drawn = resample([run.questions for _, run in runs]).accuracy_points
    within = drawn >= drawn.max(axis=1, keepdims=True) - wish.margin_points - 1e-9
    candidates = [
        Candidate(series, run, float(share), _p95(run))
        for (series, run), share in zip(runs, within.mean(axis=0), strict=True)
    ]
    candidates.sort(key=_cheapest_first)
    best = max(candidates, key=lambda candidate: candidate.run.accuracy.value or 0.0)
    settable = [candidate for candidate in candidates if candidate.is_settable]
    if not settable:
        raise CurationError(
            f"{name}: no run was answered with the budget that it asks for; without an answer or lowered: "
            f"{together(run.clamps for _, run in runs)}"
        )
    sure = [candidate for candidate in settable if candidate.confidence >= wish.confidence]
    if not sure:
        surest = max(settable, key=lambda candidate: candidate.confidence)
        raise CurationError(
            f"{name}: no budget is within {wish.margin_points:g} points of the best with confidence "
            f"{wish.confidence:.0%}; the surest, {surest.run.label}, is with {surest.confidence:.0%}. "
            "Ask more questions or samples, or allow a larger margin"
        )
    return Recommendation(name, wish, tuple(candidates), sure[0], best, len(every) - len(runs))


def write_policy(recommendation: Recommendation, model: str, path: Path, command: str) -> None:
    """A policy file whose default for `model` is the chosen budget, with its reasons as comments."""
    fields = recommendation.chosen.fields
    policy: dict[str, Any] = {"models": {model: {"default": fields}}}
    try:
        Policy.model_validate(policy)
    except ValidationError as error:
        raise CurationError(f"the chosen budget is no policy: {error.errors()[0]['msg']}") from error
    lines = [*reasons(recommendation), *warnings(recommendation), f"Made by: {command}"]
    comments = "".join(f"# {line}\n" for line in lines)
    write_text(path, comments + yaml.safe_dump(policy, sort_keys=False))


def reasons(recommendation: Recommendation) -> list[str]:
    """Why this budget, and what it costs, in sentences."""
    chosen, best, wish = recommendation.chosen, recommendation.best, recommendation.wish
    lines = [
        f"On {recommendation.benchmark}: the smallest measured budget within {wish.margin_points:g} points "
        f"of the best with confidence {wish.confidence:.0%} ({chosen.confidence:.1%} of the resamples).",
        f"Accuracy {_accuracy(chosen)} at {chosen.run.thinking_tokens:,.0f} thinking tokens on average "
        f"(95 % of the samples: at most {chosen.p95_tokens:,.0f}).",
        f"The best: {best.run.label}, accuracy {_accuracy(best)} at {best.run.thinking_tokens:,.0f} tokens.",
    ]
    if recommendation.num_left_out:
        lines.append(
            f"Not compared, as they were asked fewer questions: {recommendation.num_left_out} run(s)."
        )
    cost = recommendation.cost_per_thousand_requests(chosen)
    cost_of_best = recommendation.cost_per_thousand_requests(best)
    if cost is not None and cost_of_best is not None:
        lines.append(
            f"Cost per 1,000 requests at {wish.price_per_million_tokens:g} a million completion tokens: "
            f"{cost:.4g}; the best: {cost_of_best:.4g}."
        )
    return lines


def warnings(recommendation: Recommendation) -> list[str]:
    """What the numbers behind it lack, in sentences."""
    runs = [candidate.run for candidate in recommendation.candidates]
    clamps = together(run.clamps for run in runs)
    num_errors = sum(run.num_errors for run in runs)
    said = []
    if num_errors:
        said.append(f"{num_errors:,} of {clamps.num_samples:,} samples have no answer and count as wrong")
    if clamps.warning is not None:
        said.append(clamps.warning)
    return said


def _cheapest_first(candidate: Candidate) -> float:
    tokens = candidate.run.thinking_tokens
    return math.inf if math.isnan(tokens) else tokens


def _accuracy(candidate: Candidate) -> str:
    value, interval = candidate.run.accuracy.value, candidate.run.accuracy.interval
    span = "" if interval is None else f" (95 % interval {interval.low:.1f} to {interval.high:.1f})"
    return f"{value:.1f} %{span}"


def _benchmark(results: Results, named: str | None) -> str:
    names = list(dict.fromkeys(series.benchmark for series in results.series))
    if named is None and len(names) > 1:
        raise CurationError(f"name one --benchmark of {', '.join(names)}")
    if named is not None and named not in names:
        raise CurationError(f"--benchmark must be one of {', '.join(names)}. Given: {named}")
    return named or names[0]


def _key(run: RunSummary) -> str:
    return yaml.safe_dump(dict(run.parameters), sort_keys=True)


def _require_one_temperature(runs: Sequence[RunSummary]) -> None:
    """A policy can't set a temperature, so that one of several can't be recommended."""
    found = {_common(run.parameters) for run in runs}
    if len(found) > 1:
        raise CurationError(
            "runs differ in temperature, top_p or max_completion_tokens, which no policy sets: "
            "measure one of them at a time"
        )


def _common(parameters: Mapping[str, Any]) -> tuple[Any, ...]:
    return tuple(parameters.get(name) for name in ("temperature", "top_p", "max_completion_tokens"))


def _p95(run: RunSummary) -> float:
    return float(np.percentile(run.tokens_of_samples, 95)) if len(run.tokens_of_samples) else 0.0
