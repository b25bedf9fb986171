"""Budget forcing in vLLM's V1 runner: a logits processor that forces and masks, and edits sampled ids.

Loaded with `--logits-processors server.engine.processor_v1:BudgetForcing`. All decisions are in
`server.engine.forcing`; this module moves them onto tensors.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from vllm.sampling_params import SamplingParams
from vllm.v1.sample.logits_processor import BatchUpdate, LogitsProcessor, MoveDirectionality

from server.budget.markers import MarkerIds
from server.engine import sampler_hook
from server.engine.admission import RECEIPT_ID
from server.engine.edits import DeviceEdits, HostEdits
from server.engine.ended_by import EndedBy
from server.engine.forcing import ForcingBatch
from server.engine.plugin import encoder, marker_ids, open_receipts, resolve_budget, validate
from server.engine.receipts import ReceiptPublisher
from server.engine.rows import Choice
from server.engine.told import Told

_CHOICE = "s1_choice"
"""Key in a request's `extra_args` under which its state survives preemption."""


class BudgetForcing(LogitsProcessor):  # type: ignore[misc]
    """Enforces thinking budgets on the sampled ids of every budgeted row."""

    @classmethod
    def validate_params(cls, sampling_params: SamplingParams) -> None:
        """Refuse at admission what could not be honoured later.

        Raises:
            VLLMValidationError: answered by vLLM as a 400 naming the field.
        """
        validate(sampling_params)

    def __init__(self, vllm_config: Any, device: torch.device, is_pin_memory: bool) -> None:
        sampler_hook.install()
        if device.type == "cpu":
            sampler_hook.install_cpu_generator_rewind()
        model_config = vllm_config.model_config
        ids = marker_ids(model_config, model_config.get_vocab_size())
        self._configure(
            ids,
            max_model_len=model_config.max_model_len,
            capacity=vllm_config.scheduler_config.max_num_seqs,
            device=device,
            receipts=open_receipts(vllm_config, ids, processor="v1"),
            encode=encoder(model_config),
        )

    def _configure(
        self,
        ids: MarkerIds,
        *,
        max_model_len: int,
        capacity: int,
        device: torch.device,
        receipts: ReceiptPublisher | None,
        encode: Callable[[str], Sequence[int]],
    ) -> None:
        self._ids = ids
        self._encode = encode
        self._max_model_len = max_model_len
        self._batch = ForcingBatch(self._ids, capacity=capacity, max_model_len=max_model_len)
        self._edits = HostEdits(self._ids) if device.type == "cpu" else DeviceEdits(self._ids, device)
        self._told = Told()
        self._receipts = receipts

    def is_argmax_invariant(self) -> bool:
        return False

    def update_state(self, batch_update: BatchUpdate | None) -> None:
        if batch_update is None:
            return
        for row in batch_update.removed:
            self._remove(row)
        for row, params, prompt_token_ids, output_token_ids in batch_update.added:
            self._remove(row)
            self._add(row, params, prompt_token_ids or [], output_token_ids)
        for source, target, direction in batch_update.moved:
            swap = direction == MoveDirectionality.SWAP
            if not swap:
                self._remove(target)
            self._batch.move(source, target, swap=swap)

    def apply(self, logits: torch.Tensor) -> torch.Tensor:
        """Force and mask the rows that need it. `logits`: [rows, vocabulary], float32, edited in place."""
        if self._batch.idle:
            return logits
        self._batch.advance()
        self._edits.apply(self._batch.plan(), logits)
        return logits

    def post_sample(self, sampled: torch.Tensor) -> torch.Tensor:
        """Replace end attempts. `sampled`: [rows], token ids, edited in place."""
        if self._batch.idle:
            return sampled
        # On a CPU this is the tensor's own memory. On a device the runner is about to wait for these ids
        # anyway.
        on_host = sampled.cpu()
        if self._batch.replace(on_host.numpy()) and on_host is not sampled:
            sampled.copy_(on_host)
        return sampled

    def end_thinking(self, receipt_id: str, ended_by: EndedBy) -> bool | None:
        """See `worker_control.Controlled`."""
        thinking = self._batch.end_thinking(receipt_id, ended_by)
        if thinking is None:
            self._told.add(receipt_id, ended_by)
        return thinking

    def _add(self, row: int, params: SamplingParams, prompt: list[int], output: list[int]) -> None:
        arguments = params.extra_args
        if not arguments:
            return
        choice: Choice | None = arguments.get(_CHOICE)
        if choice is None:
            choice = self._new_choice(params, prompt, output)
            if choice is None:
                return
            arguments[_CHOICE] = choice
        choice.output = output
        self._batch.add(row, choice)
        if (ended_by := self._told.take(choice.receipt_id)) is not None:
            self._batch.tell(row, ended_by)

    def _new_choice(self, params: SamplingParams, prompt: list[int], output: list[int]) -> Choice | None:
        arguments = params.extra_args
        resolved = resolve_budget(
            params, prompt, self._ids, max_model_len=self._max_model_len, encode=self._encode
        )
        if resolved is None:
            return None
        effective, opened, answer_prompt = resolved
        return Choice(arguments.get(RECEIPT_ID, ""), effective, opened, answer_prompt, output)

    def _remove(self, row: int) -> None:
        choice = self._batch.remove(row)
        if choice is not None and choice.receipt_id and self._receipts is not None:
            self._receipts.publish(self._batch.receipt(choice))
