"""Which engine a request goes to, and whether it waits for one that has room.

With admission on, an engine is given requests whose worst cases fit its KV cache together, so that it doesn't
preempt. The others wait here: first come, first served within a key, and the keys take turns, so that one
key's hundred requests don't make another's wait. A request that is next waits for an engine with room for it
even if a later, smaller one would fit: else large ones might never be served.
"""

from __future__ import annotations

import asyncio
from collections import OrderedDict, deque
from dataclasses import dataclass, field, replace

from server.budget.spec import ThinkingBudget
from server.gateway.access.rates import retry_after
from server.gateway.engines.balance import Balance, Prefix
from server.gateway.engines.engine import Engine
from server.gateway.engines.pool import EnginePool
from server.gateway.errors import EngineUnavailable, InvalidRequest, Overloaded, QuotaExceeded
from server.gateway.settings import Settings

_LOOK_INTERVAL_S = 0.25
"""Engines also get room without one of our requests ending: they come back."""


@dataclass(slots=True, eq=False)
class Ticket:
    """A request that waits."""

    account: str
    model: str
    budget: ThinkingBudget
    tokens: int
    prefix: Prefix = field(repr=False)
    place: asyncio.Future[Engine] = field(repr=False)
    avoiding: frozenset[str] = frozenset()
    """URLs of engines that have just failed this request: only where there is no other."""


@dataclass(frozen=True, slots=True)
class Place:
    """Room in an engine that one request has, until it is left."""

    admission: Admission
    model: str
    engine: Engine
    tokens: int

    def leave(self) -> None:
        self.admission.left(self)


class FairQueue:
    """Tickets of one model, in the order in which they are served: in turn by account."""

    def __init__(self) -> None:
        self._by_account: OrderedDict[str, deque[Ticket]] = OrderedDict()

    def __len__(self) -> int:
        return sum(len(tickets) for tickets in self._by_account.values())

    def waiting(self, account: str) -> int:
        return len(self._by_account.get(account, ()))

    def add(self, ticket: Ticket) -> None:
        self._by_account.setdefault(ticket.account, deque()).append(ticket)

    def next(self) -> Ticket | None:
        return next(iter(self._by_account.values()))[0] if self._by_account else None

    def served(self) -> None:
        """Take the next ticket out; its account's turn comes again after all others'."""
        account, tickets = self._by_account.popitem(last=False)
        tickets.popleft()
        if tickets:
            self._by_account[account] = tickets

    def leave(self, ticket: Ticket) -> None:
        """Take a ticket out that may be served already; no turn is lost."""
        tickets = self._by_account.get(ticket.account)
        if tickets is not None and ticket in tickets:
            tickets.remove(ticket)
            if not tickets:
                del self._by_account[ticket.account]


