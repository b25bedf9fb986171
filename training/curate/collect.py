"""Collecting: sources of any form become one pool without duplicates."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.markup import escape

from training.curate.choices import OptionsError, with_choices
from training.curate.columns import ROLES, find_columns, to_question
from training.curate.decontaminate import Benchmarks, drop_contaminated
from training.curate.dedup import drop_exact, drop_near
from training.curate.errors import CurationError
from training.curate.files import SUFFIXES, questions_file, read_rows
from training.curate.hub import Rows
from training.curate.progress import Progress
from training.curate.s1_sources import HUB_SOURCES, S1_SOURCES, load
from training.curate.schema import COLUMNS, Drop, Question, drop, question_from_row
from training.curate.stage import Outcome

STAGE = "collect"
_HUB = "hub:"


@dataclass(frozen=True, slots=True)
class SourceSpec:
    """`hub:NAME`, a file, or `NAME=FILE`."""

    name: str
    path: Path | None

    @property
    def is_hub(self) -> bool:
        return self.path is None


@dataclass(frozen=True, slots=True)
class Loaded:
    """A source's questions, its rows that hold none, and how its columns were read."""

    spec: SourceSpec
    questions: list[Question]
    drops: list[Drop]
    columns: str
    num_left_out: int = 0
    """Rows of a hub source that s1 does not take, such as other languages; they are no drops."""


def parse_sources(texts: Sequence[str]) -> list[SourceSpec]:
    """Raises CurationError: a name is given twice."""
    specs: list[SourceSpec] = []
    for text in texts:
        if text == f"{_HUB}all":
            specs += [SourceSpec(name, None) for name in S1_SOURCES]
        elif text.startswith(_HUB):
            specs.append(SourceSpec(text.removeprefix(_HUB), None))
        else:
            name, equals, path = text.partition("=")
            file = Path(path if equals else text)
            specs.append(SourceSpec(name if equals else _default_name(file), file))
    names = [spec.name for spec in specs]
    for name in names:
        if names.count(name) > 1:
            raise CurationError(f"source name {name!r} is given twice; name files with NAME=FILE")
    return specs


def _default_name(file: Path) -> str:
    return file.stem if file.suffix else file.name


def parse_columns(texts: Sequence[str]) -> dict[str, dict[str, str]]:
    """`role=column` for all files under "", `name.role=column` for one source under its name.

    Raises:
        CurationError: the text has another form, or there is no such role.
    """
    columns: dict[str, dict[str, str]] = {}
    for text in texts:
        target, equals, column = text.partition("=")
        name, _, role = target.rpartition(".")
        if not equals or not column or role not in ROLES:
            raise CurationError(
                f"--column takes ROLE=COLUMN or SOURCE.ROLE=COLUMN; roles: {', '.join(ROLES)}. Given: {text}"
            )
        columns.setdefault(name, {})[role] = column
    return columns


def load_source(
    spec: SourceSpec, columns: Mapping[str, Mapping[str, str]], rows: Rows, *, seed: int
) -> Loaded:
    """Raises CurationError or StageStopped, as the readers do."""
    if spec.path is None:
        questions, num_left_out = load(spec.name, rows, seed=seed)
        kept = [question for question in questions if question.question]
        empty = [_no_question(spec.name, "") for question in questions if not question.question]
        return Loaded(spec, kept, empty, "hub", num_left_out)
    path = questions_file(spec.path)
    table = read_rows(path)
    if not table:
        raise CurationError(f"{path} has no rows")
    if set(table[0]) == set(COLUMNS):
        same = [
            question_from_row(row, where=f"{path}, row {number}", default_source=spec.name)
            for number, row in enumerate(table, start=1)
        ]
        return Loaded(spec, same, [], "the schema of the stages")
    given = {**columns.get("", {}), **columns.get(spec.name, {})}
    mapping = find_columns(table, given, where=str(path))
    kept, drops = [], []
    for number, row in enumerate(table, start=1):
        question = to_question(row, mapping, spec.name)
        if question is None:
            drops.append(_no_question(spec.name, f"row {number}"))
            continue
        try:
            kept.append(with_choices(question, row, mapping))
        except OptionsError as error:
            drops.append(drop(question, STAGE, "unclear_options", f"row {number}: {error}"))
    return Loaded(spec, kept, drops, mapping.describe())


def _no_question(source: str, where: str) -> Drop:
    return Drop("", source, STAGE, "no_question", where, "")


def collect(
    loaded: Sequence[Loaded], benchmarks: Benchmarks | None, near_threshold: float, progress: Progress
) -> Outcome:
    """One pool: exact duplicates, near duplicates (0 turns this off), then what the benchmarks share."""
    pool = [question for part in loaded for question in part.questions]
    drops = [drop for part in loaded for drop in part.drops]
    num_in = len(pool) + len(drops)
    pool, more = drop_exact(pool, STAGE)
    drops += more
    pool, more = _drop_repeated_ids(pool)
    drops += more
    notes = _notes(loaded)
    if near_threshold > 0:
        with progress.bar("near duplicates", len(pool)) as advance:
            pool, more, num_otherwise = drop_near(pool, near_threshold, STAGE, advance)
        drops += more
        notes["near_duplicates_kept_for_their_answer"] = num_otherwise
        if num_otherwise:
            line = f"{num_otherwise:,} near duplicates kept: their answer is another"
            progress.errors.print(line, soft_wrap=True, highlight=False)
    if benchmarks is not None:
        with progress.bar("decontamination", len(pool)) as advance:
            pool, more = drop_contaminated(pool, benchmarks, STAGE, advance)
        drops += more
    return Outcome(num_in, pool, drops, notes=notes)


def _drop_repeated_ids(pool: Sequence[Question]) -> tuple[list[Question], list[Drop]]:
    seen: set[str] = set()
    kept, drops = [], []
    for question in pool:
        if question.id in seen:
            drops.append(drop(question, STAGE, "duplicate_id"))
        else:
            seen.add(question.id)
            kept.append(question)
    return kept, drops


def _notes(loaded: Sequence[Loaded]) -> dict[str, Any]:
    return {
        "sources": {
            part.spec.name: {
                "rows": len(part.questions) + len(part.drops),
                "left_out": part.num_left_out,
                "columns": part.columns,
            }
            for part in loaded
        }
    }


def input_files(specs: Sequence[SourceSpec], hub_dir: Path | None) -> tuple[Path, ...]:
    """The files whose bytes decide the result; all of --hub-dir's that a source may read.

    Raises:
        CurationError: one does not exist.
    """
    files = [questions_file(spec.path) for spec in specs if spec.path is not None]
    for file in files:
        if not file.is_file():
            raise CurationError(f"{file}: no such file")
    if hub_dir is not None:
        files += sorted(path for path in hub_dir.rglob("*") if path.suffix in SUFFIXES)
    return tuple(files)


def report(part: Loaded, progress: Progress) -> None:
    """One line: how many rows, and how they were read or how many s1 has."""
    count = f"{len(part.questions):,} questions"
    if part.spec.is_hub:
        paper = HUB_SOURCES[part.spec.name].num_questions
        said = f"{part.num_left_out:,} rows left out; the paper ends with {paper:,}"
    else:
        said = part.columns
    line = f"{part.spec.name}: {count} ({said})"
    progress.errors.print(escape(line), soft_wrap=True, highlight=False)
