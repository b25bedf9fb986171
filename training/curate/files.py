"""Parquet and JSON lines: read with clear errors, written whole or not at all."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from training.curate.errors import CurationError
from training.curate.schema import Question, question_from_row
from training.files import replacing
from training.json_text import read_json

if TYPE_CHECKING:
    import pyarrow

Format = Literal["parquet", "jsonl"]
SUFFIXES = (".parquet", ".jsonl")
MANIFEST = "manifest.json"
_ROWS_PER_GROUP = 4096


def read_rows(path: Path) -> list[dict[str, Any]]:
    """The rows of a .parquet or .jsonl file.

    Raises:
        CurationError: there is no such file, or it is not what its name says; names the line.
    """
    if not path.is_file():
        raise CurationError(f"{path}: no such file")
    if path.suffix not in SUFFIXES:
        raise CurationError(f"{path}: must end in {' or '.join(SUFFIXES)}")
    return _read_parquet(path) if path.suffix == ".parquet" else list(_read_jsonl(path))


def _read_parquet(path: Path) -> list[dict[str, Any]]:
    import pyarrow
    import pyarrow.parquet

    try:
        rows: list[dict[str, Any]] = pyarrow.parquet.read_table(path).to_pylist()
    except pyarrow.ArrowException as error:
        raise CurationError(f"{path} is not a readable Parquet file: {_first_line(error)}") from error
    return rows


def _read_jsonl(path: Path) -> Iterator[dict[str, Any]]:
    with path.open("rb") as file:
        for number, line in enumerate(file, start=1):
            if not line.strip():
                continue
            try:
                row = read_json(line)
            except (UnicodeDecodeError, json.JSONDecodeError) as error:
                raise CurationError(f"{path}, line {number} is not JSON: {error}") from error
            except ValueError as error:
                raise CurationError(f"{path}, line {number} can't be read: {error}") from error
            if not isinstance(row, dict):
                raise CurationError(f"{path}, line {number} is not a JSON object")
            yield row


def _first_line(error: Exception) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0]


def questions_file(path: Path) -> Path:
    """`path`, or the questions in the folder of a finished stage.

    Raises:
        CurationError: the folder has no manifest, which a stage writes last, or the manifest names none.
    """
    if not path.is_dir():
        return path
    if not (path / MANIFEST).is_file():
        raise CurationError(f"{path} has no {MANIFEST}: is its stage finished?")
    for suffix in SUFFIXES:
        if f"questions{suffix}" in read_manifest(path / MANIFEST)["outputs"]:
            return path / f"questions{suffix}"
    raise CurationError(f"{path / MANIFEST} names no questions")


def read_manifest(path: Path) -> dict[str, Any]:
    """Raises CurationError: the file is not what a stage writes."""
    try:
        manifest = read_json(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise CurationError(f"{path} is not a manifest: {error}") from error
    if not isinstance(manifest, dict) or not {"stage", "inputs", "outputs", "funnel"} <= set(manifest):
        raise CurationError(f"{path} is not a manifest: stage, inputs, outputs or funnel is missing")
    return manifest


def read_questions(path: Path) -> list[Question]:
    """Questions in the schema of the stages.

    Raises:
        CurationError: a row does not fit the schema, or an id appears twice.
    """
    questions = []
    seen: set[str] = set()
    for number, row in enumerate(read_rows(path), start=1):
        question = question_from_row(row, where=f"{path}, row {number}", default_source=path.stem)
        if question.id in seen:
            raise CurationError(
                f"{path}, row {number}: id {question.id!r} appears twice; "
                "`s1 curate collect` removes duplicates"
            )
        seen.add(question.id)
        questions.append(question)
    return questions


def write_rows(path: Path, rows: Sequence[Mapping[str, Any]], columns: pyarrow.Schema) -> None:
    """Raises OSError: the disk is full or the folder can't be written; no file is left then."""
    with replacing(path) as partial:
        if path.suffix == ".jsonl":
            with partial.open("w", encoding="utf-8", newline="\n") as file:
                file.writelines(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
            return
        import pyarrow
        import pyarrow.parquet

        with pyarrow.parquet.ParquetWriter(partial, columns, compression="zstd") as writer:
            for start in range(0, len(rows), _ROWS_PER_GROUP):
                group = list(rows[start : start + _ROWS_PER_GROUP])
                writer.write_table(pyarrow.Table.from_pylist(group, schema=columns))
