"""Rows of JSONL and Parquet files, each with the place it came from."""

import hashlib
import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from training.json_text import read_json


class DataError(ValueError):
    """The data cannot be trained on as it is; the message is one line and names file, row and field."""


@dataclass(frozen=True, slots=True)
class Row:
    """One record. ``number`` counts from 1: the line of a JSONL file, the row of a Parquet file."""

    file: str
    number: int
    fields: dict[str, Any]

    @property
    def place(self) -> str:
        return f"{self.file} row {self.number}"


@dataclass(frozen=True, slots=True)
class DataFile:
    """What the manifest says about an input file."""

    name: str
    sha256: str
    rows: int


def read_rows(paths: Sequence[Path]) -> Iterator[Row]:
    """All rows of all files, in order.

    Raises:
        DataError: a file is missing, of another kind, or has a line that is not a JSON object.
    """
    for path in paths:
        if not path.is_file():
            raise DataError(f"no data file {path}")
        if path.suffix == ".jsonl":
            yield from _read_jsonl(path)
        elif path.suffix == ".parquet":
            yield from _read_parquet(path)
        else:
            raise DataError(f"data files must end in .jsonl or .parquet. Given: {path.name}")


def describe_file(path: Path, rows: int) -> DataFile:
    with path.open("rb") as file:
        return DataFile(path.name, hashlib.file_digest(file, "sha256").hexdigest(), rows)


def _read_jsonl(path: Path) -> Iterator[Row]:
    with path.open(encoding="utf-8") as lines:
        try:
            for number, line in enumerate(lines, start=1):
                if line.strip():
                    yield Row(path.name, number, _object(path, number, line))
        except UnicodeDecodeError as error:
            raise DataError(f"{path.name} is not UTF-8 text: {error.reason} at byte {error.start}") from error


def _object(path: Path, number: int, line: str) -> dict[str, Any]:
    try:
        value = read_json(line)
    except json.JSONDecodeError as error:
        raise DataError(
            f"{path.name} row {number} is not JSON: {error.msg} at column {error.colno}"
        ) from error
    except ValueError as error:
        raise DataError(f"{path.name} row {number} can't be read: {error}") from error
    if not isinstance(value, dict):
        raise DataError(f"{path.name} row {number} must be a JSON object, is {type(value).__name__}")
    return value


def _read_parquet(path: Path) -> Iterator[Row]:
    import pyarrow
    from pyarrow import parquet

    number = 0
    try:
        with parquet.ParquetFile(path) as file:
            for batch in file.iter_batches(batch_size=256):
                for fields in batch.to_pylist():
                    number += 1
                    yield Row(path.name, number, fields)
    except pyarrow.ArrowInvalid as error:
        raise DataError(f"{path.name} is not a Parquet file: {error}") from error
    except (OSError, UnicodeDecodeError) as error:
        reason = str(error).splitlines()[0]
        raise DataError(f"{path.name} can't be read after row {number}: {reason}") from error
