"""Token sequences to train on, with the tokens that count towards the loss."""

import random
from dataclasses import dataclass, field

from training.tiny.tasks import (
    FAMILIES,
    Family,
    Question,
    apply_chunk,
    apply_step,
    chunk_text,
    drill_chunk,
    make_training_question,
    step_text,
)
from training.tiny.tokenizer import END_OF_TEXT, MESSAGE_END, MESSAGE_START, encode, token_id
from training.tiny.traces import Trace, write_trace

SYSTEM_PROMPT = "You are a helpful assistant."
FORCED_ANSWER_PROMPT = "\nFinal Answer:"


@dataclass(slots=True)
class Document:
    """``counts[i]`` says whether predicting token i is part of the loss."""

    ids: list[int] = field(default_factory=list)
    counts: list[bool] = field(default_factory=list)

    def add(self, text: str, counts: bool) -> None:
        ids = encode(text)
        self.ids += ids
        self.counts += [counts] * len(ids)


@dataclass(frozen=True, slots=True)
class BaseMixture:
    """Shares of the base model's documents and the rates inside them."""

    drill_share: float
    step_drill_share: float
    quick_share: float
    long_share: float
    cut_share: float
    empty_cut_share: float
    slip_rate: float
    max_reviews: int


def question_prompt(
    question: str, *, system: str | None = None, earlier: tuple[str, str] | None = None
) -> str:
    """What the chat template makes of the messages, thinking opened."""
    messages = [("system", system)] if system else []
    if earlier:
        messages += [("user", earlier[0]), ("assistant", earlier[1])]
    messages.append(("user", question))
    text = "".join(f"{MESSAGE_START}{role}\n{content}{MESSAGE_END}\n" for role, content in messages)
    return f"{text}{MESSAGE_START}assistant\n{MESSAGE_START}think\n"


def cut_position(rng: random.Random, num_tokens: int, empty_share: float) -> int:
    """Anywhere from no thinking to all of it."""
    return 0 if rng.random() < empty_share else rng.randint(0, num_tokens)


def base_documents(rng: random.Random, count: int, mixture: BaseMixture) -> list[Document]:
    return [base_document(rng, mixture) for _ in range(count)]


def base_document(rng: random.Random, mixture: BaseMixture) -> Document:
    """A plain-text document: no chat messages, and mostly another word than ``Wait`` before a review."""
    family = rng.choices(FAMILIES, [35, 35, 30])[0]
    kind = rng.random()
    if kind < (below := mixture.drill_share):
        return drill_document(rng, family)
    if kind < (below := below + mixture.step_drill_share):
        return step_drill_document(rng)
    question = make_training_question(rng, family)
    if kind < (below := below + mixture.quick_share):
        trace = write_trace(question, rng, slip_rate=0.0, num_reviews=0)
    elif kind < below + mixture.long_share:
        trace = write_trace(question, rng, mixture.slip_rate, rng.randint(12, 48))
    else:
        trace = reviewed_trace(rng, question, mixture)
    cut_at = None
    if rng.random() < mixture.cut_share:
        cut_at = cut_position(rng, len(encode(trace.thinking)), mixture.empty_cut_share)
    return plain_document(trace, cut_at)


def reviewed_trace(rng: random.Random, question: Question, mixture: BaseMixture) -> Trace:
    return write_trace(
        question,
        rng,
        mixture.slip_rate,
        rng.randint(1, mixture.max_reviews),
        connectives=("Review:", "Review:", "Wait,"),
        past_all_checked=rng.random() < 0.3,
    )


def plain_document(trace: Trace, cut_at: int | None) -> Document:
    """A finished trace and its answer; or, cut after ``cut_at`` thinking tokens, the best guess.

    The cut-off form is what a server forces when thinking reaches its maximum, in plain text. What it would
    write does not count.
    """
    document = Document()
    document.add(f"Question: {trace.question.text}\n", counts=False)
    if cut_at is None:
        _add_thinking(document, trace.thinking)
        document.add(f"answer\n{trace.answer}{END_OF_TEXT}", counts=True)
        return document
    _add_cut_thinking(document, trace, cut_at)
    document.add(f"answer{FORCED_ANSWER_PROMPT}", counts=False)
    document.add(f" {trace.question.truth}{END_OF_TEXT}", counts=True)
    return document


def drill_document(rng: random.Random, family: Family) -> Document:
    """Four single chunks, done right; for letters the counted letter is named after each."""
    lines = []
    for _ in range(4):
        question = make_training_question(rng, family, num_chunks=1)
        (chunk,) = question.chunks
        named = f" ({chunk[0].operand})" if family == "letters" else ""
        result = apply_chunk(family, question.start, chunk)
        lines.append(f"a {question.start}{chunk_text(family, chunk)} = {result}{named}\n")
    document = Document()
    document.add("".join(lines) + END_OF_TEXT, counts=True)
    return document


def step_drill_document(rng: random.Random) -> Document:
    """Arithmetic step by step, as a check writes it."""
    lines = []
    for _ in range(4):
        state = str(rng.randint(0, 9))
        line = f"a {state}"
        for step in drill_chunk(rng, rng.randint(4, 10)):
            state = apply_step("chain", state, step)
            line += f"{step_text('chain', step)} = {state}"
        lines.append(line + "\n")
    document = Document()
    document.add("".join(lines) + END_OF_TEXT, counts=True)
    return document


def _add_cut_thinking(document: Document, trace: Trace, cut_at: int) -> None:
    _add_thinking(document, trace.thinking, cut_at)
    if cut_at > 0:
        document.add("\n", counts=False)


def _add_thinking(document: Document, thinking: str, cut_at: int | None = None) -> None:
    """With nothing left to check the connective does not count: going on then is never the model's wish."""
    ids = encode(thinking)
    all_token = token_id(" all")
    goes_on_for_nothing = [token == all_token for token in ids[2:]] + [False, False]
    document.ids += ids[:cut_at]
    document.counts += [not forced for forced in goes_on_for_nothing[:cut_at]]
