"""Multiple choice: a row's options become part of its question, as `s1 evaluate` asks it."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Mapping, Sequence
from typing import Any

from training.curate.columns import ColumnMap, as_text, with_text
from training.curate.schema import Question
from training.evaluate.benchmarks import with_options
from training.grading.choices import LETTERS

OPTIONS_COLUMNS = ("options", "choices")
_LINES = re.compile(r"\n\nA\) [^\n]*\nB\) [^\n]*(?:\n[C-J]\) [^\n]*)*\Z")


class OptionsError(ValueError):
    """What a row gives as options, or its answer to them, can be read in no way or in several."""


def with_choices(question: Question, row: Mapping[str, Any], columns: ColumnMap) -> Question:
    """The question with a line `A) …` for each option, and the right one's letter as its answer.

    Options are a list, `{"A": text, …}`, or `{"text": [...], "label": [...]}`. The answer is a letter or
    label, a text, or a number: the option's place from 0 on. Any other answer stays as it is.

    Raises:
        OptionsError: the options have another form, or the answer is one option's text and another's place.
    """
    column = next((name for name in OPTIONS_COLUMNS if row.get(name)), None)
    if column is None or column in columns.columns.values():
        return question
    texts, labels = _options(column, row[column])
    answer = question.answer
    if answer is not None:
        place = _place(answer, row.get(columns.columns.get("answer", "")), texts, labels)
        answer = answer if place is None else LETTERS[place]
    asked = with_text(question, with_options(question.question, texts))
    return dataclasses.replace(asked, id=question.id if "id" in columns.columns else asked.id, answer=answer)


def without_choices(text: str) -> str:
    """A question's text without the lines that `with_choices` gave it."""
    return _LINES.sub("", text)


def _options(column: str, value: Any) -> tuple[list[str], Sequence[str]]:
    """Texts and labels."""
    labels: Sequence[str] = LETTERS
    if isinstance(value, Mapping) and isinstance(value.get("text"), list):
        labels = [str(label) for label in value.get("label") or LETTERS]
        value = value["text"]
    elif isinstance(value, Mapping):
        # In Parquet every row has the letters of all rows.
        given = {letter: text for letter, text in sorted(value.items()) if text is not None}
        value = list(given.values()) if LETTERS.startswith("".join(given)) else None
    texts = [as_text(option) or "" for option in value] if isinstance(value, list) else []
    if not 2 <= len(texts) <= min(len(LETTERS), len(labels)) or not all(texts):
        raise OptionsError(f"column {column!r} does not hold 2 to {len(LETTERS)} options")
    return texts, labels


def _place(answer: str, raw: Any, texts: Sequence[str], labels: Sequence[str]) -> int | None:
    """Of the option that is the answer; `raw` is the answer as the row has it."""
    counted = raw if type(raw) is int and 0 <= raw < len(texts) and labels is LETTERS else None
    if answer in texts:
        if counted not in (None, texts.index(answer)):
            raise OptionsError(f"the answer {answer} is the text of one option and the place of another")
        return texts.index(answer)
    if counted is not None:
        return counted
    label = answer.upper() if labels is LETTERS else answer
    places = [at for at in range(len(texts)) if labels[at] == label]
    return places[0] if places else None
