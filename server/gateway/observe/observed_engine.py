"""A `ChatEngine` whose work an observation sees."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from server.budget.receipt import EngineReceipt
from server.gateway.chat.chat_call import EngineCall
from server.gateway.errors import GatewayError

if TYPE_CHECKING:
    from server.gateway.engines.engine import ChatEngine
    from server.gateway.observe.observation import Observation

OnEvent = Callable[[dict[str, Any]], Awaitable[None]]


@dataclass(slots=True)
class ObservedEngine:
    engine: ChatEngine
    seen: Observation

    def occupied(self, generations: int) -> AbstractContextManager[None]:
        return self.engine.occupied(generations)

    async def complete(self, call: EngineCall) -> dict[str, Any]:
        watch = self.seen.begin(call)
        try:
            answer = await self.engine.complete(call)
        except GatewayError as error:
            self.seen.engine_failed(watch, error)
            raise
        finally:
            watch.ended = self.seen.clock()
        if watch.keeps_text:
            watch.text.extend(_texts(answer))
        return answer

    async def stream(self, call: EngineCall, on_event: OnEvent) -> None:
        watch, clock = self.seen.begin(call), self.seen.clock
        try:
            await self.engine.stream(call, watch.seeing(clock, on_event))
        except GatewayError as error:
            self.seen.engine_failed(watch, error)
            raise
        finally:
            watch.ended = clock()

    async def end_thinking(self, receipt_id: str, ended_by: str) -> str:
        return await self.engine.end_thinking(receipt_id, ended_by)

    async def receipt(self, call: EngineCall, output_tokens: int) -> EngineReceipt:
        watches = reversed(self.seen.watches)
        watch = next((watch for watch in watches if watch.call.receipt_id == call.receipt_id), None)
        try:
            recorded = await self.engine.receipt(call, output_tokens)
        except GatewayError as error:
            if watch is not None:
                self.seen.engine_failed(watch, error)
            raise
        if watch is not None:
            watch.recorded = recorded
        return recorded


def _texts(answer: dict[str, Any]) -> list[str]:
    messages = [choice.get("message") or {} for choice in answer.get("choices") or ()]
    return [
        str(message[name]) for message in messages for name in ("reasoning", "content") if message.get(name)
    ]
