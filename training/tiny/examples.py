"""The demo model's data for the pipeline: traces as rows of `s1 curate`, samples as rows of `s1 sft`."""

import json
import random
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

from training.curate.schema import Question, question_id
from training.tiny.documents import SYSTEM_PROMPT, cut_position
from training.tiny.tasks import FAMILIES, make_training_question
from training.tiny.tokenizer import decode, encode
from training.tiny.traces import Trace

if TYPE_CHECKING:
    from training.tiny.recipe import SamplesRecipe

TEACHER = "a program"
"""What wrote the traces; s1 asked Gemini."""


def pool_row(trace: Trace) -> Question:
    """Kind and number of chunks are the domain: what s1 asks a model for is known here."""
    question = trace.question
    return Question(
        id=question_id(question.text),
        question=question.text,
        source=question.family,
        answer=question.truth,
        domain=f"{question.family} {len(question.chunks)}",
        metadata=json.dumps({"num_waits": trace.num_waits}),
        thinking=trace.thinking,
        trace_answer=trace.answer,
        trace_model=TEACHER,
        trace_correct=trace.answer == question.truth,
        thinking_tokens=len(encode(trace.thinking)),
    )


def sample_rows(
    rng: random.Random, questions: Sequence[Question], recipe: "SamplesRecipe"
) -> Iterator[dict[str, Any]]:
    """Samples of every question, in rounds; some cut, with a system prompt, or in a conversation."""
    for _ in range(recipe.draws):
        for question in questions:
            yield {"messages": _messages(rng, question, recipe)}


def _messages(rng: random.Random, question: Question, recipe: "SamplesRecipe") -> list[dict[str, str]]:
    messages = []
    if rng.random() < recipe.system_prompt_share:
        messages.append({"role": "system", "content": SYSTEM_PROMPT})
    if rng.random() < recipe.earlier_turn_share:
        messages += _earlier_turn(rng)
    messages.append({"role": "user", "content": question.question})
    thinking = question.thinking or ""
    if rng.random() >= recipe.cut_share:
        return [*messages, _assistant(thinking, question.trace_answer or "")]
    cut = cut_text(thinking, cut_position(rng, len(encode(thinking)), recipe.empty_cut_share))
    return [*messages, _assistant(cut, question.answer or "", ended_by="max_thinking_tokens")]


def cut_text(thinking: str, num_tokens: int) -> str:
    """A text is read anew: half a word would be other tokens than the model's, so the cut moves before it."""
    ids = encode(thinking)[:num_tokens]
    while encode(decode(ids)) != ids:
        ids.pop()
    return decode(ids)


def _assistant(thinking: str, answer: str, **fields: str) -> dict[str, str]:
    return {"role": "assistant", "reasoning": thinking, "content": answer, **fields}


def _earlier_turn(rng: random.Random) -> list[dict[str, str]]:
    question = make_training_question(rng, rng.choice(FAMILIES), num_chunks=rng.randint(1, 2))
    return [{"role": "user", "content": question.text}, {"role": "assistant", "content": question.truth}]
