"""A request's reservation against its key's quotas: what it asks for, and what a refusal says. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

from server.budget.spec import ThinkingBudget
from server.gateway.access.callers import Caller, within_maximum
from server.gateway.access.keys import Quotas
from server.gateway.access.ledger import CONCURRENCY, DAY_S, MINUTE_S, Ask, Outcome, Window, WindowState
from server.gateway.access.rates import Standing, retry_after
from server.gateway.engines.demand import Demand
from server.gateway.errors import QuotaExceeded

THINKING, TOTAL = "thinking", "total"
_LEAST_PER_CHOICE = 256
"""With fewer thinking tokens left than this, a request that names no maximum of its own has to wait."""
_SOON_S = 5
"""When to try again if other requests of the key are under way: they may give back what they don't use."""
_WORDS = {
    "tokens_per_minute": "tokens per minute",
    "thinking_tokens_per_minute": "thinking tokens per minute",
    "thinking_tokens_per_day": "thinking tokens per day",
}


@dataclass(frozen=True, slots=True)
class Wish:
    """What a request wants of its key's quotas."""

    asks: tuple[Ask, ...]
    named_maximum: bool
    """Whether the client named a maximum: then it gets that or nothing."""
    choices: int

    @classmethod
    def of(cls, demand: Demand, budget: ThinkingBudget, quotas: Quotas, *, named_maximum: bool) -> Wish:
        asks = (
            _thinking_ask(demand, budget, quotas, named_maximum),
            _total_ask(demand, quotas),
        )
        return cls(tuple(ask for ask in asks if ask is not None), named_maximum, demand.choices)

    @classmethod
    def of_prompt(cls, tokens: int, quotas: Quotas) -> Wish:
        """Of what is neither thought nor answered."""
        windows = _windows(("tokens_per_minute", MINUTE_S, quotas.tokens_per_minute))
        return cls((Ask(TOTAL, tokens, tokens, 1, windows),) if windows else (), True, 1)

    def check_possible(self, caller: Caller) -> None:
        """
        Raises:
            QuotaExceeded: the whole quota is not enough; trying again won't help.
        """
        for ask in self.asks:
            window = min(ask.windows, key=lambda window: window.limit)
            if min(ask.want, ask.least) > window.limit:
                raise QuotaExceeded(
                    f"the key '{caller.name}' may use {window.limit} {_WORDS[window.name]}; "
                    f"this request may use up to {ask.want}",
                    code="request_too_large",
                    headers={"x-should-retry": "false"},
                )

    def granted(self, budget: ThinkingBudget, outcome: Outcome, *, thinking_off: bool) -> ThinkingBudget:
        """`budget` within the part of the thinking tokens that was left."""
        ask = next((ask for ask in self.asks if ask.resource == THINKING), None)
        if ask is None or outcome.amounts[THINKING] >= ask.want:
            return budget
        # A budget would open the thinking that the request turns off.
        most = 0 if thinking_off and not budget.is_set else outcome.amounts[THINKING] // self.choices
        return within_maximum(replace(budget, max_thinking_tokens=most))


def _thinking_ask(demand: Demand, budget: ThinkingBudget, quotas: Quotas, named_maximum: bool) -> Ask | None:
    windows = _windows(
        ("thinking_tokens_per_minute", MINUTE_S, quotas.thinking_tokens_per_minute),
        ("thinking_tokens_per_day", DAY_S, quotas.thinking_tokens_per_day),
    )
    if not windows:
        return None
    choices, per_choice = demand.choices, demand.thinking(budget)
    limit = min(window.limit for window in windows)
    want = limit if per_choice is None else per_choice * choices
    if named_maximum:
        return Ask(THINKING, want, want, choices, windows)
    least = choices * max(_LEAST_PER_CHOICE, budget.min_thinking_tokens or 0)
    return Ask(THINKING, want, min(want, least, limit - limit % choices), choices, windows)


def _total_ask(demand: Demand, quotas: Quotas) -> Ask | None:
    windows = _windows(("tokens_per_minute", MINUTE_S, quotas.tokens_per_minute))
    if not windows:
        return None
    limit = windows[0].limit
    want = limit if demand.total is None else demand.total
    if demand.asked is not None:
        return Ask(TOTAL, want, want, 1, windows)
    # Its worst case is the whole context, which hardly any request uses; the end charges what it did.
    return Ask(TOTAL, want, min(want, demand.prompt + _LEAST_PER_CHOICE * demand.choices), 1, windows)


def _windows(*given: tuple[str, int, int | None]) -> tuple[Window, ...]:
    return tuple(Window(name, period_s, limit) for name, period_s, limit in given if limit is not None)


def quota_headers(outcome: Outcome) -> dict[str, str]:
    """Of two windows of thinking tokens the one that has less left is told."""
    headers: dict[str, str] = {}
    by_kind: dict[str, list[WindowState]] = {}
    for state in outcome.states:
        kind = "tokens" if state.window.name == "tokens_per_minute" else "thinking-tokens"
        by_kind.setdefault(kind, []).append(state)
    for kind, states in by_kind.items():
        headers |= Standing.of(kind, min(states, key=lambda state: state.remaining)).headers()
    return headers


def refusal(caller: Caller, wish: Wish, outcome: Outcome) -> QuotaExceeded:
    headers: Mapping[str, str] = quota_headers(outcome)
    name = str(outcome.refused_by)
    if name == CONCURRENCY:
        return QuotaExceeded(
            f"the key '{caller.name}' may have {caller.quotas.concurrency} requests under way, and has",
            code="concurrency_exceeded",
            headers={**headers, **retry_after(1)},
        )
    state = outcome.state(name)
    wanted = next(ask.want for ask in wish.asks if state.window in ask.windows)
    wait_s = state.resets_in_s if not outcome.under_way else min(_SOON_S, state.resets_in_s)
    return QuotaExceeded(
        f"the key '{caller.name}' may use {state.window.limit} {_WORDS[name]} and has {state.remaining} "
        f"left; this request may use up to {wanted}",
        headers={**headers, **retry_after(wait_s)},
    )
