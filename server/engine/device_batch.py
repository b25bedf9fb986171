"""The budget state of all request slots on the device, and the launches of `server.engine.kernels`.

Nothing here waits for the device: slots are filled by staged copies, and what leaves a slot is copied out on
the same stream. Nothing here knows vLLM.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from server.budget.markers import MarkerIds
from server.budget.receipt import EngineReceipt
from server.budget.spec import EffectiveBudget
from server.engine import kernels
from server.engine.ended_by import EndedBy
from server.engine.launches import Launches, aligned
from server.engine.state import (
    PERIODS,
    WAIT_ROW,
    Column,
    Demand,
    Phase,
    class_table,
    first_state,
    no_budget,
    positions,
    receipt_of,
    script_table,
    words,
)

_VOCABULARY_BLOCK = 2048
_WORD_BLOCK = 1024


@dataclass(frozen=True, slots=True)
class SlotChoice:
    """What the host knows of the choice in a slot; it does not change while the choice runs."""

    receipt_id: str
    budget: EffectiveBudget
    opened: bool
    answer_prompt: bool
    prompt_tokens: int


@dataclass(frozen=True, slots=True)
class Snapshot:
    """State of some choices as they left their slots, on the device or on its way to the host."""

    choices: tuple[SlotChoice, ...]
    state: torch.Tensor
    """[choices, columns]"""
    wait_bits: torch.Tensor
    """[choices, words]: bit p of the row is set where a wait text begins at output position p."""

    def of(self, index: int) -> Snapshot:
        """One choice of it, as a copy that does not hold on to the others."""
        rows = slice(index, index + 1)
        return Snapshot(self.choices[rows], self.state[rows].clone(), self.wait_bits[rows].clone())

    def to_host(self) -> Snapshot:
        """Start the copies to pinned memory; they are complete when the stream has come this far."""
        return Snapshot(
            self.choices,
            self.state.to("cpu", non_blocking=True),
            self.wait_bits.to("cpu", non_blocking=True),
        )


class DeviceBatch:
    """Budget state for `slots` requests. Methods enqueue work on the current stream and return."""

    def __init__(
        self,
        ids: MarkerIds,
        *,
        slots: int,
        max_rows: int,
        vocab_size: int,
        max_model_len: int,
        device: torch.device,
    ) -> None:
        """
        Args:
            max_rows: most rows of logits in one step: slots times one more than the drafts of a request.
        """
        self.ids = ids
        self.device = device
        self.choices: dict[int, SlotChoice] = {}
        self.occupied: npt.NDArray[np.bool_] = np.zeros(slots, dtype=np.bool_)
        """[slots], on the host: whether there is a budget in the slot."""
        self._vocab_size = vocab_size
        self._words = words(max_model_len)
        self._state = torch.zeros((slots, len(Column)), dtype=torch.int32, device=device)
        self._state[:, Column.MAX] = -1
        self._bits = torch.zeros((slots, self._words), dtype=torch.int32, device=device)
        self._runs = torch.zeros((slots, PERIODS), dtype=torch.int32, device=device)
        self._wait_rows = torch.zeros((slots, WAIT_ROW), dtype=torch.int32, device=device)
        self._plan = torch.zeros((max_rows, len(Demand)), dtype=torch.int32, device=device)
        scripts, lengths = (torch.from_numpy(table).to(device) for table in script_table(ids))
        self._scripts, self._lengths = scripts, lengths
        self._classes = torch.from_numpy(class_table(ids, vocab_size)).to(device)
        self._known_tokens = min(ids.unknown, default=vocab_size)
        self._staged: dict[int, list[int]] = {}
        """New rows: the state's columns, then the wait texts'."""
        self._parked: dict[int, Snapshot] = {}
        self._advance_slots = Launches(kernels.advance, False, _WORD_BLOCK, num_warps=1)
        self._resume_slots = Launches(kernels.advance, True, _WORD_BLOCK, num_warps=1)
        self._plan_rows = Launches(kernels.plan_rows, ids.family.marker_ends_answer, num_warps=1)
        self._edit_logits = Launches(kernels.edit_logits, _VOCABULARY_BLOCK)
        self._post = Launches(kernels.post, False, num_warps=1)
        self._post_verified = Launches(kernels.post, True, num_warps=1)

    def warm_up(self, tokens: torch.Tensor, total_len: torch.Tensor) -> None:
        """Compile the kernels now, on no request, rather than in front of the first one."""
        nobody = torch.full((1,), -1, dtype=torch.int64, device=self.device)
        zeros = torch.zeros(2, dtype=torch.int32, device=self.device)
        self._advance(nobody, tokens, total_len, parked=(self._state[:1], self._bits[:1]))
        for ids_dtype in (torch.int32, torch.int64):
            self.decide(
                torch.zeros((1, self._vocab_size), dtype=torch.float32, device=self.device),
                slots=nobody,
                row_slots=nobody,
                row_places=zeros[:1],
                input_ids=zeros[:1].to(ids_dtype),
                tokens=tokens,
                total_len=total_len,
            )
            sampled = zeros[:1].view(1, 1).to(ids_dtype)
            self.replace(sampled, nobody)
            self.replace(sampled, nobody, num_sampled=zeros[:1].clone(), row_starts=zeros)

    # -- slots are filled and left --------------------------------------------------------------------

    def vacate(self, slot: int) -> None:
        """A request without a budget, or one that is not known yet, takes the slot."""
        if self.occupied[slot]:
            self.occupied[slot] = False
            self._staged[slot] = no_budget()
        self.choices.pop(slot, None)
        self._parked.pop(slot, None)

    def occupy(self, slot: int, choice: SlotChoice, parked: Snapshot | None = None) -> None:
        """Put a new choice, or one that was preempted with the state `parked`, into `slot`."""
        self.choices[slot] = choice
        self.occupied[slot] = True
        self._staged[slot] = first_state(
            self.ids,
            choice.budget,
            opened=choice.opened,
            answer_prompt=choice.answer_prompt,
            prompt_tokens=choice.prompt_tokens,
        )
        self._parked.pop(slot, None)
        if parked is not None:
            self._parked[slot] = parked

    def flush(self, tokens: torch.Tensor, total_len: torch.Tensor) -> None:
        """Move what was staged to the device. `tokens` and `total_len` already hold the new requests'."""
        if not self._staged:
            return
        slots = _to_device(list(self._staged), torch.int64, self.device)
        staged = _to_device(list(self._staged.values()), torch.int32, self.device)
        self._state[slots] = staged[:, : len(Column)]
        self._wait_rows[slots] = staged[:, len(Column) :]
        self._runs.index_fill_(0, slots, 0)
        self._bits.index_fill_(0, slots, 0)
        self._staged.clear()
        if self._parked:
            resumed = _to_device(list(self._parked), torch.int64, self.device)
            state = torch.cat([parked.state for parked in self._parked.values()])
            bits = torch.cat([parked.wait_bits for parked in self._parked.values()])
            self._advance(resumed, tokens, total_len, parked=(state, bits))
            self._parked.clear()

    def leave(self, slots: list[int], tokens: torch.Tensor, total_len: torch.Tensor) -> Snapshot:
        """Commit the last tokens of these slots and copy their state out; they are free then."""
        rows = _to_device(slots, torch.int64, self.device)
        self._advance(rows, tokens, total_len)
        choices = tuple(self.choices[slot] for slot in slots)
        for slot in slots:
            self.vacate(slot)
        return Snapshot(choices, self._state.index_select(0, rows), self._bits.index_select(0, rows))

    # -- rule 10 --------------------------------------------------------------------------------------

    def slot_of(self, receipt_id: str) -> int | None:
        return next((slot for slot, choice in self.choices.items() if choice.receipt_id == receipt_id), None)

    def end_thinking(
        self, slot: int, ended_by: EndedBy, tokens: torch.Tensor, total_len: torch.Tensor
    ) -> None:
        """Leave the thinking in `slot` after the next token; the first word counts.

        What vLLM has appended is committed first: it was said before the word came, all of it.
        """
        self._advance(_to_device([slot], torch.int64, self.device), tokens, total_len)
        row = self._state[slot]
        untold = row[Column.TOLD_AT] < 0
        row[Column.TOLD_BY] = torch.where(untold, int(ended_by), row[Column.TOLD_BY])
        row[Column.TOLD_AT] = torch.where(untold, row[Column.SEEN] + 1, row[Column.TOLD_AT])

    def thinking(self, slot: int) -> bool:
        """As of the last tokens that were committed. Waits for the device."""
        row = self._state[slot].tolist()
        return bool(row[Column.PHASE] == Phase.THINKING and row[Column.END] < 0)

    # -- one decoding step ----------------------------------------------------------------------------

    def decide(
        self,
        logits: torch.Tensor,
        *,
        slots: torch.Tensor,
        row_slots: torch.Tensor,
        row_places: torch.Tensor,
        input_ids: torch.Tensor,
        tokens: torch.Tensor,
        total_len: torch.Tensor,
    ) -> None:
        """Commit the last step's tokens, then force and mask the rows of `logits` in place.

        Args:
            logits: [rows, vocabulary], float32.
            slots: [requests], int64.
            row_slots, row_places: [rows]: each row's slot, and its place among its request's rows.
            input_ids: [rows]: the token at each row's input: a draft token at places > 0.
        """
        self._advance(slots, tokens, total_len)
        rows, vocabulary = logits.shape
        self._plan_rows(
            (rows, 1, 1),
            self._plan,
            row_slots,
            row_places,
            input_ids,
            self._state,
            self._runs,
            self._wait_rows,
            tokens,
            tokens.stride(0),
            self._scripts,
            self._scripts.stride(0),
            self._lengths,
            self._classes,
            self._vocab_size,
            self.ids.end[0],
            kind=(row_slots.dtype, row_places.dtype, input_ids.dtype, tokens.dtype, aligned(tokens)),
        )
        self._edit_logits(
            (rows, -(-vocabulary // _VOCABULARY_BLOCK), 1),
            logits,
            logits.stride(0),
            self._plan,
            self._classes,
            min(vocabulary, self._vocab_size),
            self._known_tokens,
            kind=(logits.dtype, aligned(logits)),
        )

    def replace(
        self,
        sampled: torch.Tensor,
        slots: torch.Tensor,
        *,
        num_sampled: torch.Tensor | None = None,
        row_starts: torch.Tensor | None = None,
    ) -> None:
        """Edit the sampled ids of the rows last decided, in place.

        Args:
            sampled: [requests, places].
            num_sampled: [requests], under speculative decoding; lowered where a changed token ends the step.
            row_starts: [requests + 1], with `num_sampled`: the first row of each request.
        """
        if num_sampled is None or row_starts is None:
            post, num_sampled, row_starts = self._post, self._state, self._state
        else:
            post = self._post_verified
        post(
            (slots.shape[0], 1, 1),
            sampled,
            sampled.stride(0),
            num_sampled,
            row_starts,
            slots,
            self._state,
            self._plan,
            self._classes,
            self._vocab_size,
            self.ids.eos_token,
            kind=(sampled.dtype, num_sampled.dtype, row_starts.dtype, slots.dtype),
        )

    def _advance(
        self,
        slots: torch.Tensor,
        tokens: torch.Tensor,
        total_len: torch.Tensor,
        *,
        parked: tuple[torch.Tensor, torch.Tensor] | None = None,
    ) -> None:
        state, bits = parked if parked is not None else (self._state, self._bits)
        launch = self._advance_slots if parked is None else self._resume_slots
        outside = (tokens, total_len, state, bits)
        launch(
            (slots.shape[0], 1, 1),
            slots,
            self._state,
            self._bits,
            self._runs,
            self._wait_rows,
            tokens,
            tokens.stride(0),
            total_len,
            self._lengths,
            self._classes,
            state,
            bits,
            self._words,
            self._vocab_size,
            kind=(slots.dtype, *((tensor.dtype, aligned(tensor)) for tensor in outside)),
        )


def receipts_of(snapshot: Snapshot) -> list[EngineReceipt]:
    """The receipts of a snapshot that has arrived on the host."""
    rows = zip(snapshot.choices, snapshot.state.numpy(), snapshot.wait_bits.numpy(), strict=True)
    return [
        receipt_of(state, positions(bits), choice.receipt_id, choice.budget) for choice, state, bits in rows
    ]


def _to_device(values: list[Any], dtype: torch.dtype, device: torch.device) -> torch.Tensor:
    """A copy that the host does not wait for."""
    pinned = device.type == "cuda"
    return torch.tensor(values, dtype=dtype, pin_memory=pinned).to(device, non_blocking=True)
