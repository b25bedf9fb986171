"""What the engine calls of a request really used, also of those that ended before their time.

A call that ran to its end has a usage and, with a budget, a receipt. Of one that did not, the engine still
keeps the receipt, as the sampler writes it when a choice leaves the batch for whatever reason. Without a
budget there is no receipt: a stream's token ids are counted on the way; of a whole answer nothing is known.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from contextlib import AbstractContextManager, suppress
from dataclasses import dataclass, field
from typing import Any

from server.budget.receipt import EngineReceipt, count_tokens
from server.gateway.chat.chat_call import EngineCall
from server.gateway.engines.demand import Demand
from server.gateway.engines.engine import ChatEngine, Engine
from server.gateway.errors import EngineRefused, GatewayError

OnEvent = Callable[[dict[str, Any]], Awaitable[None]]


@dataclass(frozen=True, slots=True)
class Used:
    """Units: tokens."""

    thinking: int
    total: int
    """Prompt, thinking, markers and answer."""


@dataclass(slots=True)
class Tally:
    """One engine call."""

    call: EngineCall
    prompt: int | None = None
    completion: int | None = None
    thinking: int | None = None
    begun: bool = False
    """A part of a stream has come."""
    finished: bool = False
    accounted: bool = False
    """It was ended before its end, and it is known how far it came."""

    def read(self, usage: object) -> None:
        """Take a final usage; what isn't there stays unknown."""
        if not isinstance(usage, Mapping):
            return
        self.finished = True
        self.prompt, self.completion = _count(usage, "prompt_tokens"), _count(usage, "completion_tokens")
        details = usage.get("completion_tokens_details")
        if self.thinking is None and isinstance(details, Mapping):
            self.thinking = _count(details, "reasoning_tokens")

    def refuse(self) -> None:
        """The engine has generated nothing."""
        self.completion = self.thinking = 0
        self.accounted = True

    def account(self, recorded: EngineReceipt) -> None:
        """Take the engine's own record, of the tokens that were delivered if that is known."""
        delivered = (
            self.completion if self.finished and self.completion is not None else recorded.output_tokens
        )
        self.completion = delivered
        self.thinking = count_tokens(recorded, delivered).thinking
        self.accounted = True


