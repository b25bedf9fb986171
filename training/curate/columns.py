"""Any row of any file becomes a question: columns by name, or found by the names that sets use."""

from __future__ import annotations

import dataclasses
import json
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from training.curate.errors import CurationError
from training.curate.schema import Question, question_id
from training.grading.answers import last_boxed, split_gsm8k

Role = Literal["question", "solution", "answer", "domain", "context", "id"]
ROLES: tuple[Role, ...] = ("question", "solution", "answer", "domain", "context", "id")
KNOWN_NAMES: Mapping[Role, tuple[str, ...]] = {
    "question": (
        "question",
        "problem",
        "Question",
        "Problem",
        "question_content",
        "query",
        "prompt",
        "input",
    ),
    "solution": ("solution", "Solution", "rationale", "explanation", "Explanation", "output", "response"),
    "answer": (
        "final_answer",
        "answer",
        "Answer",
        "gold",
        "expected_answer",
        "ground_truth",
        "target",
        "answerKey",
        "correct",
    ),
    "domain": ("domain", "data_topic", "subfield", "subject", "Subdomain", "topic", "category", "type"),
    "context": ("context", "passage"),
    "id": (),
}
"""Most specific first: `final_answer` is the short answer where there are two."""


@dataclass(frozen=True, slots=True)
class ColumnMap:
    """Which column plays which role; only `question` is always there."""

    columns: Mapping[Role, str]

    def describe(self) -> str:
        return ", ".join(f"{role}={column}" for role, column in self.columns.items())


def find_columns(rows: Sequence[Mapping[str, Any]], given: Mapping[str, str], *, where: str) -> ColumnMap:
    """Columns named by the user, and for the other roles the first known name that some row fills.

    Raises:
        CurationError: a named column does not exist, or none can be the question.
    """
    filled: dict[str, None] = {}
    for row in rows:
        filled.update(dict.fromkeys(name for name, value in row.items() if _is_filled(name, value)))
    columns: dict[Role, str] = {}
    for role in ROLES:
        named = given.get(role)
        if named is not None:
            if not any(named in row for row in rows):
                raise CurationError(f"{where}: no column {named!r} for the {role}. Columns: {_names(filled)}")
            columns[role] = named
            continue
        found = next((name for name in KNOWN_NAMES[role] if name in filled), None)
        if found is not None and found not in columns.values():
            columns[role] = found
    if "question" not in columns:
        raise CurationError(
            f"{where}: no column for the question (looked for {', '.join(KNOWN_NAMES['question'])}). "
            f"Columns: {_names(filled)}; name one with --column question=NAME"
        )
    return ColumnMap(columns)


def _is_filled(name: str, value: Any) -> bool:
    # A letter in AQuA; elsewhere often a verdict, true or 1.
    if name == "correct" and not isinstance(value, str):
        return False
    return value not in (None, "", [])


def _names(filled: Iterable[str]) -> str:
    return ", ".join(filled) or "none"


def to_question(row: Mapping[str, Any], mapping: ColumnMap, source: str) -> Question | None:
    """None where the row holds no question. Unmapped columns become `metadata`."""
    texts = {role: as_text(row.get(column)) for role, column in mapping.columns.items()}
    question = (texts.get("question") or "").strip()
    if not question:
        return None
    context = (texts.get("context") or "").strip()
    if context:
        question = f"{context}\n\n{question}"
    solution, answer = texts.get("solution"), texts.get("answer")
    if answer is not None and solution is None and (parts := split_gsm8k(answer)) is not None:
        solution, answer = parts
    if answer is None and solution is not None:
        answer = last_boxed(solution)
    rest = {name: value for name, value in row.items() if name not in mapping.columns.values()}
    return Question(
        id=texts.get("id") or question_id(question),
        question=question,
        source=source,
        solution=solution,
        answer=answer,
        domain=texts.get("domain"),
        metadata=as_metadata(rest),
    )


def with_text(question: Question, text: str) -> Question:
    """The same question in other words, under the id of these."""
    return dataclasses.replace(question, question=text, id=question_id(text))


def as_text(value: Any) -> str | None:
    """`27.0` is `27`, a list of texts is one text; blanks and NaN, as pandas writes them, are nothing."""
    if value is None or isinstance(value, dict):
        return None
    if isinstance(value, float):
        if math.isnan(value):
            return None
        value = int(value) if value.is_integer() else value
    if isinstance(value, list):
        parts = [text for text in map(as_text, value) if text]
        return ("\n\n" if any("\n" in part for part in parts) else ", ").join(parts) or None
    return str(value).strip() or None


def as_metadata(rest: Mapping[str, Any]) -> str:
    return json.dumps(rest, ensure_ascii=False, sort_keys=True, default=str)
