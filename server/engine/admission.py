"""A request's budget as it arrives in vLLM: read from `extra_args`, checked before the engine sees it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from server.budget.spec import (
    BudgetError,
    EffectiveBudget,
    RoomLimit,
    ThinkingBudget,
    resolve,
)

RECEIPT_ID = "receipt_id"
ANSWER_PROMPT = "answer_prompt"


def budget_of(extra_args: Mapping[str, Any] | None) -> ThinkingBudget | None:
    """The request's budget; None if it has no budget field.

    Raises:
        BudgetError: a field is malformed.
    """
    if not extra_args:
        return None
    budget = ThinkingBudget.from_fields(extra_args)
    return budget if budget.is_set else None


def forces_answer_prompt(extra_args: Mapping[str, Any], *, structured: bool) -> bool:
    """Whether an early exit ends with the family's answer prompt: not where a grammar or tools follow."""
    return not structured and bool(extra_args.get(ANSWER_PROMPT, 1))


def check_extra_args(extra_args: Mapping[str, Any]) -> None:
    """Refuse malformed companions of a budget.

    Raises:
        BudgetError: naming the field.
    """
    receipt_id = extra_args.get(RECEIPT_ID)
    if receipt_id is not None and not isinstance(receipt_id, str):
        raise BudgetError(RECEIPT_ID, f"`{RECEIPT_ID}` must be a string. Given: {receipt_id!r}", receipt_id)
    prompt = extra_args.get(ANSWER_PROMPT)
    if prompt not in (None, 0, 1):
        raise BudgetError(ANSWER_PROMPT, f"`{ANSWER_PROMPT}` must be 0 or 1. Given: {prompt!r}", prompt)


def effective_budget(
    budget: ThinkingBudget,
    *,
    max_tokens: int,
    prompt_tokens: int,
    max_model_len: int,
    opening_tokens: int,
    exit_tokens: int,
) -> EffectiveBudget:
    """Fit the budget into what `max_tokens` and the context leave."""
    context_room = max_model_len - prompt_tokens
    limited_by: RoomLimit = "context" if max_tokens >= context_room else "max_completion_tokens"
    return resolve(
        budget,
        room=min(max_tokens, context_room),
        limited_by=limited_by,
        opening_tokens=opening_tokens,
        exit_tokens=exit_tokens,
    )
