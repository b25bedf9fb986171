"""From the samples of a finished run to its runs, series and metrics."""

from __future__ import annotations

import json
import math
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from training.curate.errors import CurationError
from training.evaluate import bootstrap, metrics
from training.evaluate.bootstrap import Interval, PerQuestion
from training.evaluate.folder import RUN_FILE
from training.evaluate.granted import Clamps, accepted_tokens, clamps_of
from training.evaluate.methods.rejection import REJECTED
from training.evaluate.metrics import Array
from training.evaluate.questions import is_unprompted, per_question, tokens_by_question
from training.evaluate.samples import SAMPLES_FILE, Sample, read_samples

_NO_AMOUNTS = frozenset({"wait_text", "temperature", "top_p"})
"""Parameters that change thinking, and don't ask for more or less of it."""


@dataclass(frozen=True, slots=True)
class Measured:
    """A metric and its 95 % interval, both None where it isn't defined."""

    value: float | None
    interval: Interval | None


@dataclass(frozen=True, slots=True)
class RunSummary:
    """One point of a series on one benchmark. Tokens are means per question that has an answer, of all its
    requests; NaN where none has."""

    label: str
    parameters: Mapping[str, Any]
    questions: PerQuestion
    accuracy: Measured
    tokens_of_samples: Array
    """Thinking tokens of every sample that has an answer."""
    completion_tokens: float | None
    num_samples: int
    num_errors: int
    num_undecided: int
    clamps: Clamps
    num_rejected: int
    """Samples of rejection sampling none of whose tries fitted."""
    num_cut: int
    """Samples whose answer, or thinking, `max_completion_tokens` or the context cut."""
    accepted_tokens: float | None
    """Of the thoughts that rejection sampling took; None of other methods, and where it took none."""

    @property
    def thinking_tokens(self) -> float:
        return self.questions.run.thinking_tokens


@dataclass(frozen=True, slots=True)
class SeriesSummary:
    """One method over its runs on one benchmark, the runs in the order of the sweep."""

    benchmark: str
    name: str
    method: str
    is_parallel: bool
    runs: tuple[RunSummary, ...]
    control: Measured
    points_per_doubling: Measured
    points_per_thousand_tokens: Measured
    performance: Measured

    @property
    def num_questions(self) -> int:
        return len(self.runs[0].questions.accuracy_points)

    @property
    def best(self) -> RunSummary:
        return max(self.runs, key=lambda run: run.accuracy.value or 0.0)


@dataclass(frozen=True, slots=True)
class Results:
    """A finished run's folder: `facts` is its run.json."""

    facts: Mapping[str, Any]
    series: tuple[SeriesSummary, ...]
    tokens_are_thinking: bool
    """Else some reply counted no reasoning tokens, and its completion tokens stand for them."""
    clamps: Clamps


def read_results(folder: Path) -> Results:
    """Raises CurationError: the folder holds no finished run."""
    file = folder / RUN_FILE
    if not file.is_file():
        raise CurationError(f"{folder} has no {RUN_FILE}: is its `s1 evaluate run` finished?")
    facts = json.loads(file.read_text(encoding="utf-8"))
    samples = read_samples(folder / SAMPLES_FILE)
    by_point: dict[tuple[str, str], list[Sample]] = defaultdict(list)
    for sample in samples:
        by_point[sample.benchmark, sample.point].append(sample)
    series = tuple(
        _series(benchmark["name"], described, by_point, facts["series"])
        for benchmark in facts["benchmarks"]
        for described in facts["series"]
    )
    counted = all(sample.tokens_are == "thinking" for sample in samples if sample.error is None)
    return Results(facts, series, counted, clamps_of(samples))


def _series(
    benchmark: str,
    described: Mapping[str, Any],
    by_point: Mapping[tuple[str, str], Sequence[Sample]],
    every: Sequence[Mapping[str, Any]],
) -> SeriesSummary:
    found = [
        (point, _first(by_point.get((benchmark, point["key"]), ()), described.get("limit")))
        for point in described["points"]
    ]
    missing = [point["label"] for point, samples in found if not samples]
    if missing:
        raise CurationError(f"{SAMPLES_FILE} lacks {described['name']}, {missing[0]} ({benchmark})")
    questions = [
        per_question(samples, point["bounds"], _unprompted(benchmark, point["parameters"], by_point, every))
        for point, samples in found
    ]
    drawn = bootstrap.resample(questions)
    runs = tuple(
        _run(point, samples, per_question, interval)
        for (point, samples), per_question, interval in zip(
            found, questions, bootstrap.accuracy_intervals(drawn), strict=True
        )
    )
    plain, kept = [one.run for one in questions], [one.kept.run for one in questions]
    doubling = Measured(metrics.points_per_doubling(plain), bootstrap.scaling_interval(drawn))
    thousand = Measured(metrics.points_per_thousand_tokens(plain), bootstrap.raw_scaling_interval(drawn))
    if not _asks_for_amounts(described["points"]):
        doubling = thousand = Measured(None, None)
    return SeriesSummary(
        benchmark,
        described["name"],
        described["method"],
        bool(described["is_parallel"]),
        runs,
        Measured(metrics.control(kept), bootstrap.control_interval(questions, drawn)),
        doubling,
        thousand,
        Measured(metrics.performance(plain), bootstrap.performance_interval(drawn)),
    )


