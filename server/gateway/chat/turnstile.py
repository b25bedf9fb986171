"""What every request that generates passes between being understood and being sent to an engine.

In this order: the key's quotas (a reservation), then room in an engine (perhaps a wait). Afterwards the
reservation becomes what was really used, whatever has happened in between. A route has the policy applied
(`settle.py`) and does the rest with

    return context.turnstile.admit(request, model, call, respond)

where `respond(grant)` gives the response.
"""

from __future__ import annotations

import asyncio
import contextlib
import uuid
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine
from dataclasses import dataclass
from types import TracebackType
from typing import Any, Self

import structlog
from starlette.requests import Request
from starlette.responses import Response
from starlette.types import Message, Receive, Scope, Send

from server.budget.spec import ThinkingBudget
from server.gateway.access.callers import Caller, caller_of
from server.gateway.access.guard import tell
from server.gateway.access.ledger import Ledger, Outcome
from server.gateway.access.metering import Meter, Used
from server.gateway.access.reservation import THINKING, TOTAL, Wish, quota_headers, refusal
from server.gateway.access.unsettled import Unsettled
from server.gateway.chat.chat_call import ChatCall
from server.gateway.chat.chat_conflicts import check_beam_search
from server.gateway.connection.deferred import DeferredResponse
from server.gateway.connection.disconnect import unless_disconnected
from server.gateway.connection.drain import CutOff, Drain
from server.gateway.engines.admission import Admission, Place, shrunk
from server.gateway.engines.balance import Prefix
from server.gateway.engines.demand import Demand
from server.gateway.engines.engine import ChatEngine, Engine
from server.gateway.engines.pool import EnginePool
from server.gateway.errors import EngineDied, EngineUnavailable, InvalidRequest, QuotaStoreUnavailable
from server.gateway.observe.observer import Observer, observer_of
from server.gateway.settings import Settings

log = structlog.get_logger(__name__)

_SETTLE_RETRIES_S = (0.5, 1.0, 2.0)
_SETTLE_WAIT_S = 1.0
"""What has been generated is withheld no longer for a store that doesn't answer."""
_LAST_SETTLEMENTS_S = 4
"""When the gateway ends, those that ended just now are waited for so long."""
_LAST_TRY_S = 1
"""And then what the store of quotas didn't take before is tried once more."""


@dataclass(frozen=True, slots=True)
class Grant:
    """Leave to generate."""

    engine: Engine
    call: ChatCall
    """With the budget that is to be enforced."""
    account: Account | None
    """None: nothing is counted."""

    def watched(self, answering: ChatEngine) -> ChatEngine:
        """`answering`, in such a way that what it uses is counted. All generation has to go through this."""
        counts = self.account is not None and self.account.counts_tokens
        return self.account.meter.watched(answering) if self.account is not None and counts else answering

    async def settle(self) -> None:
        """Charge what was used, now that it is known; to be called before the client sees the end."""
        if self.account is not None and self.account.meter.complete:
            await self.account.settle()


@dataclass(slots=True)
class Account:
    """A reservation and what becomes of it."""

    turnstile: Turnstile
    name: str
    reservation: str
    meter: Meter
    counts_tokens: bool
    """False: only its place is to be freed."""
    observer: Observer
    settled: bool = False

    async def settle(self) -> None:
        if not self.settled:
            self.settled = True
            await self.turnstile.finish(self._settle())

    async def inquire_and_settle(self) -> None:
        if not self.settled:
            self.settled = True
            await self.meter.inquire()
            await self._settle()

    async def _settle(self) -> None:
        used = self.meter.used()
        if self.counts_tokens:
            self.observer.charged(used)
        await self.turnstile.charge(self.name, self.reservation, used)


Respond = Callable[[Grant], Awaitable[Response]]


