"""Counts of one answer, from its token ids where the server returns them, and what is wrong. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

CountedFrom = Literal["token ids", "usage", "updates"]


@dataclass(frozen=True, slots=True)
class Markers:
    """Token ids around the thinking; empty where they aren't known."""

    start: tuple[int, ...] = ()
    end: tuple[int, ...] = ()


@dataclass(frozen=True, slots=True)
class Counts:
    thinking: int
    completion: int
    source: CountedFrom
    markers: int = 0
    """Around the thinking; 0 where they can't be told from it."""
    thinking_begin: int = 0
    """Tokens before the thinking."""


@dataclass(frozen=True, slots=True)
class Seen:
    """Events, by what the server said was in them."""

    thinking: int = 0
    answer: int = 0
    updates: int = 0
    """All that brought something."""


def find(token_ids: Sequence[int], wanted: tuple[int, ...]) -> int | None:
    """Where `wanted` begins first."""
    if not wanted:
        return None
    width, at = len(wanted), -1
    while True:
        try:
            at = token_ids.index(wanted[0], at + 1)
        except ValueError:
            return None
        if tuple(token_ids[at : at + width]) == wanted:
            return at


def count(
    token_ids: Sequence[int], usage: Mapping[str, Any] | None, markers: Markers, *, seen: Seen
) -> Counts:
    """Without an end marker all is thinking, or all is answer: the deltas say which. If they say both, the
    ids can't tell where one ends, and the usage is believed.

    Args:
        seen: what is left if a server returns neither ids nor usage.
    """
    if token_ids and markers.end:
        end = find(token_ids, markers.end)
        opened = bool(markers.start) and tuple(token_ids[: len(markers.start)]) == markers.start
        begin = len(markers.start) if opened else 0
        if end is not None:
            return Counts(
                max(0, end - begin), len(token_ids), "token ids", min(begin, end) + len(markers.end), begin
            )
        if not (seen.thinking and seen.answer):
            thinking = 0 if seen.answer else len(token_ids) - begin
            return Counts(thinking, len(token_ids), "token ids", begin, begin)
    if usage is not None and isinstance(usage.get("completion_tokens"), int):
        details = usage.get("completion_tokens_details") or {}
        return Counts(int(details.get("reasoning_tokens") or 0), usage["completion_tokens"], "usage")
    return Counts(seen.thinking, seen.updates, "updates")


def violation(
    counts: Counts, budget: Mapping[str, int], *, finish_reason: str | None, receipt: Mapping[str, Any] | None
) -> str | None:
    """The field of `budget` that the answer breaks.

    A minimum may be lowered by what limits the whole answer, which only a receipt tells.
    """
    maximum, minimum = budget.get("max_thinking_tokens"), budget.get("min_thinking_tokens")
    if counts.source == "updates":
        return None
    if maximum is not None and counts.thinking > maximum:
        return "max_thinking_tokens"
    if minimum is None or finish_reason == "length":
        return None
    effective = (receipt or {}).get("effective") or {}
    owed = min(minimum, int(effective.get("min", minimum)))
    return "min_thinking_tokens" if counts.thinking < owed else None


def receipt_differs(
    counts: Counts, receipt: Mapping[str, Any], usage: Mapping[str, Any] | None
) -> str | None:
    """What a receipt, or the usage beside it, says otherwise than the token ids do."""
    if counts.source != "token ids":
        return None
    if receipt.get("thinking_tokens") != counts.thinking:
        return "thinking_tokens"
    kinds = [receipt.get(name) for name in ("thinking_tokens", "marker_tokens", "answer_tokens")]
    if None not in kinds and sum(kinds) != counts.completion:  # type: ignore[arg-type]
        return "sum"
    if usage is not None and usage.get("completion_tokens") != counts.completion:
        return "completion_tokens"
    details = (usage or {}).get("completion_tokens_details") or {}
    if details.get("reasoning_tokens", counts.thinking) != counts.thinking:
        return "reasoning_tokens"
    return None