@dataclass(slots=True)
class Meter:
    """All engine calls of one request."""

    prompt_estimate: int
    choices: int
    thinking_limit: int
    """Reserved for one choice: what it is charged if nobody can say."""
    completion_limit: int
    tallies: list[Tally] = field(default_factory=list)
    failed: bool = False
    """An engine failed, not the client."""
    _engine: ChatEngine | None = None

    @classmethod
    def of(cls, demand: Demand, *, thinking: int, total: int) -> Meter:
        """
        Args:
            thinking, total: tokens reserved, of all choices.
        """
        completion = max(0, total - demand.prompt) // demand.choices
        return cls(demand.prompt, demand.choices, thinking // demand.choices, completion)

    def watched(self, engine: ChatEngine) -> Metered:
        self._engine = engine
        return Metered(engine, self)

    def begin_anew(self) -> None:
        """Another engine is asked for all of it."""
        self.tallies.clear()
        self.failed = False

    @property
    def complete(self) -> bool:
        """Whether everything is known without asking anybody."""
        return all(
            tally.accounted
            or (tally.finished and (tally.thinking is not None or tally.call.receipt_id is None))
            for tally in self.tallies
        )

    async def inquire(self) -> None:
        """Ask the engine for the receipts of calls that did not end; what it can't tell stays unknown."""
        unknown = [
            tally
            for tally in self.tallies
            if not (tally.finished or tally.accounted or tally.call.receipt_id is None)
        ]
        if self._engine is not None:
            await asyncio.gather(*(_inquire(self._engine, tally) for tally in unknown))

    def used(self) -> Used:
        """What to charge. What nobody knows is free if an engine failed, and else what was reserved."""
        if not self.tallies:
            return Used(0, 0)
        completion = sum(
            self._or_worst(tally.completion, self.completion_limit * self._choices(tally))
            for tally in self.tallies
        )
        thinking = sum(self._thinking(tally) for tally in self.tallies)
        prompts = [tally.prompt for tally in self.tallies if tally.prompt is not None]
        prompt = max(prompts) if prompts else self._or_worst(None, self.prompt_estimate)
        return Used(thinking, prompt + completion)

    def _thinking(self, tally: Tally) -> int:
        if tally.thinking is not None:
            return tally.thinking
        # Nobody has counted the thinking apart, but it is not more than everything.
        limit = self.thinking_limit * self._choices(tally)
        return min(limit, self._or_worst(tally.completion, limit))

    def _choices(self, tally: Tally) -> int:
        """A beam search is one call for all choices."""
        return self.choices if tally.call.index is None else 1

    def _or_worst(self, known: int | None, worst: int) -> int:
        if known is not None:
            return known
        return 0 if self.failed else worst


@dataclass(frozen=True, slots=True)
class Metered:
    """A `ChatEngine` whose calls are noted."""

    engine: ChatEngine
    meter: Meter

    def occupied(self, generations: int) -> AbstractContextManager[None]:
        return self.engine.occupied(generations)

    async def complete(self, call: EngineCall) -> dict[str, Any]:
        tally = self._begin(call)
        try:
            answer = await self.engine.complete(call)
        except Exception as error:
            self._failed(tally, error)
            raise
        tally.read(answer.get("usage"))
        return answer

    async def stream(self, call: EngineCall, on_event: OnEvent) -> None:
        tally = self._begin(call)
        counting = call.receipt_id is None and _Counting.of(call, tally, on_event)
        try:
            if counting:
                await self.engine.stream(counting.call, counting.on_event)
            else:
                await self.engine.stream(call, _noting_usage(tally, on_event))
        except Exception as error:
            self._failed(tally, error)
            raise

    async def receipt(self, call: EngineCall, output_tokens: int) -> EngineReceipt:
        recorded = await self.engine.receipt(call, output_tokens)
        for tally in self.meter.tallies:
            if tally.call.receipt_id == call.receipt_id:
                tally.account(recorded)
        return recorded

    async def end_thinking(self, receipt_id: str, ended_by: str) -> str:
        return await self.engine.end_thinking(receipt_id, ended_by)

    def _begin(self, call: EngineCall) -> Tally:
        tally = Tally(call)
        self.meter.tallies.append(tally)
        return tally

    def _failed(self, tally: Tally, error: Exception) -> None:
        self.meter.failed = True
        # Rounds and searches ask an engine several times, and know without waiting what it cost.
        asked_once = isinstance(self.engine, Engine)
        if asked_once and not tally.begun and isinstance(error, EngineRefused) and error.status < 500:
            tally.refuse()


async def _inquire(engine: ChatEngine, tally: Tally) -> None:
    with suppress(GatewayError):
        tally.account(await engine.receipt(tally.call, 0))


def _noting_usage(tally: Tally, on_event: OnEvent) -> OnEvent:
    async def note(chunk: dict[str, Any]) -> None:
        tally.begun = True
        if chunk.get("usage") and not chunk.get("choices"):
            tally.read(chunk["usage"])
        await on_event(chunk)

    return note


@dataclass(slots=True)
class _Counting:
    """Counts a stream's tokens by their ids, which the engine is asked for and the client does not see.

    vLLM's `continuous_usage_stats` would do, but counts the thinking anew with every token.
    """

    call: EngineCall
    tally: Tally
    forward: OnEvent
    hidden: bool
    _answering: bool = False

    @classmethod
    def of(cls, call: EngineCall, tally: Tally, forward: OnEvent) -> _Counting:
        return cls(call.asking_for_ids(), tally, forward, hidden=not call.asks_ids)

    async def on_event(self, chunk: dict[str, Any]) -> None:
        self.tally.begun = True
        choices = chunk.get("choices")
        if choices:
            self._count(choices[0])
        elif chunk.get("usage"):
            # The final usage counts the thinking better than the order of the text does.
            self.tally.thinking = None
            self.tally.read(chunk["usage"])
        if self.hidden:
            chunk.pop("prompt_token_ids", None)
            for choice in choices or ():
                choice.pop("token_ids", None)
        await self.forward(chunk)

    def _count(self, choice: dict[str, Any]) -> None:
        tally = self.tally
        if choice.get("delta", {}).get("content"):
            self._answering = True
        tokens = len(choice.get("token_ids") or ()) or int(_says_something(choice.get("delta", {})))
        tally.completion = (tally.completion or 0) + tokens
        if not self._answering:
            tally.thinking = (tally.thinking or 0) + tokens


def _says_something(delta: Mapping[str, Any]) -> bool:
    """Whether a part has a token at least, where the engine doesn't tell its ids."""
    return any(value for name, value in delta.items() if name != "role")


def _count(fields: Mapping[str, Any], name: str) -> int | None:
    value = fields.get(name)
    return value if isinstance(value, int) and value >= 0 else None
