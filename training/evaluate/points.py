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
    """The runs that are measured together: a curve of the figures, a row of the metrics."""

    name: str
    points: tuple[Point, ...]

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


def make_series(name: str, grid: Mapping[str, Any], methods: Mapping[str, Method]) -> Series:
    """`grid` maps parameters to a value or a list of values; `method` is `budget` if absent.

    Raises:
        CurationError: there is no such method, or it has no such parameter; names both.
    """
    axes = {
        key: value if isinstance(value, list) else [value] for key, value in grid.items() if value is not None
    }
    method_names = axes.pop("method", ["budget"])
    points: dict[Point, None] = {}
    for method_name in method_names:
        if method_name not in methods:
            raise CurationError(f"{name}: method must be one of {', '.join(methods)}. Given: {method_name!r}")
        _require_known(axes, methods[method_name], name)
        for values in itertools.product(*axes.values()):
            point = _point(method_name, dict(zip(axes, values, strict=True)), name)
            methods[method_name].check(point.fields)
            points[point] = None
    if not points:
        raise CurationError(f"{name}: a list of values is empty")
    return Series(name, tuple(points))


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
        tuple(make_series(str(name), grid, methods) for name, grid in series.items()),
        _count(content.get("samples", 1), f"{path}: samples"),
        None if content.get("limit") is None else _count(content["limit"], f"{path}: limit"),
    )


def _count(value: object, where: str) -> int:
    if not isinstance(value, int) or isinstance(value, bool) or value < 1:
        raise CurationError(f"{where} must be a whole number from 1 on. Given: {value!r}")
    return value


def jobs_of(sweep: Sweep, num_items: int) -> Iterator[tuple[int, Point, int]]:
    """Question, point, sample. Question by question, so that the time left is told from all points alike."""
    for at in range(num_items):
        for point in sweep.points:
            for sample in range(sweep.samples):
                yield at, point, sample


def _shown(value: Value) -> str:
    return " / ".join(value) if isinstance(value, tuple) else str(value)
