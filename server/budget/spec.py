"""A thinking budget: the request's fields, their limits, and what is left of them in a given room.

The meaning of every field is stated in docs/budget.md; rule numbers below refer to it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

MAX_TOKENS = 16_777_216
"""Upper limit of every token field: more than any context, small enough for int32 state."""
MAX_WAITS = 1024
DEFAULT_ANSWER_RESERVE_TOKENS = 512

RoomLimit = Literal["max_completion_tokens", "context"]
EndedBy = Literal["model", "max_thinking_tokens", "length", "stop", "request"]

BUDGET_LIMITS: dict[str, tuple[int, int]] = {
    "max_thinking_tokens": (0, MAX_TOKENS),
    "min_thinking_tokens": (0, MAX_TOKENS),
    "num_waits": (0, MAX_WAITS),
    "answer_reserve_tokens": (1, MAX_TOKENS),
    "landing_tokens": (0, MAX_TOKENS),
}
BUDGET_FIELDS = tuple(BUDGET_LIMITS)


class BudgetError(ValueError):
    """A budget that cannot be honoured. `param` names the field, `value` is what was given."""

    def __init__(self, param: str, message: str, value: object = None) -> None:
        super().__init__(message)
        self.param = param
        self.value = value


@dataclass(frozen=True, slots=True)
class ThinkingBudget:
    """The budget fields of one request, validated; None means absent. Units: tokens, and a count of waits."""

    max_thinking_tokens: int | None = None
    min_thinking_tokens: int | None = None
    num_waits: int | None = None
    answer_reserve_tokens: int | None = None
    landing_tokens: int | None = None

    @classmethod
    def from_fields(cls, fields: Mapping[str, Any]) -> ThinkingBudget:
        """Read the budget fields of `fields`; other keys are left alone.

        Raises:
            BudgetError: a field is not an integer, is outside its limits, or contradicts another.
        """
        budget = cls(**{name: _checked_int(name, fields.get(name)) for name in BUDGET_FIELDS})
        budget._check_agreement()
        return budget

    @property
    def is_set(self) -> bool:
        """Whether any field was given: rule 8 leaves a request without one unforced."""
        return any(getattr(self, name) is not None for name in BUDGET_FIELDS)

    def requested(self) -> dict[str, int]:
        """The fields that were given, as receipts and the engine's `vllm_xargs` carry them."""
        given = {name: getattr(self, name) for name in BUDGET_FIELDS}
        return {name: value for name, value in given.items() if value is not None}

    def _check_agreement(self) -> None:
        maximum = self.max_thinking_tokens
        if maximum is None:
            return
        for name in ("min_thinking_tokens", "landing_tokens"):
            value = getattr(self, name)
            if value is not None and value > maximum:
                raise BudgetError(
                    name, f"`{name}` must be <= max_thinking_tokens ({maximum}). Given: {value}", value
                )


def _checked_int(name: str, value: object) -> int | None:
    if value is None:
        return None
    low, high = BUDGET_LIMITS[name]
    if isinstance(value, bool) or not isinstance(value, int):
        raise BudgetError(name, f"`{name}` must be an integer from {low} to {high}. Given: {value!r}", value)
    if value < low:
        raise BudgetError(name, f"`{name}` must be >= {low}. Given: {value}", value)
    if value > high:
        raise BudgetError(name, f"`{name}` must be <= {high}. Given: {value}", value)
    return value


@dataclass(frozen=True, slots=True)
class EffectiveBudget:
    """What the engine enforces: limits that fit the room, and which limit lowered them."""

    max: int
    min: int
    num_waits: int
    landing: int
    clamped_by: tuple[RoomLimit, ...]


def minimum_room(*, opening_tokens: int, exit_tokens: int) -> int:
    """Fewest completion tokens in which a budgeted request has a non-empty answer.

    Args:
        opening_tokens: length of the start marker if it must be forced, else 0.
        exit_tokens: length of the end marker plus the answer prompt.
    """
    return opening_tokens + exit_tokens + 1


def resolve(
    budget: ThinkingBudget, *, room: int, limited_by: RoomLimit, opening_tokens: int, exit_tokens: int
) -> EffectiveBudget:
    """Fit `budget` into `room` completion tokens (rule 5, the answer reserve).

    Raises:
        BudgetError: the room is too small for markers and one answer token, or for the asked reserve.
    """
    needed = minimum_room(opening_tokens=opening_tokens, exit_tokens=exit_tokens)
    if room < needed:
        raise BudgetError(
            "max_completion_tokens",
            f"`max_completion_tokens` must be >= {needed} with a thinking budget: the markers and one "
            f"answer token need as much. Given: {room} (asked for, or left by the prompt in the context)",
            room,
        )
    cap = max(0, room - opening_tokens - exit_tokens - _reserve(budget, room, needed))
    asked_max, asked_min = budget.max_thinking_tokens, budget.min_thinking_tokens or 0
    maximum = cap if asked_max is None else min(asked_max, cap)
    clamped = (asked_max is not None and asked_max > cap) or asked_min > maximum
    return EffectiveBudget(
        max=maximum,
        min=min(asked_min, maximum),
        num_waits=budget.num_waits or 0,
        landing=min(budget.landing_tokens or 0, maximum),
        clamped_by=(limited_by,) if clamped else (),
    )


def _reserve(budget: ThinkingBudget, room: int, needed: int) -> int:
    asked = budget.answer_reserve_tokens
    if asked is None:
        return max(1, min(DEFAULT_ANSWER_RESERVE_TOKENS, room // 4))
    largest = room - needed + 1
    if asked > largest:
        raise BudgetError(
            "answer_reserve_tokens",
            f"`answer_reserve_tokens` must be <= {largest}, what markers leave of {room} completion tokens. "
            f"Given: {asked}",
            asked,
        )
    return asked
