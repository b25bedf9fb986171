"""Counters and histograms of one event loop: plain numbers, read whenever metrics are.

prometheus_client's own take a lock and look a label up for every number; a request changes twenty.
"""

from __future__ import annotations

import time
from bisect import bisect_left
from collections.abc import Iterator, Sequence
from itertools import islice, repeat
from operator import sub

from prometheus_client.core import CounterMetricFamily, HistogramMetricFamily, Metric
from prometheus_client.registry import Collector
from prometheus_client.samples import Exemplar
from prometheus_client.utils import floatToGoString

Labels = tuple[str, ...]
Bucket = tuple[str, float] | tuple[str, float, Exemplar]


class Counts:
    """A counter's series, by the values of their labels."""

    __slots__ = ("_labels", "_name", "_text", "_values")

    def __init__(self, name: str, text: str, labels: Labels) -> None:
        self._name, self._text, self._labels = name, text, labels
        self._values: dict[Labels, float] = {}

    def begin(self, *labels: str) -> None:
        """Show the series from now on, at 0: a counter that begins with its first event has no increase."""
        self._values.setdefault(labels, 0)

    def keep(self, known: Sequence[Labels]) -> None:
        """Show these series and no others; new ones begin at 0."""
        self._values = {labels: self._values.get(labels, 0) for labels in known}

    def add(self, labels: Labels, amount: float = 1) -> None:
        self._values[labels] = self._values.get(labels, 0) + amount

    def metric(self) -> Metric:
        metric = CounterMetricFamily(self._name, self._text, labels=self._labels)
        for labels, value in self._values.items():
            metric.add_metric(labels, value)
        return metric


class Distribution:
    """One series of a histogram."""

    __slots__ = ("_bounds", "_counts", "_exemplars", "_sum")

    def __init__(self, bounds: Sequence[float]) -> None:
        """
        Args:
            bounds: the buckets' upper ones, themselves included, in order.
        """
        self._bounds = tuple(bounds)
        self._counts = [0] * (len(self._bounds) + 1)
        self._sum = 0.0
        self._exemplars: dict[int, Exemplar] = {}

    def observe(self, value: float, exemplar: dict[str, str] | None = None) -> None:
        bucket = bisect_left(self._bounds, value)
        self._counts[bucket] += 1
        self._sum += value
        if exemplar is not None:
            self._exemplars[bucket] = Exemplar(exemplar, value, time.time())

    def observe_between(self, moments: Sequence[float]) -> None:
        """Observe the time from each moment to the next; the same moment again is no time between."""
        gaps = filter(None, map(sub, islice(moments, 1, None), moments))
        counts = self._counts
        for bucket in map(bisect_left, repeat(self._bounds), gaps):
            counts[bucket] += 1
        self._sum += moments[-1] - moments[0]

    @property
    def sum(self) -> float:
        return self._sum

    def buckets(self) -> list[Bucket]:
        """Upper bounds and cumulative counts, as Prometheus wants them."""
        total, cumulative = 0, list[Bucket]()
        bounds = [*map(floatToGoString, self._bounds), "+Inf"]
        for at, (bound, count) in enumerate(zip(bounds, self._counts, strict=True)):
            total += count
            exemplar = self._exemplars.get(at)
            cumulative.append((bound, float(total)) if exemplar is None else (bound, float(total), exemplar))
        return cumulative


class Distributions:
    """A histogram's series, by the values of their labels."""

    __slots__ = ("_bounds", "_labels", "_name", "_series", "_text")

    def __init__(self, name: str, text: str, bounds: Sequence[float], labels: Labels) -> None:
        self._name, self._text, self._bounds, self._labels = name, text, bounds, labels
        self._series: dict[Labels, Distribution] = {}

    def of(self, *labels: str) -> Distribution:
        """The series with these labels, which is shown from now on."""
        found = self._series.get(labels)
        if found is None:
            found = self._series[labels] = Distribution(self._bounds)
        return found

    def metric(self) -> Metric:
        metric = HistogramMetricFamily(self._name, self._text, labels=self._labels)
        for labels, series in self._series.items():
            metric.add_metric(labels, series.buckets(), series.sum)
        return metric


class Everything(Collector):
    """The metrics of these families."""

    def __init__(self, families: Sequence[Counts | Distributions]) -> None:
        self._families = families

    def collect(self) -> Iterator[Metric]:
        for family in self._families:
            yield family.metric()
