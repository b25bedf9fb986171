"""Training the base model, and the random streams that every stage has of the one seed."""

import random
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from training.tiny import loop
from training.tiny.documents import BaseMixture, Document, base_documents
from training.tiny.tokenizer import END_OF_TEXT, token_id

if TYPE_CHECKING:
    from training.tiny.recipe import BaseRecipe


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


def _count(stage: Stage, stream: Iterator[list[Document]]) -> Iterator[list[Document]]:
    for batch in stream:
        stage.documents += len(batch)
        stage.tokens += sum(len(document.ids) for document in batch)
        yield batch
