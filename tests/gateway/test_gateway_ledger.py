"""The ledger: never overspent, refunds exact; in memory and in Redis the same."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass, field

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from server.gateway.access.ledger import DAY_S, MINUTE_S, Ask, Ledger, MemoryLedger, Outcome, Window
from server.gateway.access.ledger_redis import RedisLedger, connect
from server.gateway.errors import QuotaStoreUnavailable
from tests.gateway.redis_server import RunningRedis, redis_server

MINUTE = Window("thinking_tokens_per_minute", MINUTE_S, 50)
DAY = Window("thinking_tokens_per_day", DAY_S, 120)
TOTAL = Window("tokens_per_minute", MINUTE_S, 80)
CONCURRENCY = 4


@dataclass
class Clock:
    now: float = 1_800_000_030.25

    def __call__(self) -> float:
        return self.now


def thinking(want: int, least: int | None = None, step: int = 1) -> Ask:
    return Ask("thinking", want, want if least is None else least, step, (MINUTE, DAY))


def total(want: int) -> Ask:
    return Ask("total", want, want, 1, (TOTAL,))


@dataclass(frozen=True)
class Reserve:
    want: int
    least: int
    step: int
    total: int


@dataclass(frozen=True)
class Settle:
    which: int
    """Of those under way."""
    percent: int


@dataclass(frozen=True)
class Wait:
    seconds: float


OPERATIONS = st.lists(
    st.one_of(
        st.builds(Reserve, st.integers(0, 60), st.integers(0, 30), st.integers(1, 3), st.integers(0, 60)),
        st.builds(Settle, st.integers(0, CONCURRENCY - 1), st.integers(0, 100)),
        st.builds(Wait, st.sampled_from([0.5, 20.0, 59.5, 60.0, 3600.0, float(DAY_S)])),
    ),
    max_size=30,
)


@dataclass
class Replay:
    """Runs operations on a ledger and keeps its own books."""

    ledger: Ledger
    clock: Clock
    account: str = "k"
    taken: dict[str, tuple[float, Outcome]] = field(default_factory=dict)
    spent: list[tuple[float, int, int]] = field(default_factory=list)
    """When it was admitted, thinking and total tokens used."""
    outcomes: list[Outcome] = field(default_factory=list)
    count: int = 0

    async def run(self, operations: list[Reserve | Settle | Wait]) -> None:
        for operation in operations:
            match operation:
                case Wait(seconds):
                    self.clock.now += seconds
                case Reserve():
                    await self.reserve(operation)
                case Settle(which, percent):
                    if self.taken:
                        await self.settle(sorted(self.taken)[which % len(self.taken)], percent)

    async def reserve(self, operation: Reserve) -> None:
        id = f"r{self.count:03}"
        self.count += 1
        least = operation.least - operation.least % operation.step
        asks = [thinking(operation.want, min(least, operation.want), operation.step), total(operation.total)]
        outcome = await self.ledger.reserve(self.account, id, asks, concurrency=CONCURRENCY)
        self.outcomes.append(outcome)
        if outcome.refused_by is None:
            self.taken[id] = (self.clock.now, outcome)

    async def settle(self, id: str, percent: int) -> None:
        admitted, outcome = self.taken.pop(id)
        used = {name: amount * percent // 100 for name, amount in outcome.amounts.items()}
        assert await self.ledger.settle(self.account, id, used)
        assert not await self.ledger.settle(self.account, id, {})
        self.spent.append((admitted, used["thinking"], used["total"]))

    def expected(self, window: Window) -> int:
        """Spent and reserved in the present period."""
        resource = 2 if window is TOTAL else 1
        name = "total" if window is TOTAL else "thinking"
        period = self.clock.now // window.period_s
        reserved = [(admitted, outcome.amounts[name]) for admitted, outcome in self.taken.values()]
        charges = [(row[0], row[resource]) for row in self.spent] + reserved
        return sum(amount for admitted, amount in charges if admitted // window.period_s == period)


@settings(max_examples=300, deadline=None, derandomize=True)
@given(OPERATIONS)
def test_nothing_is_overspent_and_refunds_are_exact(operations: list[Reserve | Settle | Wait]) -> None:
    async def run() -> None:
        clock = Clock()
        replay = Replay(MemoryLedger(clock), clock)
        for operation in operations:
            await replay.run([operation])
            peek = await replay.ledger.reserve("k", "peek", [thinking(0), total(0)], concurrency=None)
            await replay.ledger.settle("k", "peek", {})
            for state in peek.states:
                assert state.used == replay.expected(state.window) <= state.window.limit
            assert len(replay.taken) <= CONCURRENCY
        check_outcomes(replay.outcomes)

    asyncio.run(run())


def check_outcomes(outcomes: list[Outcome]) -> None:
    for outcome in outcomes:
        assert outcome.amounts == {} or outcome.refused_by is None
        assert all(0 < state.resets_in_s <= state.window.period_s for state in outcome.states)


@pytest.fixture(scope="module")
def store() -> Iterator[RunningRedis]:
    with redis_server() as running:
        yield running


@pytest.fixture
async def shared(store: RunningRedis) -> AsyncIterator[RedisLedger]:
    ledger = RedisLedger(connect(store.url), lease_s=3 * DAY_S)
    yield ledger
    await ledger.close()


@settings(max_examples=40, deadline=None, derandomize=True)
@given(operations=OPERATIONS)
def test_redis_and_memory_do_the_same(store: RunningRedis, operations: list[Reserve | Settle | Wait]) -> None:
    async def run() -> None:
        clocks = Clock(), Clock()
        ledger = RedisLedger(connect(store.url), lease_s=90 * DAY_S, clock=clocks[0])
        await ledger._client.flushall()
        in_redis, in_memory = Replay(ledger, clocks[0]), Replay(MemoryLedger(clocks[1]), clocks[1])
        await in_redis.run(operations)
        await in_memory.run(operations)
        assert in_redis.outcomes == in_memory.outcomes
        await ledger.close()

    asyncio.run(run())


async def test_a_part_is_taken_if_the_request_allows_it() -> None:
    ledger = MemoryLedger(Clock())
    await ledger.reserve("k", "a", [thinking(30)], concurrency=None)
    part = await ledger.reserve("k", "b", [thinking(40, least=10, step=3)], concurrency=None)
    assert part.amounts == {"thinking": 18}
    assert part.state(MINUTE.name).remaining == 2
    refused = await ledger.reserve("k", "c", [thinking(40, least=3)], concurrency=None)
    assert (refused.refused_by, refused.amounts) == (MINUTE.name, {})


async def test_what_was_used_beyond_a_reservation_is_charged() -> None:
    ledger = MemoryLedger(Clock())
    await ledger.reserve("k", "a", [total(10)], concurrency=None)
    await ledger.settle("k", "a", {"total": 100})
    outcome = await ledger.reserve("k", "b", [total(1)], concurrency=None)
    assert outcome.refused_by == TOTAL.name
    assert (outcome.states[0].used, outcome.states[0].remaining) == (100, 0)


async def test_the_window_is_named_that_has_least_left() -> None:
    clock = Clock()
    ledger = MemoryLedger(clock)
    for minute in range(2):
        await ledger.reserve("k", f"a{minute}", [thinking(50)], concurrency=None)
        clock.now += MINUTE_S
    assert (await ledger.reserve("k", "b", [thinking(21)], concurrency=None)).refused_by == DAY.name
    assert (await ledger.reserve("k", "c", [thinking(20)], concurrency=None)).refused_by is None


async def test_two_ledgers_over_one_redis_share_an_account(store: RunningRedis, shared: RedisLedger) -> None:
    other = RedisLedger(connect(store.url), lease_s=60)
    ledgers = [shared, other] * 20
    outcomes = await asyncio.gather(
        *(
            ledger.reserve("both", f"r{number}", [thinking(4)], concurrency=None)
            for number, ledger in enumerate(ledgers)
        )
    )
    assert sum(outcome.refused_by is None for outcome in outcomes) == 12
    admitted = next(i for i, outcome in enumerate(outcomes) if outcome.refused_by is None)
    assert await other.settle("both", f"r{admitted}", {"thinking": 1})
    await other.close()


async def test_a_reservation_that_is_repeated_counts_once(shared: RedisLedger) -> None:
    for _ in range(3):
        outcome = await shared.reserve("again", "a", [thinking(20)], concurrency=1)
        assert (outcome.refused_by, outcome.states[0].used, outcome.under_way) == (None, 20, 1)


async def test_a_gateway_that_is_gone_holds_no_place_but_its_tokens_stay_spent_unless_it_settles(
    store: RunningRedis,
) -> None:
    clock = Clock()
    ledger = RedisLedger(connect(store.url), lease_s=10, clock=clock)
    asks = [thinking(20)]
    await ledger.reserve("lease", "gone", asks, concurrency=2)
    await ledger.reserve("lease", "alive", asks, concurrency=2)
    assert (await ledger.reserve("lease", "c", [thinking(1)], concurrency=2)).refused_by == "concurrency"
    clock.now += 9
    await ledger.renew({"lease": ["alive", "unknown"]})
    clock.now += 9
    outcome = await ledger.reserve("lease", "c", [thinking(1)], concurrency=2)
    assert (outcome.refused_by, outcome.under_way, outcome.states[0].used) == (None, 2, 41)
    assert await ledger.settle("lease", "gone", {"thinking": 5})
    assert not await ledger.settle("lease", "gone", {})
    assert await ledger.settle("lease", "alive", {})
    outcome = await ledger.reserve("lease", "d", [thinking(0)], concurrency=2)
    assert (outcome.under_way, outcome.states[0].used) == (2, 6)
    await ledger.close()


async def test_what_is_never_settled_is_forgotten_when_its_windows_are_over(store: RunningRedis) -> None:
    clock = Clock()
    ledger = RedisLedger(connect(store.url), lease_s=10, clock=clock)
    for _ in range(3):
        await ledger.reserve("lost", f"{clock.now}", [thinking(20)], concurrency=1)
        clock.now += 3 * DAY_S
    assert await ledger._client.hlen("s1-quota:{lost}:open") == 1
    await ledger.close()


@pytest.mark.parametrize("kind", ["memory", "redis"])
async def test_a_late_refund_is_not_the_next_windows(store: RunningRedis, kind: str) -> None:
    clock = Clock()
    ledger: Ledger = MemoryLedger(clock)
    if kind == "redis":
        ledger = RedisLedger(connect(store.url), lease_s=DAY_S, clock=clock)
    await ledger.reserve("late", "old", [thinking(40)], concurrency=None)
    clock.now += MINUTE_S
    await ledger.reserve("late", "new", [thinking(30)], concurrency=None)
    assert await ledger.settle("late", "old", {"thinking": 5})
    outcome = await ledger.reserve("late", "peek", [thinking(0)], concurrency=None)
    # The day is the same one.
    assert [state.used for state in outcome.states] == [30, 35]
    await ledger.close()


async def test_a_redis_that_is_gone_is_named() -> None:
    ledger = RedisLedger(connect("unix:///nowhere/redis.sock"), lease_s=10)
    with pytest.raises(QuotaStoreUnavailable, match="can't be reached"):
        await ledger.reserve("k", "a", [thinking(1)], concurrency=None)
    await ledger.close()
