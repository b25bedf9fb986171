"""Requests under way whose thinking can be ended: because a client says so, or because its time is up.

The engine is told by the choice's receipt id and leaves the thinking after the next token, in the sampler:
the stream, its usage and its receipt go on as if that had been its budget. Whoever is under way is known to
this process alone.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from typing import Any, Literal

import structlog
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from server.budget.receipt import EngineReceipt
from server.budget.spec import TIME_LIMIT
from server.gateway.chat.chat_call import EngineCall
from server.gateway.connection.deferred import DeferredResponse
from server.gateway.engines.engine import ChatEngine, Engine
from server.gateway.errors import CompletionNotFound, Conflict, GatewayError, InvalidRequest

log = structlog.get_logger(__name__)

_RETRY_S = 0.5
Word = Literal["request", "time"]


@dataclass(slots=True)
class LiveRequest:
    """One request, from its arrival to its end; it may be asked of another engine if the first one dies."""

    id: str
    """As its client knows it."""
    budgeted: bool
    told: Word | None = None
    _engine: ChatEngine | None = None
    _cannot: str | None = None
    """Why the engine can't be told, if it can't."""
    _under_way: set[str] = field(default_factory=set)
    """Receipt ids."""
    _to_come: int = 0
    """Choices that the engine hasn't been asked for yet."""

    def through(
        self, answering: ChatEngine, engine: Engine, *, choices: int, budgeted: bool
    ) -> FollowedEngine:
        """`answering`, in such a way that its choices can be told.

        Args:
            engine: the one behind it.
        """
        self.budgeted, self._engine = budgeted, answering
        can = TIME_LIMIT in engine.enforced_fields
        self._cannot = None if can else "its engine has no way to be told"
        self._under_way.clear()
        self._to_come = choices
        return FollowedEngine(answering, self)

    async def answer_now(self) -> None:
        """End the thinking of every choice that still thinks.

        Raises:
            Conflict: none does, or nothing watches this request's thinking.
            InvalidRequest: the engine can't be told.
            EngineDied, EngineRefused, EngineMisbehaved
        """
        if not self.budgeted:
            raise Conflict(
                "the thinking of a request without a thinking budget is left to the model; with any budget "
                "field, `num_waits` 0 say, it can be ended",
                code="no_thinking_budget",
            )
        if self._cannot is not None:
            raise InvalidRequest(f"thinking can't be ended: {self._cannot}", code="cannot_be_told")
        waiting = self._engine is None or self._to_come > 0
        asked = [self._tell(receipt_id, "request") for receipt_id in sorted(self._under_way)]
        self.told = self.told or "request"
        if all(state == "answering" for state in await asyncio.gather(*asked)) and not waiting:
            raise Conflict("the thinking of this completion has ended", code="already_answering")

    async def _tell(self, receipt_id: str, word: Word) -> str:
        if self._engine is None:
            return "absent"
        return await self._engine.end_thinking(receipt_id, word)

    @contextlib.asynccontextmanager
    async def follow(self, call: EngineCall) -> AsyncIterator[None]:
        """While the engine answers `call`."""
        self._to_come = max(0, self._to_come - 1)
        if call.receipt_id is None:
            yield
            return
        self._under_way.add(call.receipt_id)
        limit_ms = call.budget.max_thinking_ms
        clock = None
        if self.told is not None or limit_ms is not None:
            clock = asyncio.create_task(self._keep_time(call.receipt_id, limit_ms))
        try:
            yield
        finally:
            self._under_way.discard(call.receipt_id)
            if clock is not None:
                clock.cancel()
                await asyncio.gather(clock, return_exceptions=True)

    async def _keep_time(self, receipt_id: str, limit_ms: int | None) -> None:
        word: Word = "time"
        if self.told is not None:
            word = self.told
        elif limit_ms is not None:
            await asyncio.sleep(limit_ms / 1000)
        while True:
            try:
                await self._tell(receipt_id, word)
                return
            except GatewayError as error:
                log.warning("engine not told to end a thinking", reason=str(error), word=word)
                await asyncio.sleep(_RETRY_S)


@dataclass(frozen=True, slots=True)
class FollowedEngine:
    """A `ChatEngine` whose calls are followed."""

    engine: ChatEngine
    live: LiveRequest

    def occupied(self, generations: int) -> AbstractContextManager[None]:
        return self.engine.occupied(generations)

    async def complete(self, call: EngineCall) -> dict[str, Any]:
        async with self.live.follow(call):
            return await self.engine.complete(call)

    async def stream(self, call: EngineCall, on_event: Callable[[dict[str, Any]], Awaitable[None]]) -> None:
        async with self.live.follow(call):
            await self.engine.stream(call, on_event)

    async def receipt(self, call: EngineCall, output_tokens: int) -> EngineReceipt:
        return await self.engine.receipt(call, output_tokens)

    async def end_thinking(self, receipt_id: str, ended_by: str) -> str:
        return await self.engine.end_thinking(receipt_id, ended_by)


class LiveRequests:
    """By the account whose they are and the id that their client knows."""

    def __init__(self) -> None:
        self._requests: dict[tuple[str, str], list[LiveRequest]] = {}

    def following(self, account: str, request: LiveRequest, response: Response) -> Response:
        """`response`, while whose sending the request can be found."""
        return _Followed(response, self._listed((account, request.id), request))

    def find(self, account: str, id: str) -> list[LiveRequest]:
        """All requests under this id: clients may name their own.

        Raises:
            CompletionNotFound
        """
        found = self._requests.get((account, id))
        if found is None:
            raise CompletionNotFound(
                f"no completion `{id}` of this key is under way in this gateway: it has ended, or "
                "another gateway answers it",
                param="id",
            )
        return list(found)

    def is_running(self, account: str, id: str) -> bool:
        return (account, id) in self._requests

    @contextlib.contextmanager
    def _listed(self, name: tuple[str, str], request: LiveRequest) -> Iterator[None]:
        same = self._requests.setdefault(name, [])
        same.append(request)
        try:
            yield
        finally:
            same.remove(request)
            if not same:
                del self._requests[name]


class _Followed(DeferredResponse):
    def __init__(self, response: Response, listed: AbstractContextManager[None]) -> None:
        self._response = response
        self._listed = listed

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        with self._listed:
            await self._response(scope, receive, send)
