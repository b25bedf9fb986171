"""Multiple choice: a row's options become part of its question, as `s1 evaluate` asks it."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Mapping, Sequence
from typing import Any

from training.curate.columns import ColumnMap, as_text, with_text
from training.curate.schema import Question
from training.evaluate.benchmarks import with_options, without_own_labels
from training.grading import forms
from training.grading.choices import LETTERS

OPTIONS_COLUMNS = ("options", "choices")
_LABELLED = re.compile(r"\(?(?P<label>\w)(?:[).:]+\s*|\s+|\Z)(?P<text>.*)", re.DOTALL)
_LINES = re.compile(r"\n\nA\) [^\n]*\nB\) [^\n]*(?:\n[C-J]\) [^\n]*)*\Z")


class OptionsError(ValueError):
    """What a row gives as options, or its answer to them, can be read in no way or in several."""


def with_choices(question: Question, row: Mapping[str, Any], columns: ColumnMap) -> Question:
    """The question with a line `A) …` for each option, and the right one's letter as its answer.

    Options are a list, `{"A": text, …}`, or `{"text": [...], "label": [...]}`. An answer that is a number is
    an option's place from 0 on; a text is a letter or label, an option's text, or both (`(B)`, `B) Paris`).

    Raises:
        OptionsError: the options have another form or repeat each other, or the answer could be two of them,
            or is none.
    """
    column = next((name for name in OPTIONS_COLUMNS if row.get(name)), None)
    if column is None or column in columns.columns.values():
        return question
    options, labels = _options(column, row[column])
    texts = without_own_labels([as_text(option) or "" for option in options])
    if not all(texts) or len(set(texts)) < len(texts):
        raise OptionsError(f"column {column!r} holds an empty option, or one twice")
    answer = question.answer
    if answer is not None:
        given = row.get(columns.columns.get("answer", ""))
        if labels is LETTERS and isinstance(given, int | float) and answer.isdecimal():
            place = _counted(int(answer), options, texts)
        else:
            place = _named(answer, texts, labels)
        if place is None:
            raise OptionsError(f"the answer {answer!r} is none of the options")
        answer = LETTERS[place]
    asked = with_text(question, with_options(question.question, texts))
    return dataclasses.replace(asked, id=question.id if "id" in columns.columns else asked.id, answer=answer)


def without_choices(text: str) -> str:
    """A question's text without the lines that `with_choices` gave it."""
    return _LINES.sub("", text)


def _options(column: str, value: Any) -> tuple[list[Any], Sequence[str]]:
    """Options as they stand in the row, and their labels."""
    labels: Sequence[str] = LETTERS
    if isinstance(value, Mapping) and isinstance(value.get("text"), list):
        labels = [str(label) for label in value.get("label") or LETTERS]
        value = value["text"]
    elif isinstance(value, Mapping):
        # In Parquet every row has the letters of all rows.
        given = {letter: text for letter, text in sorted(value.items()) if text is not None}
        value = list(given.values()) if LETTERS.startswith("".join(given)) else None
    if not isinstance(value, list) or not 2 <= len(value) <= min(len(LETTERS), len(labels)):
        raise OptionsError(f"column {column!r} does not hold 2 to {len(LETTERS)} options")
    return value, labels


def _counted(answer: int, options: Sequence[Any], texts: Sequence[str]) -> int | None:
    """The place that a number means; one beyond the last may be an option's text."""
    if answer >= len(options):
        return _named(str(answer), texts, ())
    # The text "2" is none of the options' numbers: data sets that count their options have such texts, too.
    return _only_one(str(answer), {answer, *(at for at, option in enumerate(options) if option == answer)})


def _named(answer: str, texts: Sequence[str], labels: Sequence[str]) -> int | None:
    by_label = {at for at in range(len(texts)) if _label(answer, labels) in labels[at : at + 1]}
    by_text = {at for at, text in enumerate(texts) if text == answer} or {
        at for at, text in enumerate(texts) if text.casefold() == answer.casefold()
    }
    return _only_one(answer, by_label | by_text | _labelled(answer, texts, labels))


def _labelled(answer: str, texts: Sequence[str], labels: Sequence[str]) -> set[int]:
    """The place of `(B)`, `B.` or `B) Paris`; none where another option's text follows the label."""
    found = _LABELLED.fullmatch(forms.plain(answer))
    if found is None:
        return set()
    label, said = _label(found["label"], labels), found["text"].casefold()
    return {
        at
        for at, (own, text) in enumerate(zip(labels, texts, strict=False))
        if own == label and said in ("", forms.plain(text).casefold())
    }


def _label(said: str, labels: Sequence[str]) -> str:
    return said.upper() if labels is LETTERS else said


def _only_one(answer: str, places: set[int]) -> int | None:
    if len(places) > 1:
        raise OptionsError(f"the answer {answer!r} is the text of one option and stands for another")
    return places.pop() if places else None
