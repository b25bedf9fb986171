"""What the tasks beside this file are made of; lm-evaluation-harness loads it by path."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from training.curate.hub import hub_rows
from training.evaluate.benchmarks import load_benchmark
from training.grading.program import grade


def questions(*, benchmark: str, limit: int | None = None, **_: Any) -> dict[str, Any]:
    """The only split of a task. Arguments are the task's `metadata`, and whatever lm_eval adds to it."""
    import datasets

    items = load_benchmark(benchmark, hub_rows, limit=limit).items
    rows = [
        {
            "id": item.id,
            "prompt": item.prompt,
            "reference": item.reference,
            "kind": item.kind,
            "options": list(item.options),
        }
        for item in items
    ]
    return {"test": datasets.Dataset.from_list(rows)}


def graded(doc: Mapping[str, Any], results: Sequence[str]) -> dict[str, float]:
    """As `s1 evaluate run` grades. `decided` is 0 where no rule could compare the answer."""
    verdict = grade(doc["reference"], results[0], doc["kind"], doc["options"])
    return {"correct": float(verdict.correct), "decided": float(verdict.decided)}
