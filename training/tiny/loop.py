"""The training loop of the base model: documents in, mean losses out."""

import math
import random
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

from training.tiny.documents import Document

OnStep = Callable[[int, float, int], None]
_FINAL_LEARNING_RATE = 0.05
_DECAY_FROM = 0.2
_IGNORED = -100


@dataclass(frozen=True, slots=True)
class Schedule:
    """Linear warm-up, then constant for a fifth of the run, then linear down to a twentieth."""

    steps: int
    warmup_steps: int

    def factor(self, step: int) -> float:
        warm = min(1.0, (step + 1) / self.warmup_steps)
        decayed = max(0.0, (step / self.steps - _DECAY_FROM) / (1 - _DECAY_FROM))
        return warm * (_FINAL_LEARNING_RATE + (1 - _FINAL_LEARNING_RATE) * (1 - decayed))


def batches(rng: random.Random, documents: list[Document], tokens_per_step: int) -> list[list[Document]]:
    """Batches of about equally long documents, of at most ``tokens_per_step`` tokens with padding."""
    grouped: list[list[Document]] = [[]]
    for document in sorted(documents, key=lambda document: len(document.ids) + rng.random() * 8):
        longest = max([len(document.ids), *(len(other.ids) for other in grouped[-1])])
        if grouped[-1] and longest * (len(grouped[-1]) + 1) > tokens_per_step:
            grouped.append([])
        grouped[-1].append(document)
    rng.shuffle(grouped)
    return grouped


def muon_and_adamw(model: Any, muon_rate: float, adamw_rate: float, weight_decay: float) -> list[Any]:
    """Muon for the matrices inside the blocks, AdamW for embeddings and norms."""
    import torch

    matrices = [
        weight for name, weight in model.named_parameters() if weight.ndim == 2 and "embed" not in name
    ]
    inside = {id(weight) for weight in matrices}
    others = [weight for weight in model.parameters() if id(weight) not in inside]
    return [
        torch.optim.Muon(
            matrices, lr=muon_rate, momentum=0.95, weight_decay=weight_decay, adjust_lr_fn="match_rms_adamw"
        ),
        torch.optim.AdamW(others, lr=adamw_rate, betas=(0.9, 0.98), weight_decay=0.0, fused=True),
    ]


def fit(
    model: Any,
    optimizers: list[Any],
    schedule: Schedule,
    stream: Iterator[list[Document]],
    pad_id: int,
    on_step: OnStep,
) -> list[float]:
    """Trains for ``schedule.steps`` batches of ``stream``; returns the loss of every step."""
    import torch

    peak_rates = [[group["lr"] for group in optimizer.param_groups] for optimizer in optimizers]
    losses: list[float] = []
    model.train()
    for step in range(schedule.steps):
        for optimizer, rates in zip(optimizers, peak_rates, strict=True):
            for group, rate in zip(optimizer.param_groups, rates, strict=True):
                group["lr"] = rate * schedule.factor(step)
        loss = _loss(model, next(stream), pad_id)
        model.zero_grad(set_to_none=True)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        for optimizer in optimizers:
            optimizer.step()
        losses.append(loss.item())
        if not math.isfinite(losses[-1]):
            raise FloatingPointError(f"the loss is {losses[-1]} at step {step}")
        on_step(step + 1, losses[-1], schedule.steps)
    return losses


def _loss(model: Any, batch: list[Document], pad_id: int) -> Any:
    """Mean cross entropy of the tokens that count; logits are made for those alone."""
    import torch

    length = max(len(document.ids) for document in batch)
    ids = torch.full((len(batch), length), pad_id)
    targets = torch.full((len(batch), length), _IGNORED)
    for row, document in enumerate(batch):
        tokens = torch.tensor(document.ids)
        ids[row, : len(tokens)] = tokens
        targets[row, : len(tokens)] = tokens.where(torch.tensor(document.counts), _IGNORED)
    wanted = targets[:, 1:].reshape(-1)
    counted = wanted != _IGNORED
    with torch.autocast("cpu", torch.bfloat16):
        hidden = model.model(input_ids=ids[:, :-1], use_cache=False).last_hidden_state
        logits = model.lm_head(hidden.reshape(-1, hidden.shape[-1])[counted])
    return torch.nn.functional.cross_entropy(logits.float(), wanted[counted])