class Admission:
    def __init__(self, settings: Settings, pool: EnginePool) -> None:
        self._settings = settings
        self._pool = pool
        self._balance = Balance()
        self._queues: dict[str, FairQueue] = {}

    @property
    def is_on(self) -> bool:
        return self._settings.admission == "on"

    @property
    def waiting(self) -> int:
        return sum(len(queue) for queue in self._queues.values())

    def waiting_by_model(self) -> dict[str, int]:
        return {model: len(queue) for model, queue in self._queues.items()}

    async def place(
        self,
        model: str,
        budget: ThinkingBudget,
        *,
        tokens: int,
        prefix: Prefix,
        account: str,
        avoiding: frozenset[str] = frozenset(),
    ) -> Place:
        """The engine to use. Whoever gets a place has to leave it.

        Args:
            tokens: what the request may come to hold in the engine's cache.
            prefix: of its prompt.
            avoiding: URLs of engines that have just failed this request.

        Raises:
            Overloaded: the queue is full, or no engine has had room in time.
            QuotaExceeded: too many requests of this account wait.
            EngineUnavailable, InvalidRequest: as `EnginePool.able`.
        """
        place: asyncio.Future[Engine] = asyncio.get_running_loop().create_future()
        engine = await self._seat(Ticket(account, model, budget, tokens, prefix, place, avoiding))
        return Place(self, model, engine, tokens)

    def left(self, place: Place) -> None:
        place.engine.committed_tokens -= place.tokens
        self._serve(place.model)

    def pressure(self, model: str, budget: ThinkingBudget) -> float | None:
        """How full the emptiest engine for this is, from 0 to 1; None if that isn't known."""
        if len(self._queues.get(model, ())):
            return 1.0
        filled = [self._filled(engine) for engine in self._pool.able(model, budget)]
        known = [part for part in filled if part is not None]
        return min(1.0, *known) if known and len(known) == len(filled) else None

    async def _seat(self, ticket: Ticket) -> Engine:
        model, account, tokens = ticket.model, ticket.account, ticket.tokens
        if not self.is_on:
            engine = self._choose(self._able(ticket), ticket)
            engine.committed_tokens += tokens
            return engine
        queue = self._queues.setdefault(model, FairQueue())
        if not len(queue):
            engine_now = self._with_room(ticket)
            if engine_now is not None:
                engine_now.committed_tokens += tokens
                return engine_now
        self._check_queue(queue, account)
        queue.add(ticket)
        try:
            return await self._wait(ticket)
        except BaseException:
            queue.leave(ticket)
            self._give_back(ticket)
            raise
        finally:
            self._forget_if_empty(model)

    async def _wait(self, ticket: Ticket) -> Engine:
        limit_s = self._settings.admission_queue_timeout_s
        try:
            async with asyncio.timeout(limit_s):
                while not ticket.place.done():
                    await asyncio.wait({ticket.place}, timeout=_LOOK_INTERVAL_S)
                    self._serve(ticket.model)
        except TimeoutError:
            if not ticket.place.done():
                raise Overloaded(
                    f"no engine had room for this request's {ticket.tokens} tokens within {limit_s:g} s",
                    code="queue_timeout",
                ) from None
        return ticket.place.result()

    def _serve(self, model: str) -> None:
        """Give places to whoever is next, as long as there is room."""
        queue = self._queues.get(model)
        while queue is not None and (ticket := queue.next()) is not None:
            try:
                engine = self._with_room(ticket)
            except (EngineUnavailable, InvalidRequest) as error:
                queue.served()
                ticket.place.set_exception(error)
                continue
            if engine is None:
                return
            engine.committed_tokens += ticket.tokens
            queue.served()
            ticket.place.set_result(engine)

    def _give_back(self, ticket: Ticket) -> None:
        """Undo a place that was given in the moment in which its request left; the next one moves up."""
        if ticket.place.done() and ticket.place.exception() is None:
            ticket.place.result().committed_tokens -= ticket.tokens
        self._serve(ticket.model)

    def _with_room(self, ticket: Ticket) -> Engine | None:
        roomy = [engine for engine in self._able(ticket) if self._has_room(engine, ticket.tokens)]
        return self._choose(roomy, ticket) if roomy else None

    def _choose(self, engines: list[Engine], ticket: Ticket) -> Engine:
        return self._balance.choose(engines, tokens=ticket.tokens, prefix=ticket.prefix)

    def _able(self, ticket: Ticket) -> list[Engine]:
        able = self._pool.able(ticket.model, ticket.budget)
        return [engine for engine in able if engine.url not in ticket.avoiding] or able

    def _has_room(self, engine: Engine, tokens: int) -> bool:
        capacity = self._capacity(engine)
        # Choices that don't fit together are served all the same, if they have the engine for themselves.
        return capacity is None or engine.committed_tokens + min(tokens, capacity) <= capacity

    def _capacity(self, engine: Engine) -> int | None:
        held = engine.status.kv_cache_tokens
        return None if held is None else max(1, int(held * self._settings.admission_overcommit))

    def _filled(self, engine: Engine) -> float | None:
        capacity = self._capacity(engine)
        return None if capacity is None else engine.committed_tokens / capacity

    def _check_queue(self, queue: FairQueue, account: str) -> None:
        own, most = self._settings.admission_queue_per_key, self._settings.admission_queue_size
        if self.waiting >= most:
            raise Overloaded(f"all engines are busy, and {most} requests wait already", code="queue_full")
        if queue.waiting(account) >= own:
            raise QuotaExceeded(
                f"{own} requests of this key wait for an engine already",
                code="queue_full",
                headers=retry_after(1),
            )

    def _forget_if_empty(self, model: str) -> None:
        if not len(self._queues.get(model, ())):
            self._queues.pop(model, None)


def shrunk(
    budget: ThinkingBudget, *, most: int | None, pressure: float | None, settings: Settings
) -> ThinkingBudget:
    """A smaller maximum for a new request while engines are nearly full; in a full one it is the floor.

    A request without a budget stays without: its thinking is not limited by anybody. A minimum that the
    client asked for is kept.

    Args:
        most: thinking tokens that the request could have.
        pressure: filled part of the engines, 0 to 1; None: unknown.
    """
    above = settings.shrink_above
    if above is None or pressure is None or pressure <= above or most is None or not budget.is_set:
        return budget
    floor = max(settings.shrink_floor_tokens, budget.min_thinking_tokens or 0)
    if most <= floor:
        return budget
    maximum = floor + round((most - floor) * (1 - pressure) / (1 - above))
    landing = budget.landing_tokens
    return replace(
        budget, max_thinking_tokens=maximum, landing_tokens=None if landing is None else min(landing, maximum)
    )
