"""What our processors for vLLM's two runners share: admission, the marker ids, the receipts' way out."""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

from vllm.exceptions import VLLMValidationError
from vllm.sampling_params import SamplingParams
from vllm.tokenizers import cached_get_tokenizer, cached_tokenizer_from_config

from server.budget.markers import MarkerIds, wait_ids
from server.budget.spec import BudgetError, EffectiveBudget
from server.engine.admission import budget_of, check_extra_args, effective_budget, forces_answer_prompt
from server.engine.checkpoint import checkpoint_of
from server.engine.config import engine_marker_ids, receipts_address, run_dir
from server.engine.receipts import EngineInfo, ReceiptPublisher, admission_info
from server.engine.worker_control import may_be_told


def validate(params: SamplingParams) -> None:
    """Refuse at admission what could not be honoured later.

    Raises:
        VLLMValidationError: answered by vLLM as a 400 naming the field.
    """
    try:
        _check_request(params)
    except BudgetError as error:
        raise VLLMValidationError(str(error), parameter=error.param, value=error.value) from error


def resolve_budget(
    params: SamplingParams,
    prompt: Sequence[int],
    ids: MarkerIds,
    *,
    max_model_len: int,
    encode: Callable[[str], Sequence[int]],
) -> tuple[EffectiveBudget, bool, bool] | None:
    """What to enforce, whether the prompt has opened thinking, and whether to force the answer prompt.

    None without a budget.

    Args:
        encode: the model's tokenizer, for wait texts; see `encoder`.
    """
    budget = budget_of(params.extra_args)
    if budget is None:
        return None
    opened = ids.opened(prompt)
    structured = params.structured_outputs is not None
    answer_prompt = forces_answer_prompt(params.extra_args, structured=structured)
    try:
        effective = effective_budget(
            budget,
            max_tokens=params.max_tokens,
            prompt_tokens=len(prompt),
            max_model_len=max_model_len,
            opening_tokens=0 if opened else len(ids.start),
            exit_tokens=ids.exit_tokens(answer_prompt=answer_prompt),
        )
        if budget.wait_text is not None:
            own = wait_ids(budget.wait_text, encode, reserved=ids.reserved, think_end=ids.family.think_end)
            effective = replace(effective, wait_ids=own)
        # A grammar says where it ends: an end in place of a marker would be what it rejects.
        effective = replace(effective, min_output=max_model_len if structured else params.min_tokens)
    except BudgetError:
        # Admission refuses this; an engine without our run directory can't check there, and raising
        # here would kill it. No thinking at all keeps every maximum.
        effective = EffectiveBudget(max=0, min=0, num_waits=0, landing=0, clamped_by=("context",))
    return effective, opened, answer_prompt


def marker_ids(model_config: Any, vocab_size: int) -> MarkerIds:
    eos = model_config.try_get_generation_config().get("eos_token_id")
    return engine_marker_ids(
        model=model_config.model,
        tokenizer=cached_tokenizer_from_config(model_config),
        vocab_size=vocab_size,
        eos=[] if eos is None else [eos] if isinstance(eos, int) else list(eos),
    )


def encoder(model_config: Any) -> Callable[[str], Sequence[int]]:
    """The model's tokenizer, adding no special tokens."""
    return functools.partial(_encode, cached_tokenizer_from_config(model_config))


def _encode(tokenizer: Any, text: str) -> Sequence[int]:
    token_ids: Sequence[int] = tokenizer.encode(text, add_special_tokens=False)
    return token_ids


def open_receipts(vllm_config: Any, ids: MarkerIds, *, processor: str) -> ReceiptPublisher | None:
    """The feed of the one worker that speaks for its replica: the first tensor rank of the last stage."""
    directory, parallel = run_dir(), vllm_config.parallel_config
    stage, rank_in_stage = divmod(parallel.rank, stage_size(parallel))
    if directory is None or stage != parallel.pipeline_parallel_size - 1 or rank_in_stage:
        return None
    model_config = vllm_config.model_config
    info = EngineInfo.of(
        ids,
        processor=processor,
        max_model_len=model_config.max_model_len,
        tokenizer={
            "tokenizer_name": model_config.tokenizer,
            "runner_type": model_config.runner_type,
            "tokenizer_mode": model_config.tokenizer_mode,
            "revision": model_config.tokenizer_revision,
            "trust_remote_code": model_config.trust_remote_code,
        },
        may_be_told=may_be_told(parallel),
        checkpoint=checkpoint_of(model_config.model, model_config.revision),
    )
    return ReceiptPublisher(directory, info, replica=replica_of(parallel), address=receipts_address())


def stage_size(parallel: Any) -> int:
    """Ranks of one pipeline stage; vLLM numbers them stage by stage."""
    return int(parallel.tensor_parallel_size * parallel.prefill_context_parallel_size)


def replica_of(parallel: Any) -> int:
    """Which data-parallel replica: a dense model's have the rank 0 each, since they never speak together."""
    return int(parallel.data_parallel_index)


def _check_request(params: SamplingParams) -> None:
    budget = budget_of(params.extra_args)
    if budget is None:
        return
    check_extra_args(params.extra_args)
    for name in ("thinking_token_budget", "trace_decode_token_ids"):
        value = getattr(params, name)
        if value is not None:
            reason = "name one maximum" if name == "thinking_token_budget" else "leave it out"
            raise BudgetError(
                name,
                f"`{name}` can't be combined with `{next(iter(budget.requested()))}`: {reason}. "
                f"Given: {value}",
                value,
            )
    info = admission_info(run_dir())
    if info is None:
        return
    if budget.wait_text is not None:
        tokenizer = cached_get_tokenizer(**info.tokenizer)
        reserved = frozenset(info.reserved_tokens)
        wait_ids(
            budget.wait_text,
            functools.partial(_encode, tokenizer),
            reserved=reserved,
            think_end=info.think_end,
        )
    if params.max_tokens is None:
        return
    answer_prompt = forces_answer_prompt(params.extra_args, structured=params.structured_outputs is not None)
    exit_tokens = info.end_tokens + (info.answer_prompt_tokens if answer_prompt else 0)
    effective_budget(
        budget,
        max_tokens=params.max_tokens,
        prompt_tokens=0,
        max_model_len=info.max_model_len,
        opening_tokens=info.start_tokens,
        exit_tokens=exit_tokens,
    )
