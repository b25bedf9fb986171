"""The reward model: the demo's Llama with two classes instead of a vocabulary, read at the step tags."""

import json
import random
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from training.prm.documents import RatedDocument, make_documents, rating_tokenizer
from training.prm.recipe import DataRecipe, FitRecipe
from training.tiny.loop import OnStep, Schedule, muon_and_adamw
from training.tiny.tokenizer import END_OF_TEXT, MAX_POSITIONS, MESSAGE_END, token_id

_CHAT_TEMPLATE = Path(__file__).with_name("chat_template.jinja")
WRONG, RIGHT = 0, 1


def new_reward_model(policy: Path, seed: int) -> Any:
    """The policy's weights, and a head that knows nothing yet."""
    import torch
    from transformers import LlamaForSequenceClassification
    from transformers.utils import logging

    torch.manual_seed(seed)
    logging.set_verbosity_error()  # that the head is new is what is wanted
    return LlamaForSequenceClassification.from_pretrained(
        policy, num_labels=2, dtype=torch.float32, attn_implementation="eager"
    )


def save_reward_model(model: Any, folder: Path) -> None:
    """Weights in bfloat16, configuration, tokenizer and chat template."""
    import torch

    folder.mkdir(parents=True, exist_ok=True)
    model.config.id2label = {WRONG: "wrong", RIGHT: "right"}
    model.config.label2id = {"wrong": WRONG, "right": RIGHT}
    model.to(torch.bfloat16).save_pretrained(folder)
    (folder / "model.safetensors").chmod(0o644)
    rating_tokenizer().save(str(folder / "tokenizer.json"))
    config = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "eos_token": MESSAGE_END,
        "pad_token": END_OF_TEXT,
        "model_max_length": MAX_POSITIONS,
        "clean_up_tokenization_spaces": False,
    }
    (folder / "tokenizer_config.json").write_text(json.dumps(config, indent=2) + "\n")
    (folder / "chat_template.jinja").write_text(_CHAT_TEMPLATE.read_text())


def fit_reward_model(
    model: Any, data: DataRecipe, recipe: FitRecipe, rng: random.Random, on_step: OnStep
) -> list[float]:
    """Trains in place; returns the loss of every step."""
    import torch

    stream = _batches(rng, data, recipe)
    schedule = Schedule(recipe.steps, recipe.warmup_steps)
    optimizers = muon_and_adamw(
        model, recipe.muon_learning_rate, recipe.adamw_learning_rate, recipe.weight_decay
    )
    peaks = [[group["lr"] for group in optimizer.param_groups] for optimizer in optimizers]
    losses: list[float] = []
    model.train()
    for step in range(recipe.steps):
        for optimizer, rates in zip(optimizers, peaks, strict=True):
            for group, rate in zip(optimizer.param_groups, rates, strict=True):
                group["lr"] = rate * schedule.factor(step)
        with torch.autocast("cpu", torch.bfloat16):
            logits, labels = tag_logits(model, next(stream))
        loss = torch.nn.functional.cross_entropy(logits.float(), labels)
        model.zero_grad(set_to_none=True)
        loss.backward()  # type: ignore[no-untyped-call]
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        for optimizer in optimizers:
            optimizer.step()
        losses.append(loss.item())
        on_step(step + 1, losses[-1], recipe.steps)
    model.eval()
    return losses


def tag_logits(model: Any, batch: Sequence[RatedDocument]) -> tuple[Any, Any]:
    """Logits of both classes at every tag of the batch, and the labels: [tags, 2] and [tags]."""
    import torch

    length = max(len(document.ids) for document in batch)
    ids = torch.full((len(batch), length), token_id(END_OF_TEXT))
    at_tag = torch.zeros_like(ids, dtype=torch.bool)
    for row, document in enumerate(batch):
        ids[row, : len(document.ids)] = torch.tensor(document.ids)
        at_tag[row, document.tag_positions] = True
    hidden = model.model(input_ids=ids, use_cache=False).last_hidden_state
    labels = [label for document in batch for label in document.labels]
    return model.score(hidden[at_tag]), torch.tensor(labels, dtype=torch.long)


def rate(model: Any, documents: Sequence[RatedDocument], *, batch_size: int = 64) -> list[list[float]]:
    """The probability that each step is right, per document."""
    import torch

    scores: list[list[float]] = []
    with torch.inference_mode():
        for begin in range(0, len(documents), batch_size):
            batch = documents[begin : begin + batch_size]
            logits, _ = tag_logits(model, batch)
            right = iter(logits.float().softmax(-1)[:, RIGHT].tolist())
            scores += [[next(right) for _ in document.labels] for document in batch]
    return scores


def _batches(rng: random.Random, data: DataRecipe, recipe: FitRecipe) -> Iterator[list[RatedDocument]]:
    """Without end: every epoch's documents are new."""
    while True:
        documents = make_documents(rng, recipe.documents_per_epoch, data)
        yield from grouped(rng, documents, recipe.tokens_per_step, lambda document: len(document.ids))


def grouped(
    rng: random.Random,
    documents: Sequence[RatedDocument],
    tokens_per_step: int,
    length: Callable[[RatedDocument], int],
) -> list[list[RatedDocument]]:
    """Batches of about equally long documents, of at most ``tokens_per_step`` tokens with padding."""
    groups: list[list[RatedDocument]] = [[]]
    for document in sorted(documents, key=lambda document: length(document) + rng.random() * 8):
        longest = max([length(document), *map(length, groups[-1])])
        if groups[-1] and longest * (len(groups[-1]) + 1) > tokens_per_step:
            groups.append([])
        groups[-1].append(document)
    rng.shuffle(groups)
    return groups
