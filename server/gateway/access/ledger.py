"""What keys have used, and what requests under way have reserved of it.

A request reserves its worst case when it is admitted and settles what it really used at its end. `limits`
counts rates, but has no refund: a counter that only grows would let one request with a large worst case block
its key for a day, and one that counts at the end lets parallel requests overspend.

Windows are the clock's: minutes and UTC days. Everything that a request uses is charged to the windows in
which it was admitted; a window that is over is not corrected any more.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol

MINUTE_S = 60
DAY_S = 86_400
CONCURRENCY = "concurrency"


@dataclass(frozen=True, slots=True)
class Window:
    """A limit on a resource per period."""

    name: str
    period_s: int
    limit: int


@dataclass(frozen=True, slots=True)
class Ask:
    """What a request would reserve of one resource."""

    resource: str
    want: int
    least: int
    """If `want` doesn't fit, what is left is taken, unless it is less than this."""
    step: int
    """A part is a multiple of this: of `n` choices each gets the same."""
    windows: tuple[Window, ...]


@dataclass(frozen=True, slots=True)
class WindowState:
    window: Window
    used: int
    """Reservations under way included; may exceed the limit by what was used beyond a reservation."""
    resets_in_s: float

    @property
    def remaining(self) -> int:
        return max(0, self.window.limit - self.used)


@dataclass(frozen=True, slots=True)
class Outcome:
    """Of an attempt to reserve. If it was refused nothing is reserved."""

    states: tuple[WindowState, ...]
    """Of all windows that were asked, afterwards."""
    under_way: int
    """Requests of this account, this one included if it was not refused."""
    amounts: Mapping[str, int] = field(default_factory=dict)
    """Reserved, by resource."""
    refused_by: str | None = None
    """A window's name, or "concurrency"."""

    def state(self, name: str) -> WindowState:
        return next(state for state in self.states if state.window.name == name)


class Ledger(Protocol):
    async def reserve(
        self, account: str, id: str, asks: Sequence[Ask], *, concurrency: int | None
    ) -> Outcome:
        """Reserve all of `asks` and a place among `concurrency` requests, or nothing. Once per `id`."""

    async def settle(self, account: str, id: str, used: Mapping[str, int]) -> bool:
        """Replace a reservation by what was used of each resource, and free its place.

        Only the first call has an effect; False: there is no such reservation (any more).
        """

    async def renew(self, accounts: Mapping[str, Sequence[str]]) -> None:
        """Say that these reservations, by account, are still under way."""

    async def close(self) -> None: ...


@dataclass(slots=True)
class _Counter:
    period: int = -1
    used: int = 0


@dataclass(frozen=True, slots=True)
class _Charge:
    resource: str
    window: str
    period: int
    amount: int


@dataclass(slots=True)
class _Account:
    counters: dict[str, _Counter] = field(default_factory=dict)
    open: dict[str, list[_Charge]] = field(default_factory=dict)


class MemoryLedger:
    """For one gateway. Nothing here awaits, so nothing needs a lock; it ends with its gateway."""

    def __init__(self, clock: Callable[[], float] = time.time) -> None:
        self._clock = clock
        self._accounts: dict[str, _Account] = {}

    async def reserve(
        self, account: str, id: str, asks: Sequence[Ask], *, concurrency: int | None
    ) -> Outcome:
        now = self._clock()
        own = self._accounts.setdefault(account, _Account())
        amounts = {ask.resource: self._fitting(own, ask, now) for ask in asks}
        refused = CONCURRENCY if concurrency is not None and len(own.open) >= concurrency else None
        for ask in asks:
            if refused is None and amounts[ask.resource] < min(ask.want, ask.least):
                refused = min(ask.windows, key=lambda w: w.limit - _counter(own, w, now).used).name
        if refused is None:
            own.open[id] = [
                _Charge(ask.resource, window.name, int(now // window.period_s), amounts[ask.resource])
                for ask in asks
                for window in ask.windows
            ]
            for charge in own.open[id]:
                own.counters[charge.window].used += charge.amount
        return Outcome(
            states=tuple(_state(own, window, now) for ask in asks for window in ask.windows),
            under_way=len(own.open),
            amounts={} if refused else amounts,
            refused_by=refused,
        )

    async def settle(self, account: str, id: str, used: Mapping[str, int]) -> bool:
        own = self._accounts.get(account)
        charges = own.open.pop(id, None) if own is not None else None
        if own is None or charges is None:
            return False
        for charge in charges:
            counter = own.counters[charge.window]
            if counter.period == charge.period:
                counter.used += used.get(charge.resource, 0) - charge.amount
        return True

    async def renew(self, accounts: Mapping[str, Sequence[str]]) -> None:
        pass

    async def close(self) -> None:
        pass

    def _fitting(self, own: _Account, ask: Ask, now: float) -> int:
        left = min(window.limit - _counter(own, window, now).used for window in ask.windows)
        return ask.want if left >= ask.want else max(0, left - left % ask.step)


def _counter(own: _Account, window: Window, now: float) -> _Counter:
    """The window's counter, begun anew if its period is over."""
    counter = own.counters.setdefault(window.name, _Counter())
    period = int(now // window.period_s)
    if counter.period != period:
        counter.period, counter.used = period, 0
    return counter


def _state(own: _Account, window: Window, now: float) -> WindowState:
    return WindowState(window, _counter(own, window, now).used, window.period_s - now % window.period_s)
