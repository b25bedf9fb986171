"""Benchmarks: what is asked word for word, what is right, and how answers are compared (s1's prompts)."""

from __future__ import annotations

import hashlib
import random
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from training.curate.columns import find_columns, to_question
from training.curate.errors import CurationError
from training.curate.files import read_rows
from training.curate.hub import Rows, Split
from training.curate.schema import question_id
from training.evaluate.suite import held_out_questions
from training.grading.choices import LETTERS
from training.grading.program import Kind

DEMO = "demo"
GPQA = "gpqa-diamond"
HUB_SPLITS: Mapping[str, Split] = {
    "aime24": Split("simplescaling/aime24_nofigures", "train"),
    "aime25": Split("TIGER-Lab/AIME25", "train"),
    "math500": Split("simplescaling/openaimath", "test"),
    GPQA: Split("Idavidrein/gpqa", "train", "gpqa_diamond"),
}
"""The data sets of s1's evaluation, by our names."""
DEFAULT_MAX_TOKENS: Mapping[str, int] = {DEMO: 1024}
MAX_TOKENS = 32768
"""Thinking and answer together, as s1 evaluates."""
_OPTIONS_COLUMNS = ("options", "choices")
_OWN_LABEL = re.compile(r"\(?(?P<label>[A-J])[).:]+\s*(?=\S)")
_GPQA_ANSWERS = ("Correct Answer", "Incorrect Answer 1", "Incorrect Answer 2", "Incorrect Answer 3")


@dataclass(frozen=True, slots=True)
class Item:
    """One question. `prompt` is the user's message; `options` are a choice's texts, by letter."""

    id: str
    prompt: str
    reference: str
    kind: Kind = "math"
    options: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Benchmark:
    name: str
    source: str
    items: tuple[Item, ...]
    num_repeated: int = 0
    """Rows that asked what an earlier one asks; they are left out, whatever their answer."""

    @property
    def fingerprint(self) -> str:
        """Which questions, in these words and with these answers."""
        lines = "\n".join(f"{item.prompt}\t{item.reference}" for item in self.items)
        return hashlib.sha256(lines.encode()).hexdigest()[:16]

    @property
    def max_tokens(self) -> int:
        return DEFAULT_MAX_TOKENS.get(self.name, MAX_TOKENS)


def load_benchmark(text: str, rows: Rows, *, limit: int | None = None, suffix: str = "") -> Benchmark:
    """`aime24`, `aime25`, `math500`, `gpqa-diamond`, `demo`, a .jsonl or .parquet file, or `NAME=FILE`.

    Args:
        limit: only the first so many questions.
        suffix: is put after every question, with a blank line between.

    Raises:
        CurationError: there is no such benchmark, or a row of it holds no question or no answer.
        StageStopped: the hub can't be reached.
    """
    benchmark = _load(text, rows, limit)
    items = benchmark.items[:limit]
    if suffix:
        items = tuple(replace(item, prompt=f"{item.prompt}\n\n{suffix}") for item in items)
    return replace(benchmark, items=items)


def _load(text: str, rows: Rows, limit: int | None) -> Benchmark:
    if text == DEMO:
        return demo_benchmark(limit)
    if text in HUB_SPLITS:
        table: Sequence[Mapping[str, Any]] = list(rows(HUB_SPLITS[text]))
        items = _gpqa_items(table) if text == GPQA else _items(table, where=text)
        return Benchmark(text, str(HUB_SPLITS[text]), items, len(table) - len(items))
    name, equals, path = text.partition("=")
    file = Path(path if equals else text)
    if not file.suffix:
        known = ", ".join((DEMO, *HUB_SPLITS))
        raise CurationError(
            f"--benchmark must be one of {known}, or a .jsonl or .parquet file. Given: {text}"
        )
    table = read_rows(file)
    items = _items(table, where=str(file))
    return Benchmark(name if equals else file.stem, file.name, items, len(table) - len(items))


def demo_benchmark(limit: int | None = None) -> Benchmark:
    """The held-out questions of the demo checkpoint, compared exactly."""
    questions = held_out_questions(limit) if limit else held_out_questions()
    items = tuple(Item(f"{DEMO}-{at}", q.text, q.truth, "exact") for at, q in enumerate(questions))
    return Benchmark(DEMO, "held-out questions of the demo checkpoint", items)


