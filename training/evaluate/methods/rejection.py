"""Rejection sampling: try until a thought is short enough. Source: s1, section 5.3 and figure 6."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from training.endpoints.wire import Reply
from training.evaluate.benchmarks import Item
from training.evaluate.methods.base import Answer, Ask
from training.evaluate.methods.conditional import MAXIMUM, check_count, check_temperature

MAX_TRIES = 32
"""The paper had no cap, and needed 655 tries on average for its lowest limit."""
_PLACES_BEYOND = 2
"""Tokens that the maximum lies beyond the limit: at its last place the engine may force a newline, which a
thought as long as the limit must not meet."""
REJECTED = "rejected"
"""The finish reason of a sample none of whose tries fitted: it has no answer."""


@dataclass(frozen=True, slots=True)
class RejectionSampling:
    """A try is given up just beyond the limit: what is accepted is what the model says unforced.

    Tokens are those of all tries.
    """

    name: str = "rejection_sampling"
    is_parallel: bool = False

    @property
    def parameters(self) -> Mapping[str, str]:
        return {MAXIMUM: "the limit of a thought", "max_tries": f"{MAX_TRIES} if absent"}

    def check(self, fields: Mapping[str, Any]) -> None:
        check_count(self.name, MAXIMUM, fields)
        check_count(self.name, "max_tries", {"max_tries": MAX_TRIES} | dict(fields))
        check_temperature(self.name, fields)

    def budget(self, fields: Mapping[str, Any]) -> Mapping[str, Any]:
        return {MAXIMUM: fields[MAXIMUM] + _PLACES_BEYOND}

    def bounds(self, fields: Mapping[str, Any]) -> tuple[float | None, float | None]:
        # Every accepted thought keeps the limit; the tokens that are counted are of all tries.
        return None, None

    async def answer(self, ask: Ask, item: Item, fields: Mapping[str, Any]) -> Answer:
        limit, tries = fields[MAXIMUM], fields.get("max_tries", MAX_TRIES)
        replies: list[Reply] = []
        for attempt in range(tries):
            reply = await ask(item.prompt, self.budget(fields), attempt=attempt)
            replies.append(reply)
            if _fits(reply, limit):
                return _answer(replies, reply)
        return _answer(replies, None)


def _fits(reply: Reply, limit: int) -> bool:
    """Whether it is whole, and no longer than the limit because the model ended it: the room for the answer
    can lower a maximum. Without a count there is nothing to accept it by."""
    receipt = reply.thinking_budget
    unforced = receipt is None or receipt.get("ended_by") == "model"
    counted = reply.thinking_tokens is not None and reply.thinking_tokens <= limit
    return counted and unforced and reply.finish_reason != "length"


def _answer(replies: list[Reply], accepted: Reply | None) -> Answer:
    return Answer(
        content="" if accepted is None else accepted.answer,
        thinking_tokens=_sum([reply.thinking_tokens for reply in replies]),
        completion_tokens=_sum([reply.completion_tokens for reply in replies]),
        receipts=tuple(reply.thinking_budget for reply in replies if reply.thinking_budget is not None),
        finish_reason=REJECTED if accepted is None else accepted.finish_reason,
        num_requests=len(replies),
    )


def _sum(counts: list[int | None]) -> int | None:
    known = [count for count in counts if count is not None]
    return sum(known) if len(known) == len(counts) else None
