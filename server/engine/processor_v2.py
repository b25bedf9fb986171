"""Budget forcing in vLLM's Model Runner V2: all state and all decisions on the device.

Loaded with `--logits-processors server.engine.processor_v2:BudgetForcing`. The rules are in
`server.engine.kernels`; this module tells them which request stands in which slot. It never waits for the
device, so asynchronous scheduling and speculative decoding stay as fast as they are.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from vllm.sampling_params import SamplingParams
from vllm.v1.worker.gpu.sample.logits_processor.interface import LogitsProcessor

from server.engine.admission import RECEIPT_ID, budget_of
from server.engine.ended_by import EndedBy
from server.engine.plugin import encoder, marker_ids, open_receipts, resolve_budget, validate
from server.engine.selection import require_v2_support
from server.engine.told import Told
from server.engine.v2_limits import check_limits


class BudgetForcing(LogitsProcessor):  # type: ignore[misc]
    """Enforces thinking budgets on the sampled ids of every budgeted slot."""

    @classmethod
    def validate_params(cls, sampling_params: SamplingParams) -> None:
        """Refuse at admission what could not be honoured later.

        Raises:
            VLLMValidationError: answered by vLLM as a 400 naming the field.
        """
        validate(sampling_params)
        check_limits(sampling_params)

    def __init__(self, vllm_config: Any, req_states: Any) -> None:
        # API server processes load this module, too; only a worker needs kernels and hooks.
        from server.engine import sampler_hook_v2
        from server.engine.outbox import Outbox

        require_v2_support(vllm_config)
        sampler_hook_v2.install()
        ids = marker_ids(vllm_config.model_config, req_states.vocab_size)
        publisher = open_receipts(vllm_config, ids, processor="v2")
        self._configure(
            ids,
            req_states,
            max_model_len=vllm_config.model_config.max_model_len,
            drafts=vllm_config.num_speculative_tokens,
            outbox=None if publisher is None else Outbox(publisher.publish, prepare=_use(req_states.device)),
            encode=encoder(vllm_config.model_config),
        )

    def _configure(
        self,
        ids: Any,
        req_states: Any,
        *,
        max_model_len: int,
        drafts: int,
        outbox: Any,
        encode: Callable[[str], Sequence[int]],
    ) -> None:
        from server.engine.device_batch import DeviceBatch, Snapshot

        self._ids = ids
        self._encode = encode
        self._req_states = req_states
        self._max_model_len = max_model_len
        self._outbox = outbox
        self._preempted: dict[str, Snapshot] = {}
        self._told = Told()
        self._batch = DeviceBatch(
            ids,
            slots=req_states.max_num_reqs,
            max_rows=req_states.max_num_reqs * (drafts + 1),
            vocab_size=req_states.vocab_size,
            max_model_len=max_model_len,
            device=req_states.device,
        )
        self._batch.warm_up(req_states.all_token_ids.gpu, req_states.total_len.gpu)

    # -- vLLM's interface -----------------------------------------------------------------------------

    def add_request(self, req_idx: int, sampling_params: SamplingParams) -> bool:
        """Empty the slot; `requests_arrive` fills it, which is told the prompt and the request's name."""
        self._batch.vacate(req_idx)
        return budget_of(sampling_params.extra_args) is not None

    def apply(self, logits: torch.Tensor, ctx: Any) -> torch.Tensor:
        if self._batch.occupied[ctx.idx_mapping_np].any():
            self._batch.decide(
                logits,
                slots=ctx.idx_mapping,
                row_slots=ctx.expanded_idx_mapping,
                row_places=ctx.expanded_local_pos,
                input_ids=ctx.input_ids,
                tokens=self._req_states.all_token_ids.gpu,
                total_len=self._req_states.total_len.gpu,
            )
        return logits

    # -- the hook's -----------------------------------------------------------------------------------

    def post_sample(self, sampled: torch.Tensor, slots: torch.Tensor, slots_np: Any) -> None:
        """See `sampler_hook_v2.SlotProcessor`. The same test as in `apply`: its plan is this step's."""
        if self._batch.occupied[slots_np].any():
            self._batch.replace(sampled.view(-1, 1), slots)

    def post_verify(
        self,
        sampled: torch.Tensor,
        num_sampled: torch.Tensor,
        row_starts: torch.Tensor,
        slots: torch.Tensor,
        slots_np: Any,
    ) -> None:
        if self._batch.occupied[slots_np].any():
            self._batch.replace(sampled, slots, num_sampled=num_sampled, row_starts=row_starts)

    def requests_leave(self, slot_of: dict[str, int], *, finished: set[str], preempted: set[str]) -> None:
        for name in finished:
            self._preempted.pop(name, None)  # aborted while it waited to be resumed
        names = [
            name
            for name in sorted(finished | preempted)
            if name in slot_of and self._batch.occupied[slot_of[name]]
        ]
        if not names:
            return
        snapshot = self._batch.leave(
            [slot_of[name] for name in names],
            self._req_states.all_token_ids.gpu,
            self._req_states.total_len.gpu,
        )
        for i, name in enumerate(names):
            if name in preempted:
                self._preempted[name] = snapshot.of(i)
        if self._outbox is not None:
            self._outbox.put(snapshot.to_host(), _event_on(self._req_states.device))

    def requests_arrive(self, slot_of: dict[str, int], requests: list[Any]) -> None:
        for request in requests:
            if request.sampling_params is not None:
                self._arrive(slot_of[request.req_id], request)
        self._batch.flush(self._req_states.all_token_ids.gpu, self._req_states.total_len.gpu)
        for request in requests:
            choice = self._batch.choices.get(slot_of[request.req_id])
            told = None if choice is None else self._told.take(choice.receipt_id)
            if told is not None:
                self._end_thinking(slot_of[request.req_id], told)

    # -- the worker's ---------------------------------------------------------------------------------

    def end_thinking(self, receipt_id: str, ended_by: EndedBy) -> bool | None:
        """See `worker_control.Controlled`. Waits for the device: nobody does this at every step."""
        slot = self._batch.slot_of(receipt_id)
        if slot is None:
            self._told.add(receipt_id, ended_by)
            return None
        self._end_thinking(slot, ended_by)
        return self._batch.thinking(slot)

    def _end_thinking(self, slot: int, ended_by: EndedBy) -> None:
        states = self._req_states
        self._batch.end_thinking(slot, ended_by, states.all_token_ids.gpu, states.total_len.gpu)

    def _arrive(self, slot: int, request: Any) -> None:
        from server.engine.device_batch import SlotChoice

        params: SamplingParams = request.sampling_params
        parked = self._preempted.pop(request.req_id, None)
        if parked is not None:
            self._batch.occupy(slot, parked.choices[0], parked)
            return
        prompt = request.prefill_token_ids[: request.prompt_len]
        resolved = resolve_budget(
            params, prompt, self._ids, max_model_len=self._max_model_len, encode=self._encode
        )
        if resolved is None:
            return
        effective, opened, answer_prompt = resolved
        receipt_id = (params.extra_args or {}).get(RECEIPT_ID, "")
        self._batch.occupy(slot, SlotChoice(receipt_id, effective, opened, answer_prompt, len(prompt)))


def _use(device: torch.device) -> Callable[[], None]:
    """Waiting for an event makes the current device's context: a thread begins with the first GPU's."""

    def use() -> None:
        if device.type == "cuda":
            torch.cuda.set_device(device)

    return use


def _event_on(device: torch.device) -> Any:
    """An event after all that was enqueued so far; waiting for it yields the processor."""
    if device.type != "cuda":
        return None
    event = torch.cuda.Event(blocking=True)  # type: ignore[no-untyped-call]
    event.record()
    return event
