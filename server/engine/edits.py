"""A plan carried out on logits: [rows, vocabulary], float32, edited in place."""

from __future__ import annotations

import numpy as np
import torch

from server.budget.machine import Mask, masked_ids
from server.budget.markers import MarkerIds
from server.engine.rows import Plan, Rows


class HostEdits:
    """On a CPU, where numpy writes into the tensor's memory at a fraction of an operator's cost."""

    def __init__(self, ids: MarkerIds) -> None:
        self._masked_ids = {mask: np.array(tokens) for mask, tokens in _masked_ids(ids).items()}
        self._unknown = _runs(ids.unknown)

    def apply(self, plan: Plan, logits: torch.Tensor) -> None:
        if not (plan.masked or plan.forced_rows.size or self._unknown):
            return
        values = logits.numpy()
        for mask, rows in plan.masked:
            values[rows[:, None], self._masked_ids[mask]] = -np.inf
        for begin, end in self._unknown:
            values[_all_or(plan.budgeted_rows, len(values)), begin:end] = -np.inf
        if plan.forced_rows.size:
            values[plan.forced_rows] = -np.inf
            values[plan.forced_rows, plan.forced_tokens] = 0.0


class DeviceEdits:
    def __init__(self, ids: MarkerIds, device: torch.device) -> None:
        self._device = device
        self._masked_ids = {
            mask: torch.tensor(tokens, dtype=torch.long, device=device)
            for mask, tokens in _masked_ids(ids).items()
        }
        self._unknown = _runs(ids.unknown)

    def apply(self, plan: Plan, logits: torch.Tensor) -> None:
        for mask, masked_rows in plan.masked:
            rows = torch.from_numpy(masked_rows).to(self._device)
            logits[rows.unsqueeze(1), self._masked_ids[mask]] = -torch.inf
        if self._unknown:
            self._mask_unknown(plan.budgeted_rows, logits)
        if plan.forced_rows.size:
            rows = torch.from_numpy(plan.forced_rows).to(self._device)
            tokens = torch.from_numpy(plan.forced_tokens).to(self._device)
            logits[rows] = -torch.inf
            logits[rows, tokens] = 0.0

    def _mask_unknown(self, budgeted: Rows, logits: torch.Tensor) -> None:
        if len(budgeted) == len(logits):
            for begin, end in self._unknown:
                logits[:, begin:end] = -torch.inf
            return
        rows = torch.from_numpy(budgeted).to(self._device)
        for begin, end in self._unknown:
            logits[:, begin:end].index_fill_(0, rows, -torch.inf)


def _all_or(rows: Rows, count: int) -> Rows | slice:
    """A slice is one stretch of memory a row, and no copy of row numbers."""
    return slice(None) if len(rows) == count else rows


def _masked_ids(ids: MarkerIds) -> dict[Mask, list[int]]:
    return {mask: sorted(masked_ids(ids, mask)) for mask in Mask if mask is not Mask.NONE}


def _runs(ids: frozenset[int]) -> tuple[tuple[int, int], ...]:
    """Begin and end of every run of neighbouring ids: padding is one run, and one stretch of memory a row."""
    runs: list[tuple[int, int]] = []
    for token_id in sorted(ids):
        if runs and runs[-1][1] == token_id:
            runs[-1] = (runs[-1][0], token_id + 1)
        else:
            runs.append((token_id, token_id + 1))
    return tuple(runs)
