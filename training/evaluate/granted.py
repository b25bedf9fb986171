"""What of a budget was granted, as the receipts of its samples say: a room or a policy can lower it."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from training.evaluate.methods.rejection import REJECTED, RejectionSampling
from training.evaluate.samples import Sample


@dataclass(frozen=True, slots=True)
class Clamps:
    """How many samples did not get the budget that their setting asks for; `by` counts what lowered it."""

    num_samples: int
    num_clamped: int
    by: Mapping[str, int]

    def __str__(self) -> str:
        reasons = ", ".join(f"{name} {count:,}" for name, count in self.by.items())
        return f"{self.num_clamped:,} of {self.num_samples:,} samples (by {reasons})"

    @property
    def warning(self) -> str | None:
        """A sentence for people; None where all was granted."""
        if not self.num_clamped:
            return None
        return f"{self} had their budget lowered: what was measured is less than what their settings ask for"


def clamps_of(samples: Iterable[Sample]) -> Clamps:
    reasons = [_clamped_by(sample) for sample in samples]
    by = Counter(reason for found in reasons for reason in found)
    return Clamps(len(reasons), sum(map(bool, reasons)), dict(sorted(by.items())))


def together(clamps: Iterable[Clamps]) -> Clamps:
    every = list(clamps)
    by = sum((Counter(one.by) for one in every), Counter[str]())
    return Clamps(sum(one.num_samples for one in every), sum(one.num_clamped for one in every), by)


def granted_maximum(sample: Sample, asked: float) -> float:
    """The most thinking tokens that all branches may have had together, where `asked` were asked for."""
    width = json.loads(sample.parameters).get("width", 1)
    lowered = [
        width * receipt["effective"]["max"]
        for receipt in _receipts(sample)
        if receipt.get("clamped_by") and isinstance(receipt.get("effective"), dict)
    ]
    return float(min([asked, *lowered]))


def accepted_tokens(sample: Sample) -> float | None:
    """Thinking tokens of the try that rejection sampling took; None where it took none, or nothing says."""
    if sample.method != RejectionSampling().name or sample.finish_reason in (None, REJECTED):
        return None
    if sample.num_requests == 1:
        return float(sample.thinking_tokens)
    receipts = _receipts(sample)
    return float(receipts[-1]["thinking_tokens"]) if len(receipts) == sample.num_requests else None


def _clamped_by(sample: Sample) -> frozenset[str]:
    return frozenset(reason for receipt in _receipts(sample) for reason in receipt.get("clamped_by") or ())


def _receipts(sample: Sample) -> list[dict[str, Any]]:
    receipts: list[dict[str, Any]] = json.loads(sample.receipts)
    return receipts
