"""Settle what budget a request gets: what it asked for, what an effort means in this room, what the policy
leaves of it. Pure.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Self

from server.budget.effort import EffortTable, effort_tokens
from server.budget.policy import MAXIMUM, Applied, Caps, Policy, Rung, apply_policy
from server.budget.receipt import Origin
from server.budget.spec import BUDGET_FIELDS, MAX_TOKENS, BudgetError, ThinkingBudget, resolve
from server.gateway.chat.chat_call import ChatCall
from server.gateway.chat.chat_conflicts import check_beam_search
from server.gateway.engines.engine import EngineDescription

_UNKNOWN_ENGINE = EngineDescription(protocol=0, family="", enforces=(), minimum_room=1)


@dataclass(frozen=True, slots=True)
class Rungs:
    """The ladder as it stands for one model and key, and the model's efforts."""

    server: Rung
    model: Rung | None
    key: tuple[Rung, ...]
    efforts: EffortTable

    @classmethod
    def of(
        cls, policy: Policy, *, model: str, key: str | None = None, key_caps: Mapping[str, int] | None = None
    ) -> Self:
        """
        Args:
            key: the name of the request's API key.
            key_caps: caps that are kept with the key itself, beside those of the policy.
        """
        of_key = [policy.keys[key]] if key is not None and key in policy.keys else []
        if key_caps:
            of_key.append(Rung(cap=Caps(**key_caps)))
        return cls(policy.server, policy.models.get(model), tuple(of_key), policy.efforts(model))

    def caps(self) -> tuple[str, ...]:
        """The fields that some rung caps."""
        rungs = [rung for rung in (self.server, self.model, *self.key) if rung is not None]
        return tuple(name for rung in rungs for name in rung.cap.model_dump(exclude_none=True))

    def apply(
        self,
        budget: ThinkingBudget,
        *,
        lenient: frozenset[str],
        unlimited: bool = False,
        named: Mapping[str, str] | None = None,
    ) -> Applied:
        return apply_policy(
            budget,
            server=self.server,
            model=self.model,
            key=self.key,
            unlimited=unlimited,
            lenient=lenient,
            named=named,
        )


def settle(call: ChatCall, rungs: Rungs, description: EngineDescription | None) -> ChatCall:
    """`call` with the budget that is to be enforced, and where it came from.

    Args:
        description: of the engine that is to answer; None before one is chosen. Which fields the budget has
            does not depend on it, only what an effort means.

    Raises:
        BudgetError: the policy is strict and the request is beyond it.
        InvalidRequest: the policy sets a budget on a beam search.
    """
    asked, budget = call.asked, call.asked.budget
    engine = description or _UNKNOWN_ENGINE
    lenient: frozenset[str] = frozenset()
    if asked.effort is not None and asked.effort_sets_maximum:
        # The answer's reserve may be the policy's, too.
        policys = rungs.apply(budget, lenient=frozenset(BUDGET_FIELDS)).budget
        room, fits = _room(call, _with_fitting_reserve(call, policys, engine), engine)
        maximum = effort_tokens(asked.effort, rungs.efforts, room=room, fits=fits)
        budget, lenient = replace(budget, max_thinking_tokens=maximum), frozenset({MAXIMUM})
    applied = rungs.apply(budget, lenient=lenient, unlimited=asked.unlimited, named=asked.requested_as)
    if not budget.is_set and _needs_no_forcing(call, applied.budget, description):
        return call
    if applied.budget.is_set:
        check_beam_search(call.fields, applied.budget)
    if budget is not asked.budget:
        # An effort is asked for in tokens, too, once it is known how many.
        origin = Origin(budget.requested(), asked.requested_as, continues=call.origin.continues)
        call = replace(call, origin=origin)
    return call.limited(_with_fitting_reserve(call, applied.budget, engine), by=applied.clamped_by)


def budget_headers(call: ChatCall) -> Mapping[str, str]:
    """The budget as it is known before generation; the room may lower it further, as the receipt says."""
    budget = call.budget
    if not budget.is_set:
        return {}
    known = {
        "x-thinking-budget-max": budget.max_thinking_tokens,
        "x-thinking-budget-min": budget.min_thinking_tokens or 0,
        "x-thinking-budget-num-waits": budget.num_waits or 0,
        "x-thinking-budget-clamped-by": ", ".join(call.origin.clamped_by) or None,
    }
    return {name: str(value) for name, value in known.items() if value is not None}


def _with_fitting_reserve(
    call: ChatCall, budget: ThinkingBudget, description: EngineDescription
) -> ThinkingBudget:
    """`budget` without a reserve that is the policy's and more than the client's completion tokens hold."""
    reserve = budget.answer_reserve_tokens
    if reserve is None or call.room is None or call.asked.budget.answer_reserve_tokens is not None:
        return budget
    if reserve <= call.room[1] - description.minimum_room + 1:
        return budget
    return replace(budget, answer_reserve_tokens=None)


def _room(call: ChatCall, budget: ThinkingBudget, description: EngineDescription) -> tuple[int, int]:
    """Completion tokens that an effort is a share of, and the thinking tokens that fit them.

    Only the engine knows the prompt's length; it lowers what the context doesn't hold.
    """
    context = description.max_model_len or MAX_TOKENS
    room = min(call.room[1] if call.room is not None else context, context)
    try:
        fitted = resolve(
            ThinkingBudget(answer_reserve_tokens=budget.answer_reserve_tokens),
            room=room,
            limited_by="max_completion_tokens",
            opening_tokens=0,
            exit_tokens=description.minimum_room - 1,
        )
    except BudgetError:
        # Too little for any budget, which whoever knows the answer's form refuses.
        return room, 0
    return room, fitted.max


def _needs_no_forcing(call: ChatCall, imposed: ThinkingBudget, description: EngineDescription | None) -> bool:
    """Whether the policy's limits can be left to the room: it is too small for a budget, and for more than
    the policy's maximum. A client that asked for no budget gets no error for the policy's sake.
    """
    if call.room is None or description is None:
        return False
    _, room = call.room
    maximum = imposed.max_thinking_tokens
    return room < description.minimum_room and (maximum is None or room <= maximum)
