"""From rows to tokenized examples: which fields are read, what is refused or dropped, and why."""

import statistics
from array import array
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from training.conditional import class_conditional, step_conditional, token_conditional
from training.sft.recipe import ColumnNames, DataRecipe
from training.sft.rendering import (
    IGNORED,
    TRACE_FORMATS,
    ChatTokenizer,
    Example,
    Rendered,
    RenderingError,
    render_messages,
    render_turn,
    split_text,
    tokenize,
)
from training.sft.rows import DataError, Row

Form = Literal["columns", "messages", "text"]


@dataclass(frozen=True, slots=True)
class Dropped:
    """A row that is not trained on."""

    place: str
    reason: str


@dataclass(slots=True)
class Examples:
    """Tokenized samples: row ``i`` is learned from token ``first_learned[i]`` on, but for ``forced[i]``."""

    form: Form
    input_ids: list["array[int]"] = field(default_factory=list)
    first_learned: list[int] = field(default_factory=list)
    forced: dict[int, tuple[int, int]] = field(default_factory=dict)
    """By row, where a server ended the thinking: from and to which token it wrote itself."""
    places: list[str] = field(default_factory=list)
    dropped: list[Dropped] = field(default_factory=list)
    answer_columns: Counter[str] = field(default_factory=Counter)
    """By column that the answer was read from, where rows are columns: how many samples."""
    first_rendered: list[Rendered] = field(default_factory=list)
    """Texts of the first few, so that an exported tokenizer can be checked against the ids trained on."""

    @property
    def num_tokens(self) -> int:
        return sum(map(len, self.input_ids))

    @property
    def num_learned(self) -> int:
        num_forced = sum(end - begin for begin, end in self.forced.values())
        return self.num_tokens - sum(self.first_learned) - num_forced

    @property
    def longest(self) -> int:
        return max(map(len, self.input_ids))


_KEPT_TEXTS = 4


def build_examples(recipe: DataRecipe, tokenizer: ChatTokenizer, rows: Iterable[Row]) -> Examples:
    """Renders and tokenizes every row, in order. Nothing is ever cut.

    Raises:
        DataError: a row is unusable or too long and the recipe says ``error``, or nothing is left.
    """
    rows = list(rows)
    if not rows:
        raise DataError("the data files hold no rows")
    examples = Examples(_form(recipe, rows[0]))
    long_from = _median_thinking(recipe, examples.form, tokenizer, rows)
    for row in rows:
        try:
            rendered = _render(recipe, examples.form, tokenizer, row, long_from)
            example = tokenize(tokenizer, rendered)
        except RenderingError as error:
            problem = f"{_column(recipe.columns, error.field, row)} {error.problem}"
            _refuse(examples, row, problem, recipe.on_invalid)
            continue
        if len(example.input_ids) > recipe.max_length:
            reason = f"has {len(example.input_ids)} tokens, more than data.max_length {recipe.max_length}"
            _refuse(examples, row, reason, recipe.on_too_long)
            continue
        _add(examples, example)
        examples.places.append(row.place)
        if examples.form == "columns":
            examples.answer_columns[recipe.columns.answer_of(row.fields)] += 1
        if len(examples.first_rendered) < _KEPT_TEXTS:
            examples.first_rendered.append(rendered)
    if not examples.input_ids:
        raise DataError(f"all {len(rows)} rows were dropped; the first: {_describe(examples.dropped[0])}")
    return examples


def _add(examples: Examples, example: Example) -> None:
    """The mask as borders: context, learned, and for a cut trace forced and learned again."""
    labels = example.labels
    first = next(at for at, label in enumerate(labels) if label != IGNORED)
    if IGNORED in labels[first:]:
        begin = labels.index(IGNORED, first)
        end = next(at for at in range(begin, len(labels)) if labels[at] != IGNORED)
        examples.forced[len(examples.input_ids)] = (begin, end)
    examples.input_ids.append(array("i", example.input_ids))
    examples.first_learned.append(first)


def _refuse(examples: Examples, row: Row, reason: str, policy: str) -> None:
    dropped = Dropped(row.place, reason)
    if policy == "error":
        option = "on_too_long" if reason.startswith("has ") and "max_length" in reason else "on_invalid"
        raise DataError(f"{_describe(dropped)} (data.{option}: drop leaves such rows out)")
    examples.dropped.append(dropped)


def _describe(dropped: Dropped) -> str:
    return f"{dropped.place}: {dropped.reason}"


