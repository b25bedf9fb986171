"""From the engine's record of a choice to the receipt the client gets, and the usage that agrees with it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from server.budget.receipt import positions, receipt, unbudgeted_receipt
from server.gateway.chat.chat_call import EngineCall
from server.gateway.errors import EngineDied, EngineMisbehaved
from server.gateway.observe.observed_engine import ObservedEngine

if TYPE_CHECKING:
    from server.gateway.engines.engine import ChatEngine


@dataclass(frozen=True, slots=True)
class Finish:
    """How a choice ended, as the engine's HTTP API tells it."""

    finish_reason: str | None
    stop_reason: int | str | None
    has_answer: bool
    """Whether any content or tool call was delivered."""


async def receipt_for(
    engine: ChatEngine, call: EngineCall, finish: Finish, usage: Mapping[str, Any]
) -> dict[str, Any] | None:
    """The `thinking_budget` object of a choice; None if nothing counted the thinking (no budget was asked).

    Args:
        usage: of this engine call.

    Raises:
        ReceiptMissing: the choice had a budget and the engine has no record of it.
        EngineDied: vLLM gave the choice up, as it does while it stops, and answered as if that were an end.
    """
    if finish.finish_reason == "abort":
        raise EngineDied("the engine gave the generation up before its end; the request can be repeated")
    told = await _receipt_for(engine, call, finish, usage)
    if isinstance(engine, ObservedEngine):
        engine.seen.settled(call, finish, usage, told)
    return told


async def _receipt_for(
    engine: ChatEngine, call: EngineCall, finish: Finish, usage: Mapping[str, Any]
) -> dict[str, Any] | None:
    try:
        delivered = int(usage["completion_tokens"])
        if call.receipt_id is not None:
            recorded = await engine.receipt(call, delivered)
            enforced = receipt(
                call.budget, recorded, delivered_tokens=delivered, finish_reason=finish.finish_reason
            )
            if call.returns_ids:
                enforced["positions"] = positions(recorded, delivered_tokens=delivered)
            return call.origin.told(enforced)
        return _uncounted_or_unbudgeted(call, finish, usage)
    except (KeyError, TypeError, ValueError) as error:
        raise EngineMisbehaved(f"the engine's usage can't be read: {error!r}") from error


def reasoning_details(text: str | None) -> list[dict[str, Any]]:
    """Thinking as OpenRouter's clients read it."""
    return [{"type": "reasoning.text", "text": text, "format": "unknown", "index": 0}] if text else []


def merged_usage(
    usages: Sequence[Mapping[str, Any]], receipts: Sequence[dict[str, Any] | None]
) -> dict[str, Any]:
    """One usage of several engine calls for one prompt: the prompt counts once."""
    merged = dict(usages[0])
    completion_tokens = sum(usage["completion_tokens"] for usage in usages)
    merged["completion_tokens"] = completion_tokens
    merged["total_tokens"] = merged["prompt_tokens"] + completion_tokens
    counted = [found["thinking_tokens"] for found in receipts if found is not None]
    if counted and len(counted) == len(receipts):
        details = merged.get("completion_tokens_details") or {}
        merged["completion_tokens_details"] = details | {"reasoning_tokens": sum(counted)}
    return merged


def _uncounted_or_unbudgeted(
    call: EngineCall, finish: Finish, usage: Mapping[str, Any]
) -> dict[str, Any] | None:
    details = usage.get("completion_tokens_details")
    # A beam search's usage is of all its choices together.
    if details is None or call.index is None:
        return None
    return unbudgeted_receipt(
        thinking_tokens=details["reasoning_tokens"],
        has_answer=finish.has_answer,
        finish_reason=finish.finish_reason,
        stopped=_is_clients_stop(finish, call),
    )


def _is_clients_stop(finish: Finish, call: EngineCall) -> bool:
    """vLLM tells an id, too, of a model's second and third end-of-sequence tokens."""
    if isinstance(finish.stop_reason, int):
        return not finish.has_answer and finish.stop_reason in (call.fields.get("stop_token_ids") or ())
    return finish.stop_reason is not None
