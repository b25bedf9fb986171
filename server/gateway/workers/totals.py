"""The metrics of several workers as those of one gateway.

Counters, histograms and what is under way add up. What workers see of the same engine doesn't: there the
worst view holds, or the largest. Of a worker that has ended its counters stay in the sum, as it last told
them; of a series that a worker has begun anew, as it was before.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from fractions import Fraction
from typing import Any

from prometheus_client.core import Metric
from prometheus_client.registry import Collector
from prometheus_client.samples import Exemplar

from server.gateway.workers.fleet import SEVERITY, STRENGTH

Snapshot = list[dict[str, Any]]
"""The families of one process, fit for JSON."""
_Labels = tuple[tuple[str, str], ...]
_Series = tuple[str, _Labels]

_RULES: Mapping[str, Callable[[Any, Any], float | Fraction]] = {
    "s1_engine_kv_cache_tokens": max,
    "s1_engine_reconnects": max,
    "s1_build": max,
    "process_start_time_seconds": min,
    "process_max_fds": min,
}
"""By family, what two workers' values become where it isn't their sum."""
_VIEWS: Mapping[str, tuple[str, Sequence[str]]] = {
    "s1_engine_state": ("state", tuple(reversed(SEVERITY))),
    "s1_engine_enforcement": ("enforcement", STRENGTH),
}
"""Families with a 1 at one value of a label, and these values, the one that holds first."""
_LASTING = ("counter", "histogram")


class Fixed(Collector):
    """Metrics that were collected before, for an encoder."""

    def __init__(self, metrics: Sequence[Metric]) -> None:
        self._metrics = metrics

    def collect(self) -> Iterator[Metric]:
        yield from self._metrics


def snapshot(metrics: Iterable[Metric]) -> Snapshot:
    return [
        {
            "name": metric.name,
            "text": metric.documentation,
            "type": metric.type,
            "samples": [
                (sample.name, sample.labels, sample.value, _exemplar_to_json(sample.exemplar))
                for sample in metric.samples
            ],
        }
        for metric in metrics
    ]


def lasting(one: Snapshot) -> Snapshot:
    """What stays of a worker that has ended: what it has counted."""
    return [family for family in one if family["type"] in _LASTING]


def left_behind(last: Snapshot, fresh: Snapshot) -> Snapshot:
    """What a worker had counted and doesn't tell any more. Series of an engine that has left go, and begin
    anew when it comes back.

    Args:
        last: what the worker told before, and `fresh` what it tells now.
    """
    told = {family["name"]: _by_series(family) for family in fresh}
    kept = []
    for family in lasting(last):
        now = told.get(family["name"], {})
        gone = {at for at, before in _by_series(family).items() if _has_restarted(before, now.get(at))}
        samples = [sample for sample in family["samples"] if _series_of(sample) in gone]
        if samples:
            kept.append(family | {"samples": samples})
    return kept


def _by_series(family: Mapping[str, Any]) -> dict[_Labels, dict[tuple[str, str], float]]:
    """The values of each counter or whole histogram, by sample and bucket."""
    found: dict[_Labels, dict[tuple[str, str], float]] = {}
    for sample in family["samples"]:
        name, labels, value, _ = sample
        found.setdefault(_series_of(sample), {})[name, labels.get("le", "")] = value
    return found


def _series_of(sample: Sequence[Any]) -> _Labels:
    return tuple(sorted((name, value) for name, value in sample[1].items() if name != "le"))


def _has_restarted(
    before: Mapping[tuple[str, str], float], now: Mapping[tuple[str, str], float] | None
) -> bool:
    # When it was begun grows with a restart, what it counts falls.
    return now is None or any(
        now.get(at, 0.0) > value if at[0].endswith("_created") else now.get(at, 0.0) < value
        for at, value in before.items()
    )


def add_up(parts: Sequence[Snapshot]) -> Snapshot:
    """Values may be fractions, which `total` makes floats."""
    families: dict[str, dict[str, Any]] = {}
    sums: dict[str, dict[_Series, list[Any]]] = {}
    for part in parts:
        for family in part:
            families.setdefault(family["name"], family)
            series = sums.setdefault(family["name"], {})
            for sample in family["samples"]:
                _add(series, family["name"], sample)
    for name, view in _VIEWS.items():
        _keep_worst(sums.get(name, {}), *view)
    return [family | {"samples": _samples(sums[name])} for name, family in families.items()]


def total(living: Sequence[Snapshot], ended: Snapshot) -> Snapshot:
    """
    Args:
        living: of the workers that are there.
        ended: what stays of others, added up. Series of engines that nobody living knows are dropped.
    """
    summed = add_up([*living, current(living, ended)])
    return [
        family
        | {"samples": [(name, labels, float(value), told) for name, labels, value, told in family["samples"]]}
        for family in summed
    ]


def current(living: Sequence[Snapshot], ended: Snapshot) -> Snapshot:
    """What of `ended` isn't of engines that nobody living knows."""
    engines = {labels["engine"] for part in living for labels in _labels(part, "s1_engine_state")}

    def is_current(sample: Sequence[Any]) -> bool:
        return "engine" not in sample[1] or sample[1]["engine"] in engines

    return [
        family | {"samples": [sample for sample in family["samples"] if is_current(sample)]}
        for family in ended
    ]