def _form(recipe: DataRecipe, first: Row) -> Form:
    """What the first row holds decides for all of them, if the recipe does not."""
    names = recipe.columns
    columns = (names.question, names.thinking, names.answer_of(first.fields))
    missing = [name for name in columns if name not in first.fields]
    found = ", ".join(first.fields) or "nothing"
    if recipe.form == "auto":
        if not missing:
            return "columns"
        if names.messages in first.fields:
            return "messages"
        if names.text in first.fields:
            return "text"
        raise DataError(
            f"{first.place}: missing {_listed(missing)}; a row needs {_listed(list(columns))}, or "
            f"{names.messages!r}, or {names.text!r} (data.columns renames them). Found: {found}"
        )
    if recipe.form == "columns" and missing:
        raise DataError(f"{first.place}: missing {_listed(missing)}. Found: {found}")
    if recipe.form != "columns" and (name := getattr(names, recipe.form)) not in first.fields:
        raise DataError(f"{first.place}: missing {name!r}. Found: {found}")
    return recipe.form


def _listed(names: Sequence[str]) -> str:
    return ", ".join(repr(name) for name in names)


def _render(
    recipe: DataRecipe, form: Form, tokenizer: ChatTokenizer, row: Row, long_from: int | None
) -> Rendered:
    trace_format = TRACE_FORMATS[recipe.format]
    names = recipe.columns
    if form == "text":
        text = row.fields.get(names.text)
        if not isinstance(text, str):
            raise RenderingError(
                "text", "is missing" if text is None else f"must be text, is {type(text).__name__}"
            )
        return split_text(trace_format, text)
    if form == "messages":
        messages = _messages(row.fields.get(names.messages))
        return render_messages(tokenizer, trace_format, messages, answer_prefix=recipe.answer_prefix)
    question = _only(row.fields.get(names.question))
    thinking = _only(row.fields.get(names.thinking))
    if recipe.control != "none":
        question, thinking = _conditioned(recipe, tokenizer, question, thinking, long_from)
    return render_turn(
        tokenizer,
        trace_format,
        question=question,
        thinking=thinking,
        answer=_only(row.fields.get(names.answer_of(row.fields))),
        system_prompt=recipe.system_prompt,
        answer_prefix=recipe.answer_prefix,
    )


def _conditioned(
    recipe: DataRecipe, tokenizer: ChatTokenizer, question: Any, thinking: Any, long_from: int | None
) -> tuple[str, str]:
    for name, value in (("question", question), ("thinking", thinking)):
        if not isinstance(value, str) or not value.strip():
            raise RenderingError(name, "is empty")
    if recipe.control == "steps":
        return step_conditional(question, thinking)[:2]
    tokens = _num_tokens(tokenizer, thinking)
    if recipe.control == "tokens":
        return token_conditional(question, thinking, tokens)[:2]
    return class_conditional(question, thinking, tokens, long_from_tokens=long_from or 0)[:2]


def _median_thinking(
    recipe: DataRecipe, form: Form, tokenizer: ChatTokenizer, rows: Sequence[Row]
) -> int | None:
    if recipe.control != "none" and form != "columns":
        raise DataError(
            f"data.control: {recipe.control} needs question, thinking and answer columns. Given: {form}"
        )
    if recipe.control != "class":
        return None
    traces = [_only(row.fields.get(recipe.columns.thinking)) for row in rows]
    lengths = [_num_tokens(tokenizer, trace) for trace in traces if isinstance(trace, str) and trace.strip()]
    return int(statistics.median_high(lengths)) if lengths else None


def _num_tokens(tokenizer: ChatTokenizer, text: str) -> int:
    return len(tokenizer(text.strip(), add_special_tokens=False)["input_ids"])


def _only(value: Any) -> Any:
    """The one text of a list of one, as s1K stores its traces; anything else as it is."""
    return value[0] if isinstance(value, list) and len(value) == 1 else value


def _messages(value: Any) -> list[dict[str, Any]]:
    if not isinstance(value, list) or not all(isinstance(message, dict) for message in value):
        raise RenderingError("messages", "is missing" if value is None else "must be a list of messages")
    return [{key: part for key, part in message.items() if part is not None} for message in value]


def _column(names: ColumnNames, part: str, row: Row) -> str:
    """The user's own name for a part of a sample."""
    name = names.answer_of(row.fields) if part == "answer" else getattr(names, part, None)
    return f"column {name!r}" if isinstance(name, str) else part