def _asks_for_amounts(points: Sequence[Mapping[str, Any]]) -> bool:
    """Whether the runs were asked for different amounts of thinking: between others there is no slope."""
    asked = [{k: v for k, v in point["parameters"].items() if k not in _NO_AMOUNTS} for point in points]
    return any(one != asked[0] for one in asked)


def _first(samples: Sequence[Sample], limit: int | None) -> Sequence[Sample]:
    """Those of the first so many questions: another series may have asked more of the same point."""
    asked = list(dict.fromkeys(sample.question for sample in samples))[:limit]
    kept = set(asked)
    return [sample for sample in samples if sample.question in kept]


def _unprompted(
    benchmark: str,
    like: Mapping[str, Any],
    by_point: Mapping[tuple[str, str], Sequence[Sample]],
    every: Sequence[Mapping[str, Any]],
) -> dict[str, float]:
    """Tokens by question of a run without budget or prompt about length; empty where there is none."""
    for series in every:
        for point in series["points"]:
            if is_unprompted(series["method"], point["parameters"], like):
                return tokens_by_question(by_point.get((benchmark, point["key"]), ()))
    return {}


def _run(
    point: Mapping[str, Any], samples: Sequence[Sample], questions: PerQuestion, interval: Interval | None
) -> RunSummary:
    completion = [s.completion_tokens for s in samples if s.completion_tokens is not None]
    accepted = [tokens for sample in samples if (tokens := accepted_tokens(sample)) is not None]
    return RunSummary(
        point["label"],
        point["parameters"],
        questions,
        Measured(questions.run.accuracy_points, interval),
        np.array([s.thinking_tokens for s in samples if s.tokens_are], dtype=np.float64),
        float(np.mean(completion)) if completion else None,
        len(samples),
        sum(sample.error is not None for sample in samples),
        sum(not sample.decided for sample in samples if sample.error is None),
        clamps_of(samples),
        sum(sample.finish_reason == REJECTED for sample in samples),
        sum(sample.finish_reason == "length" for sample in samples),
        float(np.mean(accepted)) if accepted else None,
    )


def as_json(results: Results) -> dict[str, Any]:
    """`summary.json`: the run's conditions, and every number of the report."""
    return {
        **results.facts,
        "series": [
            {
                "benchmark": series.benchmark,
                "name": series.name,
                "method": series.method,
                "num_questions": series.num_questions,
                "control_percent": measured_as_json(series.control),
                "scaling_points_per_doubling": measured_as_json(series.points_per_doubling),
                "scaling_points_per_thousand_tokens": measured_as_json(series.points_per_thousand_tokens),
                "performance_percent": measured_as_json(series.performance),
                "runs": [_run_as_json(run) for run in series.runs],
            }
            for series in results.series
        ],
    }


def _run_as_json(run: RunSummary) -> dict[str, Any]:
    return {
        "label": run.label,
        "parameters": dict(run.parameters),
        "accuracy_percent": measured_as_json(run.accuracy),
        "mean_thinking_tokens": rounded(run.thinking_tokens),
        "mean_accepted_thinking_tokens": rounded(run.accepted_tokens),
        "mean_completion_tokens": rounded(run.completion_tokens),
        "max_thinking_tokens_granted": rounded(run.questions.at_most),
        "num_samples": run.num_samples,
        "num_errors": run.num_errors,
        "num_undecided": run.num_undecided,
        "num_rejected": run.num_rejected,
        "num_cut": run.num_cut,
        "num_clamped": run.clamps.num_clamped,
        "clamped_by": dict(run.clamps.by),
    }


def rounded(value: float | None) -> float | None:
    """None where nothing is known."""
    return None if value is None or math.isnan(value) else round(value, 2)


def measured_as_json(measured: Measured) -> dict[str, Any]:
    interval = measured.interval
    return {
        "value": None if measured.value is None else round(measured.value, 3),
        "interval_95": None if interval is None else [round(interval.low, 3), round(interval.high, 3)],
    }
