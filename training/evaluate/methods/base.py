"""What a method is. To add one: implement `Method`, and name it in `registry.py`."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Protocol

from training.endpoints.wire import Reply
from training.evaluate.benchmarks import Item

COMMON_PARAMETERS: Mapping[str, str] = {
    "temperature": "sampling temperature; 0 if absent",
    "top_p": "nucleus sampling",
    "max_completion_tokens": "thinking and answer together; the benchmark's default if absent",
}
"""Of every method; `Ask` sends them."""


@dataclass(frozen=True, slots=True)
class Answer:
    """What a method makes of one question.

    Tokens are of all requests together, thrown away or not: what was paid for. `receipts` are the replies'
    `thinking_budget` objects, one per reply.
    """

    content: str
    thinking_tokens: int | None
    completion_tokens: int | None
    receipts: tuple[Mapping[str, Any], ...] = ()
    finish_reason: str | None = None
    num_requests: int = 1


class Ask(Protocol):
    """Sends one chat request: from the cache if it was answered before, retried where that may help."""

    async def __call__(self, prompt: str, fields: Mapping[str, Any], *, attempt: int = 0) -> Reply:
        """`fields` are merged into the body. `attempt` tells requests apart that are otherwise alike, as the
        tries of one sample; the samples of a point are told apart already.

        Raises:
            RequestRefused: this request has no answer; it is recorded with the sample.
            EndpointError: no request will have one; the run stops, and goes on with the same command, or for
                EndpointRefuses once a key, URL or model is another.
        """


class Method(Protocol):
    @property
    def name(self) -> str: ...

    @property
    def parameters(self) -> Mapping[str, str]:
        """What a sweep may vary beside COMMON_PARAMETERS, with its meaning."""

    @property
    def is_parallel(self) -> bool:
        """Whether tokens are spent side by side and not in one thought, for the figure that compares them."""

    def check(self, fields: Mapping[str, Any]) -> None:
        """Raises CurationError: a parameter's value can't be asked for."""

    def budget(self, fields: Mapping[str, Any]) -> Mapping[str, Any]:
        """The budget's fields that each request (each branch of it) has; empty: none."""

    def bounds(self, fields: Mapping[str, Any]) -> tuple[float | None, float | None]:
        """Least and most thinking tokens that the point asks for, for Control; None: no bound."""

    async def answer(self, ask: Ask, item: Item, fields: Mapping[str, Any]) -> Answer:
        """Raises what `ask` raises."""


def as_answer(reply: Reply, *, num_requests: int = 1) -> Answer:
    """The answer of a method that asks once."""
    receipt = (reply.thinking_budget,) if reply.thinking_budget is not None else ()
    return Answer(
        content=reply.answer,
        thinking_tokens=reply.thinking_tokens,
        completion_tokens=reply.completion_tokens,
        receipts=receipt,
        finish_reason=reply.finish_reason,
        num_requests=num_requests,
    )
