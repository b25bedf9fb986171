"""The one schema of all stages: a question, what became of it, and why others were dropped."""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from training.curate.errors import CurationError

if TYPE_CHECKING:
    import pyarrow


@dataclass(frozen=True, slots=True)
class Attempt:
    """What one solver answered. `correct` is None where nothing could judge it."""

    model: str
    answer: str
    correct: bool | None = None
    graded_by: str | None = None
    thinking_tokens: int | None = None
    completion_tokens: int | None = None
    finish_reason: str | None = None


@dataclass(frozen=True, slots=True)
class Question:
    """A row of `questions.parquet`. `metadata` is JSON text: the source's other columns."""

    id: str
    question: str
    source: str
    solution: str | None = None
    answer: str | None = None
    domain: str | None = None
    metadata: str = "{}"
    thinking: str | None = None
    trace_answer: str | None = None
    trace_model: str | None = None
    trace_correct: bool | None = None
    trace_error: str | None = None
    trace_finish_reason: str | None = None
    thinking_tokens: int | None = None
    attempts: tuple[Attempt, ...] = ()


@dataclass(frozen=True, slots=True)
class Drop:
    """A row of `drops.parquet`: `detail` names the rule, the text or the other question behind `reason`."""

    id: str
    source: str
    stage: str
    reason: str
    detail: str
    question: str


_CUT = frozenset({"length", "max_tokens", "model_context_window_exceeded"})
ENDED_BY_SERVER = frozenset({"max_thinking_tokens", "loop", "time", "request"})
"""What in our receipts says that not the model ended its thinking."""
_TEXT_COLUMNS = ("id", "question", "source", "metadata")
_OPTIONAL_TEXT = (
    "solution",
    "answer",
    "domain",
    "thinking",
    "trace_answer",
    "trace_model",
    "trace_error",
    "trace_finish_reason",
)
_ATTEMPT_COLUMNS = frozenset(field.name for field in dataclasses.fields(Attempt))
COLUMNS = tuple(field.name for field in dataclasses.fields(Question))


def question_id(question: str) -> str:
    """The first 16 hexadecimal digits of the question's SHA-256, as s1 keys its questions."""
    return hashlib.sha256(question.encode()).hexdigest()[:16]


def drop(question: Question, stage: str, reason: str, detail: str = "") -> Drop:
    return Drop(question.id, question.source, stage, reason, detail, question.question)


def reference_of(question: Question) -> str | None:
    """What a grader model compares with: the whole solution, with the short answer after it."""
    parts = dict.fromkeys(part for part in (question.solution, question.answer) if part)
    return "\n\n".join(parts) or None


def is_cut(finish_reason: str | None) -> bool:
    """Whether a limit ended a reply, as OpenAI's, Anthropic's and Gemini's APIs say it, or its thinking."""
    return (finish_reason or "").lower() in _CUT | ENDED_BY_SERVER


def as_row(item: Question | Drop) -> dict[str, Any]:
    return dataclasses.asdict(item)


def question_from_row(row: Mapping[str, Any], *, where: str, default_source: str) -> Question:
    """Check one row of a file that claims this schema.

    Raises:
        CurationError: a column is missing, unknown, or of another type; `where` names file and row.
    """
    unknown = sorted(set(row) - set(COLUMNS))
    if unknown:
        raise CurationError(
            f"{where}: unknown column {unknown[0]!r}; map other files with `s1 curate collect`. "
            f"Known columns: {', '.join(COLUMNS)}"
        )
    values: dict[str, Any] = {name: value for name, value in row.items() if value is not None}
    if not isinstance(values.get("question"), str) or not values["question"].strip():
        raise CurationError(f"{where}: column 'question' must be a text that is not empty")
    values.setdefault("id", question_id(values["question"]))
    values.setdefault("source", default_source)
    for name in _TEXT_COLUMNS + _OPTIONAL_TEXT:
        if not isinstance(values.get(name, ""), str):
            raise CurationError(f"{where}: column {name!r} must be text. Given: {values[name]!r}")
    if not _is_json_object(values.get("metadata", "{}")):
        raise CurationError(f"{where}: column 'metadata' must be a JSON object as text")
    if not isinstance(values.get("trace_correct", True), bool):
        raise CurationError(f"{where}: column 'trace_correct' must be true or false")
    tokens = values.get("thinking_tokens", 0)
    if not isinstance(tokens, int) or isinstance(tokens, bool) or tokens < 0:
        raise CurationError(f"{where}: column 'thinking_tokens' must be a count. Given: {tokens!r}")
    values["attempts"] = tuple(_attempt(attempt, where) for attempt in values.get("attempts", ()))
    return Question(**values)


def _is_json_object(text: str) -> bool:
    try:
        return isinstance(json.loads(text), dict)
    except (ValueError, RecursionError):
        return False


def _attempt(row: Any, where: str) -> Attempt:
    if not isinstance(row, Mapping) or not {"model", "answer"} <= set(row) <= _ATTEMPT_COLUMNS:
        raise CurationError(f"{where}: column 'attempts' holds {row!r}, not an attempt of a solver")
    return Attempt(**row)


def question_columns() -> pyarrow.Schema:
    import pyarrow as pa

    attempt = pa.struct(
        [
            ("model", pa.string()),
            ("answer", pa.string()),
            ("correct", pa.bool_()),
            ("graded_by", pa.string()),
            ("thinking_tokens", pa.int64()),
            ("completion_tokens", pa.int64()),
            ("finish_reason", pa.string()),
        ]
    )
    kinds = {"trace_correct": pa.bool_(), "thinking_tokens": pa.int64(), "attempts": pa.list_(attempt)}
    return pa.schema([(name, kinds.get(name, pa.string())) for name in COLUMNS])


def drop_columns() -> pyarrow.Schema:
    import pyarrow as pa

    return pa.schema([(field.name, pa.string()) for field in dataclasses.fields(Drop)])
