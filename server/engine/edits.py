"""A plan carried out on logits: [rows, vocabulary], float32, edited in place."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import torch

from server.budget.machine import Mask, masked_ids
from server.budget.markers import MarkerIds
from server.engine import steps
from server.engine.rows import Plan, Rows


class HostEdits:
    """On a CPU, where compiled code writes into the tensor's memory at a fraction of an operator's cost."""

    def __init__(self, ids: MarkerIds) -> None:
        masked = _masked_ids(ids)
        tokens = [masked.get(mask, []) for mask in Mask]
        self._tokens = np.array([token for some in tokens for token in some], dtype=np.int64)
        self._begins = np.cumsum([0, *map(len, tokens)], dtype=np.int64)
        self._unknown = np.array(_runs(ids.unknown), dtype=np.int64).reshape(-1, 2)
        # Compiled now rather than in front of the first request.
        self._edit(np.empty((0, 1), dtype=np.float32), Plan.of(0))

    def apply(self, plan: Plan, logits: torch.Tensor) -> None:
        if plan.due or len(self._unknown):
            self._edit(logits.numpy(), plan)

    def _edit(self, values: npt.NDArray[np.float32], plan: Plan) -> None:
        steps.edit(
            values,
            plan.forced,
            plan.rows_by_mask,
            plan.counts,
            plan.budgeted_rows,
            self._tokens,
            self._begins,
            self._unknown,
        )


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
