"""Receipts: what became of a budget, from what the engine alone knows and what was delivered.

The engine records *positions* in the output rather than totals: a stop string is found after the engine
has run a token or two further, and only what the client received may be counted.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

from server.budget.spec import EndedBy, ThinkingBudget


@dataclass(frozen=True, slots=True)
class EngineReceipt:
    """One choice as the engine's sampler saw it. Positions index the choice's output token ids."""

    receipt_id: str
    effective_min: int
    effective_max: int
    effective_num_waits: int
    clamped_by: tuple[str, ...]
    output_tokens: int
    """Tokens generated when this was recorded; at least as many as were delivered."""
    thinking_begin: int
    """Index of the first thinking token: the length of a forced start marker, else 0."""
    thinking_end: int | None
    """Index one past the last thinking token; None while thinking."""
    answer_begin: int | None
    """Index of the first token after end marker and answer prompt; None before it."""
    wait_positions: tuple[int, ...]
    """Index of the first token of each injected wait text."""
    ended_by: str | None
    """"model", "max_thinking_tokens", "loop", "request" or "time" once thinking ended, else None."""

    def to_json(self) -> dict[str, Any]:
        return asdict(self)

    @classmethod
    def from_json(cls, fields: Mapping[str, Any]) -> EngineReceipt:
        """What an engine of a later version tells beyond this is left out. A field that is added here needs a
        default: engines of an earlier version don't tell it.

        Raises:
            KeyError, TypeError: it is no receipt, or a field is missing.
        """
        tuples = {name: tuple(fields[name]) for name in ("clamped_by", "wait_positions")}
        known = {name: value for name, value in fields.items() if name in cls.__dataclass_fields__}
        return cls(**{**known, **tuples})


@dataclass(frozen=True, slots=True)
class Origin:
    """Where a choice's budget came from."""

    requested: Mapping[str, Any] = field(default_factory=dict)
    """The budget fields that the client gave, under our names."""
    requested_as: Mapping[str, str] = field(default_factory=dict)
    """The client's own name of a field, where it is another."""
    clamped_by: tuple[str, ...] = ()
    """What changed the budget that was asked for, before the engine's room did: rungs of the policy."""
    continues: Mapping[str, Any] | None = None
    """The completion whose thinking goes on here: its id, its thinking tokens and waits up to there."""

    def told(self, receipt: dict[str, Any]) -> dict[str, Any]:
        """An enforced budget's receipt, with what the client asked for and what the policy made of it."""
        # What the client didn't ask for was not taken from it.
        by_room = receipt["clamped_by"] if self.requested.keys() & _FITTED_FIELDS else []
        told: dict[str, Any] = {"requested": dict(self.requested), "clamped_by": [*self.clamped_by, *by_room]}
        if self.requested_as:
            told["requested_as"] = dict(self.requested_as)
        if self.continues is not None:
            told["continues"] = dict(self.continues)
        return receipt | told


_FITTED_FIELDS = frozenset({"max_thinking_tokens", "min_thinking_tokens"})
"""Fields that the room can lower."""


@dataclass(frozen=True, slots=True)
class TokenCounts:
    """A choice's completion tokens by kind; they add up to its completion tokens. EOS counts as answer."""

    thinking: int
    marker: int
    answer: int


def count_tokens(engine: EngineReceipt, delivered_tokens: int) -> TokenCounts:
    """Split the first `delivered_tokens` output tokens by kind."""
    begin = min(engine.thinking_begin, delivered_tokens)
    end = _clip(engine.thinking_end, delivered_tokens)
    answer_begin = _clip(engine.answer_begin, delivered_tokens)
    return TokenCounts(
        thinking=max(0, end - begin),
        marker=begin + (answer_begin - end),
        answer=delivered_tokens - answer_begin,
    )


def receipt(
    budget: ThinkingBudget, engine: EngineReceipt, *, delivered_tokens: int, finish_reason: str | None
) -> dict[str, Any]:
    """The `thinking_budget` object of a choice that had a budget.

    Args:
        delivered_tokens: completion tokens of this choice, as its usage counts them.
        finish_reason: the choice's own; says why thinking ended if nothing in the engine ended it.
    """
    counts = count_tokens(engine, delivered_tokens)
    ended = engine.thinking_end is not None and engine.thinking_end <= delivered_tokens
    return {
        "requested": budget.requested(),
        "effective": {
            "min": engine.effective_min,
            "max": engine.effective_max,
            "num_waits": engine.effective_num_waits,
        },
        "thinking_tokens": counts.thinking,
        "answer_tokens": counts.answer,
        "marker_tokens": counts.marker,
        "waits": sum(position < delivered_tokens for position in engine.wait_positions),
        "ended_by": engine.ended_by if ended else ended_by_finish(finish_reason),
        "clamped_by": list(engine.clamped_by),
    }


def positions(engine: EngineReceipt, *, delivered_tokens: int) -> dict[str, Any]:
    """Where the parts of a choice are: indices into its output token ids, as delivered.

    Forced waits and ends can't be told from text; with these a client that has the ids can show them exactly.
    Ends are exclusive, and the number of delivered tokens where the choice ended before.
    """
    return {
        "thinking_begin": min(engine.thinking_begin, delivered_tokens),
        "thinking_end": _clip(engine.thinking_end, delivered_tokens),
        "answer_begin": _clip(engine.answer_begin, delivered_tokens),
        "waits": [position for position in engine.wait_positions if position < delivered_tokens],
    }


def unbudgeted_receipt(
    *, thinking_tokens: int, has_answer: bool, finish_reason: str | None, stopped: bool = False
) -> dict[str, Any]:
    """The `thinking_budget` object of a choice without a budget: counted, not enforced.

    Args:
        stopped: whether a stop string or token of the client's ended the choice, and not the model's own EOS.
    """
    by_model = has_answer or (finish_reason == "stop" and not stopped)
    ended: EndedBy | None = "model" if by_model else ended_by_finish(finish_reason)
    return {
        "requested": {},
        "effective": None,
        "thinking_tokens": thinking_tokens,
        "waits": 0,
        "ended_by": ended,
        "clamped_by": [],
    }


def ended_by_finish(finish_reason: str | None) -> EndedBy | None:
    """Why thinking ended when the whole choice ended inside it."""
    if finish_reason == "length":
        return "length"
    return "stop" if finish_reason is not None else None


def _clip(position: int | None, delivered_tokens: int) -> int:
    return delivered_tokens if position is None else min(position, delivered_tokens)