class Turnstile:
    """Renews its reservations from `async with` on."""

    def __init__(self, settings: Settings, pool: EnginePool, ledger: Ledger, drain: Drain) -> None:
        self.admission = Admission(settings, pool)
        self._settings = settings
        self._pool = pool
        self._ledger = ledger
        self._drain = drain
        self._open: dict[str, set[str]] = {}
        self.unattended: set[asyncio.Task[Any]] = set()
        """Counted work that goes on when its client has left. It ends before the gateway does."""
        self._finishing: set[asyncio.Task[Any]] = set()
        self._unsettled = Unsettled(ledger)
        self._renewing: asyncio.Task[None] | None = None

    async def __aenter__(self) -> Self:
        self._renewing = asyncio.create_task(self._renew())
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for task in self.unattended:
            task.cancel()
        await asyncio.gather(*self.unattended, return_exceptions=True)
        if self._finishing:
            await asyncio.wait(self._finishing, timeout=_LAST_SETTLEMENTS_S)
        ending = [*self._finishing, *([self._renewing] if self._renewing is not None else [])]
        for task in ending:
            task.cancel()
        await asyncio.gather(*ending, return_exceptions=True)
        await self._try_for_the_last_time()
        await self._ledger.close()

    async def _try_for_the_last_time(self) -> None:
        with contextlib.suppress(QuotaStoreUnavailable, TimeoutError):
            async with asyncio.timeout(_LAST_TRY_S):
                await self._unsettled.settle()
        if len(self._unsettled):
            log.error("reservations not settled; they stay spent", count=len(self._unsettled))

    def admit(self, request: Request, model: str, call: ChatCall, respond: Respond) -> Response:
        """A response that gets its grant before it asks `respond` what it is.

        If its engine dies before the client has been sent anything, another one is asked, if there is one.

        Raises, when it is sent:
            Forbidden, QuotaExceeded, Overloaded, QuotaStoreUnavailable
            InvalidRequest, EngineUnavailable: as `EnginePool.able`.
        """
        cut_off = self._drain.cut_off if self.admission.is_on else None

        entry = Entry(self, request, model, call)

        def has_other(grant: Grant, avoiding: frozenset[str]) -> bool:
            try:
                able = self._pool.able(model, grant.call.budget)
            except (EngineUnavailable, InvalidRequest):
                return False
            return any(engine.url not in avoiding for engine in able)

        return _Admitted(entry, respond, has_other, cut_off=cut_off)

    def demand(self, model: str, call: ChatCall) -> Demand:
        return Demand.of_chat(call, context=self._pool.context(model))

    def held(self, demand: Demand, budget: ThinkingBudget) -> int:
        """Tokens that the request may come to hold in its engine's cache, as far as that is known."""
        return demand.held(budget, answer_tokens=self._settings.admission_answer_tokens) or 0

    async def reserve(
        self, request: Request, call: ChatCall, demand: Demand
    ) -> tuple[Account, ThinkingBudget] | None:
        """What is counted of the request from now on, until `leave`, and the budget that its quotas leave it;
        None if its key has none.

        Raises:
            QuotaExceeded, QuotaStoreUnavailable
        """
        caller, budget = caller_of(request), call.budget
        if not caller.quotas.needs_ledger:
            return None
        names_maximum = "max_thinking_tokens" in call.origin.requested
        wish = Wish.of(demand, budget, caller.quotas, named_maximum=names_maximum)
        id, outcome = await self._open_reservation(request, caller, wish)
        meter = Meter.of(
            demand, thinking=outcome.amounts.get(THINKING, 0), total=outcome.amounts.get(TOTAL, 0)
        )
        observer = observer_of(request.scope)
        account = Account(self, caller.account, id, meter, caller.quotas.counts_tokens, observer)
        return account, wish.granted(budget, outcome, thinking_off=call.asked.thinking is False)

    @contextlib.asynccontextmanager
    async def counted(self, request: Request, *, tokens: int) -> AsyncIterator[Callable[[int], None]]:
        """For work without thinking and answer: its tokens are reserved, and charged as they are told.

        Args:
            tokens: an estimate.

        Raises:
            QuotaExceeded, QuotaStoreUnavailable
        """
        caller, used = caller_of(request), 0
        if not caller.quotas.needs_ledger:
            yield lambda _: None
            return

        def charge(told: int) -> None:
            nonlocal used
            used = told

        id, _ = await self._open_reservation(request, caller, Wish.of_prompt(tokens, caller.quotas))
        try:
            yield charge
        finally:
            if caller.quotas.counts_tokens:
                observer_of(request.scope).charged(Used(0, used))
            await self.finish(self.charge(caller.account, id, Used(0, used)))

    async def _open_reservation(self, request: Request, caller: Caller, wish: Wish) -> tuple[str, Outcome]:
        """Its id and what it holds, from now on until it is charged."""
        wish.check_possible(caller)
        id = uuid.uuid4().hex
        outcome = await self._reserved(caller, id, wish)
        tell(request, quota_headers(outcome))
        if outcome.refused_by is not None:
            raise refusal(caller, wish, outcome)
        observer_of(request.scope).reserved(outcome.amounts)
        self._open.setdefault(caller.account, set()).add(id)
        return id, outcome

    async def _reserved(self, caller: Caller, id: str, wish: Wish) -> Outcome:
        """Reserve; if that can't be finished, whatever came of it is taken back."""
        reserving = self._keep(
            self._ledger.reserve(caller.account, id, wish.asks, concurrency=caller.quotas.concurrency)
        )
        try:
            return await asyncio.shield(reserving)
        except (asyncio.CancelledError, QuotaStoreUnavailable):
            self._keep(self._take_back(caller.account, id, reserving))
            raise

    async def _take_back(self, account: str, id: str, reserving: asyncio.Task[Outcome]) -> None:
        await asyncio.wait({reserving})
        await self.charge(account, id, Used(0, 0))

    async def leave(self, account: Account) -> None:
        """The response has ended, one way or another."""
        meter = account.meter
        if meter.complete or not meter.tallies:
            await account.settle()
        else:
            # The engine is asked without anybody having to wait for it.
            self._keep(account.inquire_and_settle())

    def shrink(self, model: str, budget: ThinkingBudget, demand: Demand) -> ThinkingBudget:
        """What the engines' load leaves of `budget`."""
        if not self.admission.is_on or self._settings.shrink_above is None:
            return budget
        pressure = self.admission.pressure(model, budget)
        return shrunk(budget, most=demand.thinking(budget), pressure=pressure, settings=self._settings)

    async def charge(self, account: str, id: str, used: Used) -> None:
        """Settle a reservation: soon, or when the store is there again. Settling twice does no harm."""
        amounts = {THINKING: used.thinking, TOTAL: used.total}
        try:
            for retry_s in (*_SETTLE_RETRIES_S, None):
                try:
                    await self._ledger.settle(account, id, amounts)
                    return
                except QuotaStoreUnavailable:
                    if retry_s is not None:
                        await asyncio.sleep(retry_s)
            log.warning("reservation not settled yet; it is tried again", account=account)
            self._unsettled.add(account, id, amounts)
        except asyncio.CancelledError:
            self._unsettled.add(account, id, amounts)
            raise
        finally:
            self._closed(account, id)

    async def finish(self, work: Coroutine[Any, Any, None]) -> None:
        """Wait a little for `work`, which goes on if the waiting ends before it."""
        done, _ = await asyncio.wait({self._keep(work)}, timeout=_SETTLE_WAIT_S)
        for task in done:
            task.result()

    def _keep(self, work: Coroutine[Any, Any, Any]) -> asyncio.Task[Any]:
        task = asyncio.create_task(work)
        self._finishing.add(task)
        task.add_done_callback(self._kept)
        return task

    def _kept(self, task: asyncio.Task[Any]) -> None:
        self._finishing.discard(task)
        error = None if task.cancelled() else task.exception()
        if error is not None and not isinstance(error, QuotaStoreUnavailable):
            log.error("settlement failed", exc_info=error)

    def _closed(self, account: str, id: str) -> None:
        ids = self._open.get(account, set())
        ids.discard(id)
        if not ids:
            self._open.pop(account, None)

    async def _renew(self) -> None:
        while True:
            await asyncio.sleep(self._settings.lease_s / 3)
            with contextlib.suppress(QuotaStoreUnavailable):
                await self._ledger.renew({account: tuple(ids) for account, ids in self._open.items()})
                await self._unsettled.settle()


