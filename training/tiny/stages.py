"""The two stages of training, each from its own random stream of the one seed."""

import random
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from training.tiny import loop
from training.tiny.documents import (
    SYSTEM_PROMPT,
    BaseMixture,
    Document,
    base_documents,
    chat_document,
    cut_position,
    question_prompt,
)
from training.tiny.pool import Selection, make_pool, select
from training.tiny.tasks import FAMILIES, make_training_question
from training.tiny.tokenizer import END_OF_TEXT, encode, token_id
from training.tiny.traces import Trace

if TYPE_CHECKING:
    from training.tiny.recipe import BaseRecipe, PoolRecipe, SftRecipe


@dataclass(slots=True)
class Stage:
    """What a stage did; ``tokens`` are those of its documents, without padding."""

    steps: int
    losses: list[float]
    documents: int = 0
    tokens: int = 0


def random_stream(seed: int, purpose: str) -> random.Random:
    """Independent streams from one seed: a change in one stage's data leaves the other's alone."""
    return random.Random(f"{seed}/{purpose}")  # noqa: S311 -- data generation, not cryptography


def train_base(model: Any, recipe: "BaseRecipe", seed: int, on_step: loop.OnStep) -> Stage:
    stage = Stage(recipe.steps, [])
    optimizers = loop.muon_and_adamw(
        model, recipe.muon_learning_rate, recipe.adamw_learning_rate, recipe.weight_decay
    )
    schedule = loop.Schedule(recipe.steps, recipe.warmup_steps)
    stream = _count(stage, base_batches(random_stream(seed, "base"), recipe))
    stage.losses = loop.fit(model, optimizers, schedule, stream, token_id(END_OF_TEXT), on_step)
    return stage


def base_batches(rng: random.Random, recipe: "BaseRecipe") -> Iterator[list[Document]]:
    """Without end: every epoch's documents are new."""
    mixture = BaseMixture(**recipe.mixture.model_dump())
    while True:
        documents = base_documents(rng, recipe.documents_per_epoch, mixture)
        yield from loop.batches(rng, documents, recipe.tokens_per_step)


def select_examples(pool_recipe: "PoolRecipe", num_examples: int, seed: int) -> Selection:
    rng = random_stream(seed, "pool")
    return select(rng, make_pool(rng, pool_recipe), num_examples)


def fine_tune(
    model: Any, examples: list[Trace], recipe: "SftRecipe", seed: int, on_step: loop.OnStep
) -> Stage:
    batches = list(sft_batches(random_stream(seed, "sft"), examples, recipe))
    stage = Stage(len(batches), [])
    optimizers = loop.adamw(model, recipe.learning_rate, recipe.weight_decay)
    schedule = loop.Schedule(stage.steps, recipe.warmup_steps)
    stage.losses = loop.fit(
        model, optimizers, schedule, _count(stage, iter(batches)), token_id(END_OF_TEXT), on_step
    )
    return stage


def sft_batches(rng: random.Random, examples: list[Trace], recipe: "SftRecipe") -> Iterator[list[Document]]:
    """Every epoch sees each example once, some of them cut off, each time somewhere else."""
    for _ in range(recipe.epochs):
        documents = [_sft_document(rng, example, recipe) for example in examples]
        yield from loop.batches(rng, documents, recipe.tokens_per_step)


def _sft_document(rng: random.Random, example: Trace, recipe: "SftRecipe") -> Document:
    system = SYSTEM_PROMPT if rng.random() < recipe.system_prompt_share else None
    earlier = _earlier_turn(rng) if rng.random() < recipe.earlier_turn_share else None
    prompt = question_prompt(example.question.text, system=system, earlier=earlier)
    if rng.random() >= recipe.cut_share:
        return chat_document(example, None, prompt)
    cut_at = cut_position(rng, len(encode(example.thinking)), recipe.empty_cut_share)
    return chat_document(example, cut_at, prompt)


def _earlier_turn(rng: random.Random) -> tuple[str, str]:
    question = make_training_question(rng, rng.choice(FAMILIES), num_chunks=rng.randint(1, 2))
    return question.text, question.truth


def _count(stage: Stage, stream: Iterator[list[Document]]) -> Iterator[list[Document]]:
    for batch in stream:
        stage.documents += len(batch)
        stage.tokens += sum(len(document.ids) for document in batch)
        yield batch
