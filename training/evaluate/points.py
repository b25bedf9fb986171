"""A sweep: named series of points, each a method and its parameters; grids from lists of values."""

from __future__ import annotations

import itertools
import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from training.curate.errors import CurationError
from training.evaluate.methods.base import COMMON_PARAMETERS, Method

Value = int | float | str | tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Point:
    """One setting. `parameters` are sorted by name and hold no None."""

    method: str
    parameters: tuple[tuple[str, Value], ...]

    def get(self, name: str) -> Value | None:
        return dict(self.parameters).get(name)

    @property
    def fields(self) -> dict[str, Any]:
        """As JSON takes them."""
        return {name: list(v) if isinstance(v, tuple) else v for name, v in self.parameters}

    @property
    def key(self) -> str:
        return json.dumps([self.method, self.fields], sort_keys=True, ensure_ascii=False)

    def label(self, varying: Sequence[str] | None = None) -> str:
        """The parameters in `varying` (all if None) as `max_thinking_tokens 256, num_waits 4`."""
        shown = [(n, v) for n, v in self.parameters if varying is None or n in varying]
        return ", ".join(f"{name} {_shown(value)}" for name, value in shown) or "no budget"


@dataclass(frozen=True, slots=True)
class Series:
    """The runs of one method that are measured together: a curve of the figures, a row of the metrics.

    `limit`: only the first so many questions; None: as many as the sweep asks.
    """

    name: str
    points: tuple[Point, ...]
    limit: int | None = None

    @property
    def method(self) -> str:
        return self.points[0].method

    @property
    def varying(self) -> tuple[str, ...]:
        """Parameters that are not the same everywhere."""
        names = dict.fromkeys(name for point in self.points for name, _ in point.parameters)
        return tuple(name for name in names if len({point.get(name) for point in self.points}) > 1)


@dataclass(frozen=True, slots=True)
class Sweep:
    """What a run asks: of each benchmark's questions `samples` answers at each point."""

    benchmarks: tuple[str, ...]
    series: tuple[Series, ...]
    samples: int = 1
    limit: int | None = None

    @property
    def points(self) -> tuple[Point, ...]:
        """Every point once, though several series may hold it."""
        return tuple(dict.fromkeys(point for series in self.series for point in series.points))

    def num_asked(self, point: Point, num_items: int) -> int:
        """Of a benchmark with so many questions: as many as the series that wants most."""
        wanted = [series.limit or num_items for series in self.series if point in series.points]
        return min(max(wanted), num_items)


def series_of(name: str, grid: Mapping[str, Any], methods: Mapping[str, Method]) -> tuple[Series, ...]:
    """As `make_series`; where `method` is a list of several, a series for each: `NAME, METHOD`."""
    named = grid.get("method")
    if not isinstance(named, list) or len(named) < 2:
        return (make_series(name, grid, methods),)
    return tuple(make_series(f"{name}, {method}", {**grid, "method": method}, methods) for method in named)


def make_series(name: str, grid: Mapping[str, Any], methods: Mapping[str, Method]) -> Series:
    """`grid` maps parameters to a value or a list of values; `method` is `budget` if absent, and `limit` the
    series' own number of questions.

    Raises:
        CurationError: there is no such method, or it has no such parameter; names both.
    """
    limit = None if grid.get("limit") is None else _count(grid["limit"], f"{name}: limit")
    axes = {
        key: value if isinstance(value, list) else [value]
        for key, value in grid.items()
        if value is not None and key != "limit"
    }
    method_name = axes.pop("method", ["budget"])[0]
    if method_name not in methods:
        raise CurationError(f"{name}: method must be one of {', '.join(methods)}. Given: {method_name!r}")
    _require_known(axes, methods[method_name], name)
    points: dict[Point, None] = {}
    for values in itertools.product(*axes.values()):
        point = _point(method_name, dict(zip(axes, values, strict=True)), name)
        methods[method_name].check(point.fields)
        points[point] = None
    if not points:
        raise CurationError(f"{name}: a list of values is empty")
    return Series(name, tuple(points), limit)


def _require_known(names: Iterable[str], method: Method, where: str) -> None:
    known = {**COMMON_PARAMETERS, **method.parameters}
    for name in sorted(set(names) - set(known)):
        raise CurationError(
            f"{where}: method {method.name} has no parameter {name!r}. Parameters: {', '.join(known)}"
        )


def _point(method: str, values: Mapping[str, Any], where: str) -> Point:
    parameters = []
    for name, value in sorted(values.items()):
        if value is None:
            continue
        if isinstance(value, list) and value and all(isinstance(part, str) for part in value):
            value = tuple(value)
        if isinstance(value, bool) or not isinstance(value, int | float | str | tuple):
            raise CurationError(f"{where}: {name} must be a number or a text. Given: {value!r}")
        parameters.append((name, value))
    return Point(method, tuple(parameters))


def read_sweep(path: Path, methods: Mapping[str, Method]) -> Sweep:
    """A YAML file with `benchmarks`, `series` (name to grid), and, if wanted, `samples` and `limit`.

    Raises:
        CurationError: names the file and what is wrong in it.
    """
    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise CurationError(f"{path}: {error.strerror}") from error
    except yaml.YAMLError as error:
        raise CurationError(f"{path} is not YAML: {error}") from error
    expected = {"benchmarks", "series", "samples", "limit"}
    if not isinstance(content, dict) or not {"benchmarks", "series"} <= set(content) <= expected:
        raise CurationError(f"{path} must have benchmarks and series, and may have samples and limit")
    benchmarks, series = content["benchmarks"], content["series"]
    if not isinstance(benchmarks, list) or not benchmarks or not isinstance(series, dict) or not series:
        raise CurationError(f"{path}: benchmarks must be a list, series a mapping of names to grids")
    for name, grid in series.items():
        if not isinstance(grid, dict):
            raise CurationError(f"{path}: series {name!r} must map parameters to values. Given: {grid!r}")
    return Sweep(
        tuple(map(str, benchmarks)),
        tuple(one for name, grid in series.items() for one in series_of(str(name), grid, methods)),
        _count(content.get("samples", 1), f"{path}: samples"),
        None if content.get("limit") is None else _count(content["limit"], f"{path}: limit"),
    )


def _count(value: object, where: str) -> int:
    if not isinstance(value, int) or isinstance(value, bool) or value < 1:
        raise CurationError(f"{where} must be a whole number from 1 on. Given: {value!r}")
    return value


def jobs_of(sweep: Sweep, num_items: int) -> Iterator[tuple[int, Point, int]]:
    """Question, point, sample. Question by question, so that the time left is told from all points alike."""
    asked = {point: sweep.num_asked(point, num_items) for point in sweep.points}
    for at in range(num_items):
        for point in sweep.points:
            if at < asked[point]:
                for sample in range(sweep.samples):
                    yield at, point, sample


def _shown(value: Value) -> str:
    return " / ".join(value) if isinstance(value, tuple) else str(value)