@dataclass(slots=True)
class Entry:
    """A request's way in and out again. Every entry has to be left."""

    turnstile: Turnstile
    request: Request
    model: str
    call: ChatCall
    _reserved: tuple[Account, ThinkingBudget] | None = None
    _place: Place | None = None

    async def enter(self, avoiding: frozenset[str]) -> Grant:
        """Again after `move_on`, with the same reservation.

        Args:
            avoiding: URLs of engines that have just failed this request.

        Raises: as `Turnstile.admit`.
        """
        turnstile, call = self.turnstile, self.call
        caller = caller_of(self.request)
        caller.check_model(self.model)
        demand = turnstile.demand(self.model, call)
        if self._reserved is None:
            self._reserved = await turnstile.reserve(self.request, call, demand)
        account = None
        if self._reserved is not None:
            account, granted = self._reserved
            if granted != call.budget:
                check_beam_search(call.fields, granted)
                call = call.limited(granted, by=("quota",))
        smaller = turnstile.shrink(self.model, call.budget, demand)
        if smaller != call.budget:
            call = call.limited(smaller, by=("load",))
        self._place = await turnstile.admission.place(
            self.model,
            call.budget,
            tokens=turnstile.held(demand, call.budget),
            prefix=Prefix(self.model, call.fields),
            account=caller.account,
            avoiding=avoiding,
        )
        return Grant(self._place.engine, call, account)

    def move_on(self) -> None:
        """The engine has died before the client got anything: what it did is nobody's."""
        self._leave_place()
        if self._reserved is not None:
            self._reserved[0].meter.begin_anew()

    async def leave(self) -> None:
        try:
            self._leave_place()
        finally:
            if self._reserved is not None:
                await self.turnstile.leave(self._reserved[0])

    def _leave_place(self) -> None:
        if self._place is not None:
            place, self._place = self._place, None
            place.leave()


class _Admitted(DeferredResponse):
    def __init__(
        self,
        entry: Entry,
        respond: Respond,
        has_other: Callable[[Grant, frozenset[str]], bool],
        *,
        cut_off: CutOff | None,
    ) -> None:
        self._entry = entry
        self._respond = respond
        self._has_other = has_other
        self._cut_off = cut_off

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        sent = False

        async def send_on(message: Message) -> None:
            nonlocal sent
            sent = True
            await send(message)

        failed: frozenset[str] = frozenset()
        try:
            while True:
                grant = await self._granted(receive, failed)
                try:
                    response = await self._respond(grant)
                    await response(scope, receive, send_on)
                    return
                except EngineDied:
                    failed |= {grant.engine.url}
                    if sent or not self._has_other(grant, failed):
                        raise
                    log.warning("engine died; another is asked", url=grant.engine.url)
                self._entry.move_on()
        finally:
            await self._entry.leave()

    async def _granted(self, receive: Receive, failed: frozenset[str]) -> Grant:
        entering = self._entry.enter(failed)
        if self._cut_off is None:
            return await entering
        # A client that leaves the queue frees its place at once.
        scope = self._entry.request.scope
        return await unless_disconnected(scope, receive, entering, cut_off=self._cut_off)
