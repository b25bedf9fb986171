"""Efforts: what `reasoning_effort` and its kin mean in thinking tokens.

An effort is a share of the room, as OpenRouter documents it for models that take token budgets, or an
absolute number of tokens; a table per model says which (docs/policy.md).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal, get_args

Effort = Literal["minimal", "low", "medium", "high", "xhigh", "max"]
EFFORTS: tuple[Effort, ...] = get_args(Effort)
NO_EFFORT = "none"
"""Beside the efforts, every dialect's word for no thinking at all."""


@dataclass(frozen=True, slots=True)
class Share:
    """So many percent of the room."""

    percent: float

    def __str__(self) -> str:
        return f"{self.percent:g}%"


EffortTable = Mapping[Effort, int | Share]
"""Tokens, or a share of the room, for each effort."""

DEFAULT_EFFORTS: EffortTable = {
    "minimal": Share(10),
    "low": Share(20),
    "medium": Share(50),
    "high": Share(80),
    "xhigh": Share(95),
    "max": Share(100),
}
"""OpenRouter's shares (https://openrouter.ai/docs/use-cases/reasoning-tokens); `max` is all that fits."""


def effort_tokens(effort: Effort, table: EffortTable, *, room: int, fits: int) -> int:
    """The maximum that `effort` means.

    Args:
        room: completion tokens of which a share is taken.
        fits: thinking tokens that markers and answer leave of them; an effort never asks for more.
    """
    target = table[effort]
    tokens = int(room * target.percent / 100) if isinstance(target, Share) else target
    return min(tokens, fits)
