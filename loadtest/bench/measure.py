"""The same load on several servers in turns, with what each costs in CPU and memory."""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from statistics import median
from typing import Any

from loadtest.bench.processes import Server
from loadtest.client.asking import Dialect
from loadtest.client.compare import Ratio
from loadtest.client.counting import Markers
from loadtest.client.fleet import Fleet, Load
from loadtest.client.summary import summarize
from loadtest.client.workload import Workload

MODEL = "stand-in"


@dataclass(frozen=True, slots=True)
class Subject:
    """A server under test."""

    name: str
    url: str
    server: Server | None = None
    """None: its cost isn't metered."""
    extra: Mapping[str, Any] = field(default_factory=dict)
    """Fields that this one's requests have beside the others'."""
    key: str | None = None
    model: str = MODEL


@dataclass(frozen=True, slots=True)
class Sample:
    """One run of one server."""

    requests_per_s: float
    updates_per_s: float
    tokens_per_s: float
    first_token_p50_ms: float | None
    first_token_p99_ms: float | None
    end_to_end_p50_ms: float | None
    cpu_us_per_request: float | None
    cpu_us_per_update: float | None
    cpu_us_per_token: float | None
    memory_mb: float | None
    updates: int
    errors: int
    client_limits: tuple[str, ...]


def workload(**fields: Any) -> Workload:
    """Of one class."""
    return Workload.model_validate({"classes": [{"name": "all", "prompt_words": 32, **fields}]})


def sample(fleet: Fleet, subject: Subject, load: Load) -> Sample:
    """One run. Raises: as `Fleet.run`."""
    kinds = tuple(
        kind.model_copy(update={"extra": {**kind.extra, **dict(subject.extra)}})
        for kind in load.workload.classes
    )
    load = replace(load, workload=Workload(classes=kinds))
    dialect = Dialect(subject.model, "ours", False, Markers(), subject.key, 60.0)
    before = subject.server.used() if subject.server is not None else None
    run = fleet.run(subject.url, dialect, load)
    after = subject.server.used() if subject.server is not None else None
    found = summarize(run, [])["all"]
    cpu_us = (after.cpu_s - before.cpu_s) * 1e6 if after is not None and before is not None else None
    updates = sum(record.updates for record in run.records)
    return Sample(
        requests_per_s=found["requests_per_s"],
        updates_per_s=found["updates_per_s"],
        tokens_per_s=found["tokens"]["completion_per_s"],
        first_token_p50_ms=found["time_to_first_token_ms"].get("p50"),
        first_token_p99_ms=found["time_to_first_token_ms"].get("p99"),
        end_to_end_p50_ms=found["end_to_end_ms"].get("p50"),
        cpu_us_per_request=_per(cpu_us, found["succeeded"]),
        cpu_us_per_update=_per(cpu_us, updates),
        cpu_us_per_token=_per(cpu_us, found["tokens"]["completion"]),
        memory_mb=after.memory_bytes / 1e6 if after is not None else None,
        updates=updates,
        errors=sum(found["errors"].values()),
        client_limits=tuple(run.client_limits),
    )


def interleaved(
    fleet: Fleet, subjects: Sequence[Subject], load: Load, *, rounds: int, warmup_s: float = 1.0
) -> dict[str, list[Sample]]:
    """`rounds` runs of each, in an order that is drawn anew for every round, after one warm-up each."""
    for subject in subjects:
        sample(fleet, subject, replace(load, duration_s=warmup_s))
    found: dict[str, list[Sample]] = {subject.name: [] for subject in subjects}
    rng = random.Random(load.seed)  # noqa: S311 - an order, not a secret
    for number in range(rounds):
        for subject in rng.sample(list(subjects), len(subjects)):
            found[subject.name].append(sample(fleet, subject, replace(load, seed=load.seed + number)))
    return found


def middle(samples: Sequence[Sample], name: str) -> float | None:
    values = [value for one in samples if (value := getattr(one, name)) is not None]
    return median(values) if values else None


def ratio(a: Sequence[Sample], b: Sequence[Sample], name: str) -> Ratio | None:
    """Of the same rounds; None where one has no such figure, or 0."""
    pairs = [(getattr(x, name), getattr(y, name)) for x, y in zip(a, b, strict=True)]
    if any(not x or not y for x, y in pairs):
        return None
    return Ratio.of([x / y for x, y in pairs])


def shown(found: Ratio | None) -> str:
    return "–" if found is None else f"{found.median:.2f} ({found.low:.2f} to {found.high:.2f})"


def as_json(found: Mapping[str, Sequence[Sample]]) -> dict[str, list[dict[str, Any]]]:
    return {name: [asdict(one) for one in samples] for name, samples in found.items()}


def _per(cpu_us: float | None, count: float) -> float | None:
    return None if cpu_us is None or not count else round(cpu_us / count, 1)
