"""Admission by tokens: who waits, who is refused, and in which order places are given."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from server.budget.spec import ThinkingBudget
from server.gateway.engines.admission import FairQueue, Ticket, shrunk
from server.gateway.engines.balance import Prefix
from server.gateway.engines.capacity import kv_cache_tokens
from server.gateway.engines.demand import Demand, estimate_tokens
from server.gateway.settings import Settings
from tests.gateway.serving import eventually, gateway
from tests.gateway.stand_in import Faults, StandIn, running
from tests.gateway.test_gateway_chat import ASK
from tests.gateway.with_keys import KeysForTests, error_of

CHAT = "/v1/chat/completions"
BIG = {"max_completion_tokens": 900}
"""With its prompt, more than half of the engine below."""


@asynccontextmanager
async def crowded(**settings: Any) -> AsyncIterator[tuple[httpx.AsyncClient, StandIn]]:
    """An engine with room for one big request, which stalls until it is released."""
    async with (
        running(StandIn(kv_blocks=100)) as engine,
        gateway(engine.url, admission="on", **settings) as client,
    ):
        engine.faults = Faults(stall_after=0)
        yield client, engine


def ask(client: httpx.AsyncClient, headers: dict[str, str] | None = None, **fields: Any) -> asyncio.Task[Any]:
    return asyncio.create_task(client.post(CHAT, json=ASK | BIG | fields, headers=headers))


def waiting(client: httpx.AsyncClient) -> int:
    count: int = client.turnstile.admission.waiting  # type: ignore[attr-defined]
    return count


async def test_a_request_waits_until_there_is_room() -> None:
    async with crowded() as (client, engine):
        assert (await client.get("/ready")).json()["engines"][0]["kv_cache_tokens"] == 1600
        asking = [ask(client) for _ in range(3)]
        await eventually(lambda: engine.active == 1 and waiting(client) == 2)
        # A small one would fit, but those before it are first.
        asking.append(ask(client, max_completion_tokens=10))
        await eventually(lambda: waiting(client) == 3)
        assert len(engine.bodies) == 1
        engine.release.set()
        assert [done.status_code for done in await asyncio.gather(*asking)] == [200] * 4
        assert client.pool.engines[0].committed_tokens == 0
        assert waiting(client) == 0


async def test_small_requests_share_the_engine() -> None:
    async with crowded() as (client, engine):
        asking = [ask(client, max_completion_tokens=100) for _ in range(10)]
        await eventually(lambda: engine.active == 10)
        engine.release.set()
        await asyncio.gather(*asking)


async def test_choices_that_dont_fit_together_have_the_engine_for_themselves() -> None:
    async with crowded() as (client, engine):
        many = ask(client, n=4)
        await eventually(lambda: engine.active == 4)
        other = ask(client, max_completion_tokens=10)
        await eventually(lambda: waiting(client) == 1)
        engine.release.set()
        assert (await many).status_code == (await other).status_code == 200


async def test_budgets_say_how_much_room_is_needed() -> None:
    async with crowded(admission_answer_tokens=100) as (client, engine):
        body = {"model": "tiny", "messages": ASK["messages"], "max_thinking_tokens": 300}
        asking = [asyncio.create_task(client.post(CHAT, json=body)) for _ in range(4)]
        await eventually(lambda: engine.active == 3 and waiting(client) == 1)
        engine.release.set()
        assert [done.status_code for done in await asyncio.gather(*asking)] == [200] * 4


@pytest.mark.parametrize("stream", [False, True], ids=["whole", "stream"])
async def test_a_client_that_leaves_the_queue_frees_its_place(stream: bool) -> None:
    async with crowded(admission_queue_size=1) as (client, engine):
        first = ask(client)
        await eventually(lambda: engine.active == 1)
        second = ask(client, stream=stream)
        await eventually(lambda: waiting(client) == 1)
        second.cancel()
        await eventually(lambda: waiting(client) == 0)
        third = ask(client)
        await eventually(lambda: waiting(client) == 1)
        engine.release.set()
        assert (await first).status_code == (await third).status_code == 200
        assert len(engine.bodies) == 2


async def test_a_full_queue_refuses() -> None:
    async with crowded(admission_queue_size=2) as (client, engine):
        asking = [ask(client) for _ in range(3)]
        await eventually(lambda: waiting(client) == 2)
        response = await ask(client)
        assert response.status_code == 503
        assert response.headers["retry-after"]
        assert (error_of(response)["type"], error_of(response)["code"]) == ("server_error", "queue_full")
        engine.release.set()
        await asyncio.gather(*asking)


async def test_one_key_does_not_fill_the_queue(tmp_path: Path) -> None:
    keys = KeysForTests(tmp_path / "keys.json")
    ann, ben = keys.add("ann"), keys.add("ben")
    async with crowded(admission_queue_per_key=1, keys_file=keys.path) as (client, engine):
        asking = [ask(client, ann)]
        await eventually(lambda: engine.active == 1)
        asking.append(ask(client, ann))
        await eventually(lambda: waiting(client) == 1)
        response = await ask(client, ann)
        assert (response.status_code, error_of(response)["code"]) == (429, "queue_full")
        assert response.headers["retry-after"] == "1"
        asking.append(ask(client, ben))
        await eventually(lambda: waiting(client) == 2)
        engine.release.set()
        assert [done.status_code for done in await asyncio.gather(*asking)] == [200] * 3


async def test_waiting_has_a_deadline(tmp_path: Path) -> None:
    keys = KeysForTests(tmp_path / "keys.json")
    ann = keys.add("ann", quotas={"thinking_tokens_per_day": 5000})
    async with crowded(admission_queue_timeout_s=0.05, keys_file=keys.path) as (client, engine):
        first = ask(client, ann, max_thinking_tokens=500)
        await eventually(lambda: engine.active == 1)
        response = await ask(client, ann, max_thinking_tokens=500)
        assert (response.status_code, error_of(response)["code"]) == (503, "queue_timeout")
        assert waiting(client) == 0
        engine.release.set()
        used = (await first).json()["choices"][0]["thinking_budget"]["thinking_tokens"]
        # The one that was refused is not charged.
        left = await ask(client, ann, max_thinking_tokens=0)
        assert left.headers["x-ratelimit-remaining-thinking-tokens"] == str(5000 - used)


async def test_keys_take_turns(tmp_path: Path) -> None:
    keys = KeysForTests(tmp_path / "keys.json")
    ann, ben = keys.add("ann"), keys.add("ben")
    async with crowded(keys_file=keys.path) as (client, engine):
        asking = [ask(client, ann, user="ann0")]
        await eventually(lambda: engine.active == 1)
        for number, (headers, user) in enumerate(
            [(ann, "ann1"), (ann, "ann2"), (ann, "ann3"), (ben, "ben1"), (ben, "ben2")], start=1
        ):
            asking.append(ask(client, headers, user=user))
            await eventually(lambda number=number: waiting(client) == number)
        engine.release.set()
        await asyncio.gather(*asking)
        order = [body["user"] for body in engine.bodies]
        assert order == ["ann0", "ann1", "ben1", "ann2", "ben2", "ann3"]


async def test_who_waits_is_told_when_the_engine_is_gone() -> None:
    async with crowded() as (client, engine):
        first = ask(client)
        await eventually(lambda: engine.active == 1)
        second = ask(client)
        await eventually(lambda: waiting(client) == 1)
        engine.faults.unhealthy = True
        response = await second
        assert (response.status_code, error_of(response)["code"]) == (503, "engine_unavailable")
        engine.release.set()
        await first


async def test_two_engines_are_filled() -> None:
    async with (
        running(StandIn(kv_blocks=100)) as one,
        running(StandIn(kv_blocks=100)) as two,
        gateway(one.url, two.url, admission="on") as client,
    ):
        one.faults = two.faults = Faults(stall_after=0)
        asking = [ask(client) for _ in range(3)]
        await eventually(lambda: (one.active, two.active, waiting(client)) == (1, 1, 1))
        one.release.set()
        two.release.set()
        await asyncio.gather(*asking)


async def test_an_engine_that_doesnt_say_what_it_holds_is_not_limited() -> None:
    async with running(StandIn(kv_blocks=None)) as engine, gateway(engine.url, admission="on") as client:
        engine.faults = Faults(stall_after=0)
        asking = [ask(client) for _ in range(10)]
        await eventually(lambda: engine.active == 10)
        engine.release.set()
        await asyncio.gather(*asking)


async def test_without_admission_nobody_waits() -> None:
    async with running(StandIn(kv_blocks=1)) as engine, gateway(engine.url) as client:
        engine.faults = Faults(stall_after=0)
        asking = [ask(client) for _ in range(10)]
        await eventually(lambda: engine.active == 10)
        engine.release.set()
        await asyncio.gather(*asking)


async def test_budgets_shrink_under_load_and_the_receipt_says_so() -> None:
    shrinking = {"shrink_above": 0.5, "shrink_floor_tokens": 5}
    async with crowded(**shrinking) as (client, engine):
        first = ask(client, max_completion_tokens=1000)
        await eventually(lambda: engine.active == 1)
        second = ask(client, max_completion_tokens=200, max_thinking_tokens=100)
        plain = ask(client, max_completion_tokens=200)
        await eventually(lambda: engine.active == 3)
        engine.release.set()
        await first
        receipt = (await second).json()["choices"][0]["thinking_budget"]
        assert receipt["requested"] == {"max_thinking_tokens": 100}
        assert 5 < receipt["effective"]["max"] < 100
        assert receipt["clamped_by"] == ["load"]
        # A request without a budget keeps having none.
        assert (await plain).json()["choices"][0]["thinking_budget"]["effective"] is None
        engine.faults = Faults()
        alone = await ask(client, max_thinking_tokens=100)
        assert alone.json()["choices"][0]["thinking_budget"]["effective"]["max"] == 100


def ticket(account: str, number: int, loop: asyncio.AbstractEventLoop) -> Ticket:
    return Ticket(account, "m", ThinkingBudget(), number, Prefix("m", {}), loop.create_future())


@hypothesis_settings(max_examples=200, derandomize=True)
@given(
    st.lists(
        st.one_of(
            st.sampled_from("abc").map(lambda a: ("add", a)),
            st.integers(0, 9).map(lambda i: ("leave", i)),
            st.just(("serve", 0)),
        ),
        max_size=40,
    )
)
def test_turns_are_fair(operations: list[tuple[str, Any]]) -> None:
    """While an account waits, no other is served twice; within an account, the first comes first."""
    loop = asyncio.new_event_loop()
    queue, inside, served = FairQueue(), [], []
    since: dict[str, list[str]] = {}
    for number, (what, which) in enumerate(operations):
        if what == "add":
            inside.append(ticket(which, number, loop))
            queue.add(inside[-1])
            since.setdefault(which, [])
        elif what == "leave" and inside:
            gone = inside.pop(which % len(inside))
            queue.leave(gone)
            queue.leave(gone)
        elif what == "serve" and inside:
            next_one = queue.next()
            assert next_one is min(
                (t for t in inside if t.account == next_one.account), key=lambda t: t.tokens
            )
            queue.served()
            inside.remove(next_one)
            served.append(next_one.account)
            for account, others in since.items():
                if account != next_one.account:
                    others.append(next_one.account)
            since[next_one.account] = []
        for account in list(since):
            if not any(t.account == account for t in inside):
                del since[account]
            assert len(set(since.get(account, []))) == len(since.get(account, []))
        assert len(queue) == len(inside)
    loop.close()


SHRINKING = Settings(shrink_above=0.5, shrink_floor_tokens=100)


@pytest.mark.parametrize(
    ("pressure", "maximum"), [(None, 1000), (0.0, 1000), (0.5, 1000), (0.75, 550), (0.875, 325), (1.0, 100)]
)
def test_shrinking_is_linear_down_to_the_floor(pressure: float | None, maximum: int) -> None:
    budget = ThinkingBudget(max_thinking_tokens=1000, landing_tokens=300)
    smaller = shrunk(budget, most=1000, pressure=pressure, settings=SHRINKING)
    assert smaller.max_thinking_tokens == maximum
    assert smaller.landing_tokens == min(300, maximum)


@pytest.mark.parametrize(
    ("budget", "most", "maximum"),
    [
        (ThinkingBudget(max_thinking_tokens=50), 50, 50),
        (ThinkingBudget(max_thinking_tokens=1000, min_thinking_tokens=400), 1000, 400),
        (ThinkingBudget(num_waits=2), 800, 100),
        (ThinkingBudget(), 800, None),
        (ThinkingBudget(num_waits=2), None, None),
    ],
)
def test_what_does_not_shrink(budget: ThinkingBudget, most: int | None, maximum: int | None) -> None:
    smaller = shrunk(budget, most=most, pressure=1.0, settings=SHRINKING)
    assert smaller.max_thinking_tokens == maximum


def test_what_an_engine_holds() -> None:
    line = 'vllm:cache_config_info{{block_size="{}",dtype="auto",engine="{}",num_gpu_blocks="{}"}} 1.0\n'
    one = "# HELP x\n" + line.format(16, 0, 100)
    assert kv_cache_tokens(one) == 1600
    assert kv_cache_tokens(one + line.format(16, 1, 50)) == 2400
    override = 'vllm:cache_config_info{block_size="16",num_gpu_blocks="7",num_gpu_blocks_override="999"} 1.0'
    assert kv_cache_tokens(override) == 112
    assert kv_cache_tokens('vllm:cache_config_info{block_size="16",num_gpu_blocks="None"} 1.0') is None
    assert kv_cache_tokens("") is None


def test_what_a_request_may_need() -> None:
    budget = ThinkingBudget(max_thinking_tokens=100)
    demand = Demand(prompt=50, asked=None, context=1000, choices=2)
    assert demand.held(ThinkingBudget(), answer_tokens=10) == 2000
    assert demand.held(budget, answer_tokens=10) == 320
    assert (demand.thinking(budget), demand.thinking(ThinkingBudget()), demand.total) == (100, 1000, 2050)
    limited = Demand(prompt=50, asked=40, context=None, choices=1)
    assert limited.held(budget, answer_tokens=10) == 90
    assert (limited.thinking(budget), limited.total) == (40, 90)
    unknown = Demand(prompt=50, asked=None, context=None, choices=1)
    assert (
        unknown.held(budget, answer_tokens=10) is unknown.total is unknown.thinking(ThinkingBudget()) is None
    )


def test_a_prompt_is_estimated_from_its_bytes() -> None:
    assert estimate_tokens("") == 0
    assert estimate_tokens("abcd") == 2
    assert estimate_tokens([{"role": "user", "content": "x" * 300}]) == 8 + 2 + 100
    picture = {"type": "image_url", "image_url": {"url": "data:" + "x" * 10_000}}
    assert estimate_tokens([picture]) < 1100
    nested: list[Any] = []
    for _ in range(100_000):
        nested = [nested]
    assert estimate_tokens(nested) == 0
    assert estimate_tokens("\ud800") == 1
