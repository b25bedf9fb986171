"""What a request's budget becomes, given the rungs that hold for it: the key's among them."""

from __future__ import annotations

from typing import Any

import pytest

from server.budget.policy import Policy
from server.budget.spec import BudgetError, ThinkingBudget
from server.gateway.chat.chat_call import ChatCall, parse_chat
from server.gateway.chat.settle import Rungs, budget_headers, settle
from server.gateway.engines.engine import EngineDescription

POLICY = Policy.model_validate(
    {
        "server": {"cap": {"max_thinking_tokens": 100}},
        "keys": {"ci": {"strict": True, "default": {"num_waits": 1}, "cap": {"max_thinking_tokens": 50}}},
    }
)
ENGINE = EngineDescription(protocol=1, family="s1", enforces=(), minimum_room=10, max_model_len=1000)


def settled(key: str | None, caps: dict[str, int] | None = None, **fields: Any) -> ChatCall:
    call = parse_chat({"messages": [{"role": "user", "content": "x"}], **fields})
    return settle(call, Rungs.of(POLICY, model="m", key=key, key_caps=caps), ENGINE)


def test_a_keys_rung_comes_from_the_policy_by_its_name() -> None:
    assert settled("ci").budget == ThinkingBudget(max_thinking_tokens=50, num_waits=1)
    for key in (None, "other"):
        assert settled(key).budget == ThinkingBudget(max_thinking_tokens=100)
    with pytest.raises(BudgetError, match=r"must be <= 50, the policy's limit for this key \(policy:key\)"):
        settled("ci", max_thinking_tokens=60)


def test_caps_kept_with_the_key_hold_too() -> None:
    call = settled("other", {"max_thinking_tokens": 30}, reasoning={"max_tokens": 60})
    assert call.budget.max_thinking_tokens == 30
    assert call.origin.clamped_by == ("policy:key",)
    assert call.origin.requested == {"max_thinking_tokens": 60}
    assert settled("ci", {"max_thinking_tokens": 70}).budget.max_thinking_tokens == 50
    assert settled("ci", {"max_thinking_tokens": 30}).budget.max_thinking_tokens == 30


def test_further_limits_are_named_after_the_policys() -> None:
    call = settled("other", {"max_thinking_tokens": 30}, max_thinking_tokens=60)
    lowered = call.limited(ThinkingBudget(max_thinking_tokens=20), by=("load",))
    assert lowered.origin.clamped_by == ("policy:key", "load")
    assert lowered.origin.requested == {"max_thinking_tokens": 60}
    assert budget_headers(lowered)["x-thinking-budget-clamped-by"] == "policy:key, load"
    assert budget_headers(lowered)["x-thinking-budget-max"] == "20"


def test_fields_do_not_depend_on_the_engine() -> None:
    """So that an engine can be chosen before an effort is turned into tokens."""
    call = parse_chat({"messages": [{"role": "user", "content": "x"}], "reasoning_effort": "low"})
    rungs = Rungs.of(Policy(), model="m")
    before, after = settle(call, rungs, None), settle(call, rungs, ENGINE)
    assert before.budget.requested().keys() == after.budget.requested().keys()
    assert after.budget.max_thinking_tokens == 200
