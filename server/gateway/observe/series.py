"""Counters and histograms of one event loop: plain numbers, read whenever metrics are.

prometheus_client's own take a lock and look a label up for every number; a request changes twenty.
"""

from __future__ import annotations

import time
from bisect import bisect_left, bisect_right
from collections.abc import Callable, Iterator, Sequence
from operator import sub
from typing import TypeVar

from prometheus_client.core import CounterMetricFamily, HistogramMetricFamily, Metric
from prometheus_client.registry import Collector
from prometheus_client.samples import Exemplar
from prometheus_client.utils import floatToGoString

Labels = tuple[str, ...]
K = TypeVar("K")
V = TypeVar("V")
Bucket = tuple[str, float] | tuple[str, float, Exemplar]


class Count:
    """One series of a counter. It may be added to; who takes from it breaks every rate."""

    __slots__ = ("value",)

    def __init__(self) -> None:
        self.value: float = 0


class Counts:
    """A counter's series, by the values of their labels."""

    __slots__ = ("_labels", "_name", "_series", "_text")

    def __init__(self, name: str, text: str, labels: Labels) -> None:
        self._name, self._text, self._labels = name, text, labels
        self._series: dict[Labels, Count] = {}

    def of(self, *labels: str) -> Count:
        """The series with these labels, which is shown from now on.

        Ask early, at best: a counter that begins with its first event has no increase.
        """
        found = self._series.get(labels)
        if found is None:
            found = self._series[labels] = Count()
        return found

    def keep(self, known: Sequence[Labels]) -> None:
        """Show these series and no others; new ones begin at 0."""
        self._series = {labels: self._series.get(labels) or Count() for labels in known}

    def metric(self) -> Metric:
        metric = CounterMetricFamily(self._name, self._text, labels=self._labels)
        for labels, series in self._series.items():
            metric.add_metric(labels, series.value)
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
        gaps = sorted(map(sub, moments[1:], moments))
        counted = bisect_right(gaps, 0)
        for bucket, bound in enumerate(self._bounds):
            if counted == len(gaps):
                break
            up_to = bisect_right(gaps, bound, counted)
            self._counts[bucket] += up_to - counted
            counted = up_to
        self._counts[-1] += len(gaps) - counted
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


class Found(dict[K, V]):
    """Series by those of their labels that vary, each looked up once."""

    def __init__(self, of: Callable[[K], V]) -> None:
        self._of = of

    def __missing__(self, labels: K) -> V:
        found = self[labels] = self._of(labels)
        return found


class Everything(Collector):
    """The metrics of these families."""

    def __init__(self, families: Sequence[Counts | Distributions], *, first: Callable[[], None]) -> None:
        """
        Args:
            first: done before they are read.
        """
        self._families = families
        self._first = first

    def collect(self) -> Iterator[Metric]:
        self._first()
        for family in self._families:
            yield family.metric()
