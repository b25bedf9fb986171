"""Ids beyond the tokenizer's vocabulary are masked in budgeted rows, wherever they stand."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from server.budget.spec import EffectiveBudget
from server.engine.edits import DeviceEdits, HostEdits
from server.engine.processor_v1 import BudgetForcing
from server.engine.rows import Choice
from tests.support.toy_markers import VOCABULARY, toy_markers


@pytest.mark.parametrize("rows", [(0, 2), (0, 1, 2, 3)])
@pytest.mark.parametrize("edits", [HostEdits, DeviceEdits])
@pytest.mark.parametrize("unknown", [frozenset(), frozenset({39}), frozenset({30, 31, 35, 38, 39})])
def test_unknown_ids_are_masked_in_budgeted_rows_only(
    unknown: frozenset[int], edits: type[DeviceEdits | HostEdits], rows: tuple[int, ...]
) -> None:
    ids = replace(toy_markers(), unknown=unknown, blank=toy_markers().blank - {39} | unknown)
    processor = object.__new__(BudgetForcing)
    processor._configure(
        ids,
        max_model_len=64,
        capacity=4,
        device=torch.device("cpu"),
        receipts=None,
        encode=lambda _: (),
    )
    processor._edits = HostEdits(ids) if edits is HostEdits else DeviceEdits(ids, torch.device("cpu"))
    budget = EffectiveBudget(max=30, min=0, num_waits=0, landing=0, clamped_by=())
    for row in rows:
        processor._batch.add(row, Choice(f"r{row}", budget, True, True, []))
    logits = processor.apply(torch.zeros((4, VOCABULARY)))
    for row in range(4):
        masked = set(torch.isneginf(logits[row]).nonzero().flatten().tolist())
        assert masked == (unknown if row in rows else set())
