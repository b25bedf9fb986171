"""Prove, with a few tokens through the real wire, that an engine does what its description says."""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import orjson

from server.budget.families import NO_FAMILY
from server.budget.receipt import receipt
from server.budget.spec import BUDGET_FIELDS, ThinkingBudget, minimum_room
from server.gateway.chat.chat_call import EngineCall
from server.gateway.engines.engine import PROTOCOL, Enforcement, Engine, EngineDescription, RoundsSupport
from server.gateway.errors import EngineMisbehaved, EngineRefused, ReceiptMissing
from server.gateway.rounds.completions import RoundsUnavailable
from server.gateway.rounds.vocabulary import learn_markers

_QUESTION = "What is 2 + 3?"
_ANSWER_TOKENS = 4


@dataclass(frozen=True, slots=True)
class Verdict:
    enforcement: Enforcement
    reason: str = ""
    rounds: RoundsSupport | None = None


@dataclass(frozen=True, slots=True)
class _Check:
    budget: ThinkingBudget
    holds: Callable[[dict[str, Any]], bool]


_CHECKS = (
    _Check(ThinkingBudget(max_thinking_tokens=2), lambda got: got["thinking_tokens"] <= 2),
    _Check(
        # A model that thinks longer of itself shows nothing about the minimum; this one length it must hit.
        ThinkingBudget(max_thinking_tokens=16, min_thinking_tokens=16),
        lambda got: got["thinking_tokens"] == 16,
    ),
    _Check(
        ThinkingBudget(max_thinking_tokens=24, num_waits=1),
        # Only a thinking that is still going on at its maximum has had no occasion to wait.
        lambda got: got["waits"] == 1 or got["ended_by"] == "max_thinking_tokens",
    ),
)


async def probe(engine: Engine, model: str, description: EngineDescription | None) -> Verdict:
    """Whether `engine` enforces budgets.

    Raises:
        EngineDied, TimeoutError, or EngineRefused with a status of 5xx or 429: nothing is known yet.
    """
    told = engine.settings.family_options
    if told.off:
        return Verdict("none", f"the gateway was started with --family {NO_FAMILY}: without thinking budgets")
    if description is None:
        return await _probe_rounds(engine, model)
    if description.protocol != PROTOCOL:
        return Verdict(
            "none", f"the engine's protocol is {description.protocol}, this gateway's is {PROTOCOL}"
        )
    for name, text in told.given.items():
        if text != (own := getattr(description, name)):
            return Verdict("none", f"the engine's {name} is {own!r}, the gateway is told {text!r}")
    for check in _CHECKS:
        async with asyncio.timeout(engine.settings.probe_timeout_s):
            failure = await _failure(engine, model, description, check)
        if failure:
            return Verdict("none", failure)
    return Verdict("native")


async def _probe_rounds(engine: Engine, model: str) -> Verdict:
    """What the gateway can do by itself before an engine without our plugin."""
    try:
        async with asyncio.timeout(engine.settings.probe_timeout_s):
            learnt = await learn_markers(engine, model, engine.settings.family_options)
    except RoundsUnavailable as error:
        reason = f"the engine runs without the s1 plugin, and the gateway can't force it in rounds: {error}"
        return Verdict("none", reason)
    ids, make = learnt.ids, learnt.dialect.make
    description = EngineDescription(
        protocol=PROTOCOL,
        family=ids.family.name,
        enforces=BUDGET_FIELDS,
        minimum_room=minimum_room(opening_tokens=len(ids.start), exit_tokens=ids.exit_tokens()),
        max_model_len=learnt.max_model_len,
    )
    reason = f"the engine runs without the s1 plugin: the gateway forces it in rounds over {make}'s API"
    return Verdict("rounds", reason, RoundsSupport(ids, description, learnt.dialect))


async def _failure(engine: Engine, model: str, description: EngineDescription, check: _Check) -> str | None:
    requested = check.budget.requested()
    if not requested.keys() <= set(description.enforces):
        return None
    call = _call(model, description, check.budget)
    try:
        usage = (await engine.complete(call))["usage"]
        recorded = await engine.receipt(call, usage["completion_tokens"])
    except EngineRefused as error:
        if error.status >= 500 or error.status == 429:
            raise
        return f"probe {requested} was refused: {error}"
    except (ReceiptMissing, EngineMisbehaved) as error:
        return f"probe {requested}: {error}"
    except (KeyError, TypeError) as error:
        return f"probe {requested}: the engine's usage can't be read: {error!r}"
    got = receipt(check.budget, recorded, delivered_tokens=usage["completion_tokens"], finish_reason="length")
    counted = (usage.get("completion_tokens_details") or {}).get("reasoning_tokens")
    if counted != got["thinking_tokens"]:
        return (
            f"probe {requested}: usage counts {counted} thinking tokens, the receipt {got['thinking_tokens']}"
        )
    return None if check.holds(got) else f"probe {requested} was not honoured: {got}"


def _call(model: str, description: EngineDescription, budget: ThinkingBudget) -> EngineCall:
    receipt_id = f"probe-{uuid.uuid4().hex}"
    room = description.minimum_room + (budget.max_thinking_tokens or 0) + _ANSWER_TOKENS
    body = {
        "model": model,
        "messages": [{"role": "user", "content": _QUESTION}],
        "max_completion_tokens": room,
        "temperature": 0,
        "include_reasoning": True,
        "vllm_xargs": {**budget.requested(), "answer_reserve_tokens": 1, "receipt_id": receipt_id},
    }
    return EngineCall(
        index=0, body=orjson.dumps(body), request_id=receipt_id, receipt_id=receipt_id, budget=budget
    )
