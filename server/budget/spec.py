"""A thinking budget: the request's fields, their limits, and what is left of them in a given room.

The meaning of every field is stated in docs/budget.md; rule numbers below refer to it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from operator import attrgetter
from typing import Any, Literal

from server.budget.shown import show

MAX_TOKENS = 16_777_216
"""Upper limit of every token field: more than any context, small enough for int32 state."""
MAX_WAITS = 1024
DEFAULT_ANSWER_RESERVE_TOKENS = 512
MIN_LOOP_GUARD_TOKENS = 8
MAX_LOOP_GUARD_TOKENS = 1024
LOOP_REPEATS = 4
"""A loop: the last `loop_guard_tokens` thinking tokens are one sequence, at least so many times over."""
MAX_THINKING_MS = 86_400_000
"""A day: more than anybody waits for a thought."""
MAX_WAIT_TEXTS = 8
MAX_WAIT_CHARACTERS = 200
MAX_WAIT_TOKENS = 16
"""Of one wait text, as the model's tokenizer sees it."""

RoomLimit = Literal["max_completion_tokens", "context"]
EndedBy = Literal["model", "max_thinking_tokens", "loop", "length", "stop", "request", "time"]

TIME_LIMIT = "max_thinking_ms"
BUDGET_LIMITS: dict[str, tuple[int, int]] = {
    "max_thinking_tokens": (0, MAX_TOKENS),
    "min_thinking_tokens": (0, MAX_TOKENS),
    "num_waits": (0, MAX_WAITS),
    "answer_reserve_tokens": (1, MAX_TOKENS),
    "landing_tokens": (0, MAX_TOKENS),
    "loop_guard_tokens": (0, MAX_LOOP_GUARD_TOKENS),
    TIME_LIMIT: (1, MAX_THINKING_MS),
}
WAIT_TEXT = "wait_text"
BUDGET_FIELDS = (*BUDGET_LIMITS, WAIT_TEXT)
_values = attrgetter(*BUDGET_FIELDS)
_NAMES = frozenset(BUDGET_FIELDS)
_NONE_GIVEN = (None,) * len(BUDGET_FIELDS)


class BudgetError(ValueError):
    """A budget that cannot be honoured. `param` names the field, `value` is what was given."""

    def __init__(self, param: str, message: str, value: object = None) -> None:
        super().__init__(message)
        self.param = param
        self.value = value


@dataclass(frozen=True, slots=True)
class ThinkingBudget:
    """The budget fields of one request, validated; None means absent. Units: tokens, a count of waits, ms."""

    max_thinking_tokens: int | None = None
    min_thinking_tokens: int | None = None
    num_waits: int | None = None
    answer_reserve_tokens: int | None = None
    landing_tokens: int | None = None
    loop_guard_tokens: int | None = None
    max_thinking_ms: int | None = None
    """A deadline, which the gateway keeps: it tells the engine when the time has come."""
    wait_text: tuple[str, ...] | None = None
    """Used in turn: the k-th wait is text k modulo their number."""

    @classmethod
    def from_fields(cls, fields: Mapping[str, Any]) -> ThinkingBudget:
        """Read the budget fields of `fields`; other keys are left alone.

        Raises:
            BudgetError: a field has the wrong type, is outside its limits, or contradicts another.
        """
        if _NAMES.isdisjoint(fields):
            return cls()
        integers = {name: _checked_int(name, fields.get(name)) for name in BUDGET_LIMITS}
        budget = cls(**integers, wait_text=_checked_texts(fields.get(WAIT_TEXT)))
        budget._check_agreement()
        return budget

    @property
    def is_set(self) -> bool:
        """Whether any field was given: rule 8 leaves a request without one unforced."""
        return bool(_values(self) != _NONE_GIVEN)

    def requested(self) -> dict[str, Any]:
        """The fields that were given, as receipts and the engine's `vllm_xargs` carry them."""
        given = {
            name: value for name, value in zip(BUDGET_FIELDS, _values(self), strict=True) if value is not None
        }
        if self.wait_text is not None:
            given[WAIT_TEXT] = self.wait_text[0] if len(self.wait_text) == 1 else list(self.wait_text)
        return given

    def _check_agreement(self) -> None:
        if self.wait_text is not None and not self.num_waits and not self.min_thinking_tokens:
            raise BudgetError(
                WAIT_TEXT,
                f"`{WAIT_TEXT}` needs `num_waits` or `min_thinking_tokens` above 0: without them nothing "
                f"waits. Given: {show(self.requested()[WAIT_TEXT])}",
                self.requested()[WAIT_TEXT],
            )
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
        raise BudgetError(
            name, f"`{name}` must be an integer from {low} to {high}. Given: {show(value)}", value
        )
    if value < low:
        raise BudgetError(name, f"`{name}` must be >= {low}. Given: {value}", value)
    if value > high:
        raise BudgetError(name, f"`{name}` must be <= {high}. Given: {value}", value)
    if name == "loop_guard_tokens" and 0 < value < MIN_LOOP_GUARD_TOKENS:
        raise BudgetError(
            name, f"`{name}` must be 0 (off) or >= {MIN_LOOP_GUARD_TOKENS}. Given: {value}", value
        )
    return value


def _checked_texts(value: object) -> tuple[str, ...] | None:
    if value is None:
        return None
    texts = [value] if isinstance(value, str) else value
    if (
        not isinstance(texts, Sequence)
        or not all(isinstance(text, str) and text for text in texts)
        or not texts
    ):
        raise BudgetError(
            WAIT_TEXT,
            f"`{WAIT_TEXT}` must be a non-empty string or an array of them. Given: {show(value)}",
            value,
        )
    if len(texts) > MAX_WAIT_TEXTS:
        raise BudgetError(
            WAIT_TEXT, f"`{WAIT_TEXT}` must have at most {MAX_WAIT_TEXTS} strings. Given: {len(texts)}", value
        )
    for text in texts:
        if len(text) > MAX_WAIT_CHARACTERS:
            raise BudgetError(
                WAIT_TEXT,
                f"`{WAIT_TEXT}` must have at most {MAX_WAIT_CHARACTERS} characters. Given: {len(text)}",
                text,
            )
    return tuple(texts)


@dataclass(frozen=True, slots=True)
class EffectiveBudget:
    """What the engine enforces: limits that fit the room, and which limit lowered them."""

    max: int
    min: int
    num_waits: int
    landing: int
    clamped_by: tuple[RoomLimit, ...]
    loop_guard: int = 0
    wait_ids: tuple[tuple[int, ...], ...] = ()
    """The request's own wait texts as token ids, used in turn; empty: the family's."""
    min_output: int = 0
    """Before so many output tokens no marker can be sampled in the answer: the request's `min_tokens`, or
    more than there can be where a grammar says when the answer ends."""


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
    minimum = min(asked_min, maximum)
    clamped = (asked_max is not None and asked_max > cap) or asked_min > maximum
    return EffectiveBudget(
        max=maximum,
        min=minimum,
        num_waits=budget.num_waits or 0,
        # A landing doesn't go below the minimum.
        landing=min(budget.landing_tokens or 0, maximum - minimum),
        clamped_by=(limited_by,) if clamped else (),
        loop_guard=budget.loop_guard_tokens or 0,
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