def _items(table: Sequence[Mapping[str, Any]], *, where: str) -> tuple[Item, ...]:
    if not table:
        raise CurationError(f"{where} has no rows")
    columns = find_columns(table, {}, where=where)
    items: dict[str, Item] = {}
    for number, row in enumerate(table, start=1):
        question = to_question(row, columns, where)
        if question is None:
            raise CurationError(f"{where}, row {number} holds no question ({columns.describe()})")
        if question.answer is None:
            raise CurationError(f"{where}, row {number} holds no answer ({columns.describe()})")
        options = next((row[name] for name in _OPTIONS_COLUMNS if row.get(name)), None)
        if options is None:
            item = Item(question.id, question.question, question.answer)
        else:
            given = row.get(columns.columns.get("answer", ""))
            # As a text, an index could be taken for an option.
            answer = given if _is_integer(given) else question.answer
            item = _choice(question.question, answer, options, f"{where}, row {number}")
        items.setdefault(item.id, item)
    return tuple(items.values())


def _choice(question: str, answer: object, options: object, where: str) -> Item:
    """A question with a list of options; `answer` is an index from 0, a letter, or the right option's text.

    Its id is of all that is asked: many questions are the same but for their options.
    """
    if not isinstance(options, list) or not 2 <= len(options) <= len(LETTERS):
        raise CurationError(f"{where}: options must be a list of 2 to {len(LETTERS)}. Given: {options!r}")
    texts = tuple(without_own_labels([str(option).strip() for option in options]))
    for at, text in enumerate(texts):
        if text in texts[:at]:
            raise CurationError(
                f"{where}: options must differ. Given twice: {text!r}, as {LETTERS[texts.index(text)]} "
                f"and {LETTERS[at]}"
            )
    right = _index(answer, options, where) if _is_integer(answer) else _named(str(answer), texts, where)
    prompt = with_options(question, texts)
    return Item(question_id(prompt), prompt, LETTERS[right], "choice", texts)


def _is_integer(answer: object) -> bool:
    """Also 1.0, which a column of integers becomes where some are missing."""
    if isinstance(answer, float):
        return answer.is_integer()
    return isinstance(answer, int) and not isinstance(answer, bool)


def _index(answer: Any, options: list[Any], where: str) -> int:
    """Options that are numbers themselves leave open whether one of them is meant."""
    if not 0 <= answer < len(options):
        raise CurationError(
            f"{where}: an answer that is a number is an index, from 0 to {len(options) - 1}. Given: {answer}"
        )
    index = int(answer)
    if any(_is_integer(option) and option == answer for option in options) and options[index] != answer:
        raise CurationError(
            f"{where}: the answer {answer} is the index of {options[index]!r} and an option itself; "
            "give its letter"
        )
    return index


def _named(answer: str, texts: tuple[str, ...], where: str) -> int:
    answer, letters = answer.strip(), LETTERS[: len(texts)]
    label = letters.find(answer.upper()) if len(answer) == 1 else -1
    alike = [at for at, text in enumerate(texts) if text.casefold() == answer.casefold()]
    if label >= 0 and alike and label not in alike:
        raise CurationError(
            f"{where}: the answer {answer!r} is the letter of {texts[label]!r} and the text of option "
            f"{letters[alike[0]]}; give the index from 0, as a number"
        )
    if answer in texts:
        return texts.index(answer)
    if label < 0:
        raise CurationError(
            f"{where}: the answer must be one of {letters} or of the options. Given: {answer}"
        )
    return label


def with_options(question: str, options: Sequence[str]) -> str:
    lines = [f"{letter}) {option}" for letter, option in zip(LETTERS, options, strict=False)]
    return f"{question}\n\n" + "\n".join(lines)


def without_own_labels(texts: Sequence[str]) -> list[str]:
    """Options without the letters that they begin with, `A)21`, where each has its own."""
    found = [_OWN_LABEL.match(text) for text in texts]
    if [match and match["label"] for match in found] != list(LETTERS[: len(texts)]):
        return list(texts)
    return [text[match.end() :] for text, match in zip(texts, found, strict=True) if match]


def _gpqa_items(table: Sequence[Mapping[str, Any]]) -> tuple[Item, ...]:
    """The right answer's place follows from the record's id alone, or the question's text if it has none: the
    same for every run and limit."""
    items = []
    for number, row in enumerate(table, start=1):
        missing = [name for name in ("Question", *_GPQA_ANSWERS) if not str(row.get(name) or "").strip()]
        if missing:
            raise CurationError(f"{GPQA}, row {number}: column {missing[0]!r} is missing or empty")
        question = str(row["Question"]).strip()
        record = str(row.get("Record ID") or "")
        answers = [str(row[column]).strip() for column in _GPQA_ANSWERS]
        seed = record or question_id(question)
        order = random.Random(seed).sample(range(len(answers)), len(answers))  # noqa: S311 -- no secret
        options = tuple(answers[at] for at in order)
        letter = LETTERS[order.index(0)]
        prompt = with_options(question, options)
        items.append(Item(record or question_id(prompt), prompt, letter, "choice", options))
    return tuple(items)
