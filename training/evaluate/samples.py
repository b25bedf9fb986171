"""Samples: the rows of `samples.parquet`, one per question, point and sample, with every receipt."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from training.curate.errors import CurationError
from training.curate.files import read_rows, write_rows
from training.evaluate.points import Point

if TYPE_CHECKING:
    import pyarrow

SAMPLES_FILE = "samples.parquet"


@dataclass(frozen=True, slots=True)
class Sample:
    """What one question got at one point.

    `correct` is False for what could not be graded; `decided` then is, too. `error` says why there is no
    answer. `thinking_tokens` are completion tokens where the server doesn't report reasoning tokens, and
    `tokens_are` says so. `receipts` is a JSON list of the replies' `thinking_budget`.
    """

    benchmark: str
    question: str
    point: str
    method: str
    parameters: str
    sample: int
    content: str
    extracted: str
    reference: str
    correct: bool
    decided: bool
    graded_by: str
    thinking_tokens: int
    completion_tokens: int | None
    tokens_are: str
    num_requests: int
    finish_reason: str | None
    receipts: str
    error: str | None = None

    @property
    def setting(self) -> Point:
        method, fields = json.loads(self.point)
        values = {name: tuple(value) if isinstance(value, list) else value for name, value in fields.items()}
        return Point(method, tuple(sorted(values.items())))


_KINDS = {
    "sample": "int64",
    "correct": "bool",
    "decided": "bool",
    "thinking_tokens": "int64",
    "completion_tokens": "int64",
    "num_requests": "int64",
}


def sample_columns() -> pyarrow.Schema:
    import pyarrow as pa

    kinds = {"int64": pa.int64(), "bool": pa.bool_(), "text": pa.string()}
    names = [field.name for field in dataclasses.fields(Sample)]
    return pa.schema([(name, kinds[_KINDS.get(name, "text")]) for name in names])


def write_samples(path: Path, samples: Iterable[Sample]) -> None:
    rows: list[dict[str, Any]] = [dataclasses.asdict(sample) for sample in samples]
    write_rows(path, rows, sample_columns())


def read_samples(path: Path) -> list[Sample]:
    """Raises CurationError: the file is not what `write_samples` writes."""
    try:
        return [Sample(**row) for row in read_rows(path)]
    except TypeError as error:
        raise CurationError(f"{path} does not hold samples: {error}") from error
