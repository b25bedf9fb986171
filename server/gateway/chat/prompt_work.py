"""Work on a prompt that generates nothing: rendering, tokenizing, counting.

An engine does it in the process that serves all its requests. Some long texts at once would keep everybody
waiting, so that it is done for a few requests at a time, within a time, and for texts that could be a prompt.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from typing import Any, Generic, TypeVar

from starlette.requests import Request

from server.budget.spec import ThinkingBudget
from server.gateway.chat.turnstile import Turnstile
from server.gateway.connection.disconnect import unless_disconnected
from server.gateway.context import context_of
from server.gateway.engines.balance import least_busy
from server.gateway.engines.demand import estimate_tokens
from server.gateway.engines.engine import Engine
from server.gateway.errors import InvalidRequest, Overloaded

Result = TypeVar("Result")

MOST_CONTEXTS = 5
"""The estimate takes 3 bytes for a token; texts have 4 or so, and one that has 15 is hardly a prompt."""


async def work_on_prompt(
    request: Request, model: str, fields: Mapping[str, Any], work: Callable[[Engine], Awaitable[Result]]
) -> Result:
    """The result of `work` on an engine, in turn. It takes one of the key's places, and none of its tokens.

    Args:
        fields: of the body, with all that is worked on.

    Raises:
        InvalidRequest: the text can't fit the model's context; `param` is the field with most of it.
        QuotaExceeded, QuotaStoreUnavailable
        Overloaded: it hasn't ended in time.
        EngineUnavailable: as `EnginePool.able`.
        ClientDisconnect, ShuttingDown
    """
    context = context_of(request)
    able = context.engines.able(model, ThinkingBudget())
    engine = least_busy([engine for engine in able if not engine.prompt_places.locked()] or able)
    _check_fits(fields, engine.context(model))
    turn = _Turn(engine, request, work)
    return await unless_disconnected(
        request.scope, request.receive, turn.result(context.turnstile), cut_off=context.drain.cut_off
    )


class _Turn(Generic[Result]):
    """Work that has begun goes on without its client, and keeps the engine's place and the key's: an engine
    whose connection is closed doesn't stop tokenizing, and would be given more at once.
    """

    def __init__(self, engine: Engine, request: Request, work: Callable[[Engine], Awaitable[Result]]) -> None:
        self._engine = engine
        self._request = request
        self._work = work
        self._has_begun = False

    async def result(self, turnstile: Turnstile) -> Result:
        task = asyncio.create_task(self._in_turn(turnstile))
        turnstile.unattended.add(task)
        task.add_done_callback(turnstile.unattended.discard)
        task.add_done_callback(_looked_at)
        try:
            return await asyncio.shield(task)
        finally:
            if not self._has_begun:
                task.cancel()

    async def _in_turn(self, turnstile: Turnstile) -> Result:
        engine, limit_s = self._engine, self._engine.render_timeout_s
        async with turnstile.counted(self._request, tokens=0):
            try:
                # Not the engine's own timeout: one that is slow with this need not be lost.
                async with asyncio.timeout(limit_s), engine.prompt_places:
                    self._has_begun = True
                    return await self._work(engine)
            except TimeoutError:
                raise Overloaded(f"work on this prompt has timed out after {limit_s:g} s") from None


def _looked_at(task: asyncio.Task[Any]) -> None:
    """Nobody else looks at the error of one whose client has left."""
    if not task.cancelled():
        task.exception()


def _check_fits(fields: Mapping[str, Any], context: int | None) -> None:
    if context is None:
        return
    tokens = {name: estimate_tokens(value) for name, value in fields.items()}
    whole, most = sum(tokens.values()), context * MOST_CONTEXTS
    if whole > most:
        name = max(tokens, key=lambda name: tokens[name])
        raise InvalidRequest(
            f"`{name}` can't fit the model's context of {context} tokens: texts are worked on up to an "
            f"estimated {most} tokens. Given: about {whole}",
            param=name,
        )