def metrics_of(one: Snapshot) -> list[Metric]:
    metrics = []
    for family in one:
        metric = Metric(family["name"], family["text"], family["type"])
        for name, labels, value, exemplar in family["samples"]:
            metric.add_sample(name, labels, value, exemplar=_exemplar_from_json(exemplar))
        metrics.append(metric)
    return metrics


def _add(sums: dict[_Series, list[Any]], family: str, sample: Sequence[Any]) -> None:
    name, labels, value, exemplar = sample
    at = (name, tuple(sorted(labels.items())))
    before = sums.get(at)
    if before is None:
        sums[at] = [value, exemplar]
        return
    # When a series began is when the first worker began it.
    combine = min if name.endswith("_created") else _RULES.get(family, _plus)
    before[0] = combine(before[0], value)
    before[1] = _later(before[1], exemplar)


def _plus(a: float | Fraction, b: float | Fraction) -> float | Fraction:
    """Exactly: a sum that depended on its order would seem to shrink, and to have begun anew."""
    if all(map(math.isfinite, (a, b))) and not (float(a).is_integer() and float(b).is_integer()):
        return Fraction(a) + Fraction(b)
    return a + b


def _later(a: Any, b: Any) -> Any:
    if a is None or b is None:
        return a or b
    return max(a, b, key=lambda exemplar: exemplar["timestamp"] or 0)


def _keep_worst(series: dict[_Series, list[Any]], label: str, worst_first: Sequence[str]) -> None:
    """A 1 at one value of `label` for each engine."""
    seen: dict[str, set[str]] = {}
    for (_, labels), (value, _) in series.items():
        if value:
            seen.setdefault(dict(labels)["engine"], set()).add(dict(labels)[label])
    for (_, labels), entry in series.items():
        engine = dict(labels)["engine"]
        holds = next((value for value in worst_first if value in seen.get(engine, ())), None)
        entry[0] = float(dict(labels)[label] == holds)


def _labels(part: Snapshot, family: str) -> Iterator[Mapping[str, str]]:
    for found in part:
        if found["name"] == family:
            yield from (sample[1] for sample in found["samples"])


def _samples(series: Mapping[_Series, Sequence[Any]]) -> list[tuple[Any, ...]]:
    return [(name, dict(labels), value, exemplar) for (name, labels), (value, exemplar) in series.items()]


def _exemplar_to_json(exemplar: Any) -> dict[str, Any] | None:
    if exemplar is None:
        return None
    return {"labels": exemplar.labels, "value": exemplar.value, "timestamp": exemplar.timestamp}


def _exemplar_from_json(told: Mapping[str, Any] | None) -> Exemplar | None:
    return None if told is None else Exemplar(told["labels"], told["value"], told["timestamp"])
