"""What keys may use: reserved at admission, settled exactly, whatever becomes of the request."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import httpx
import pytest

from server.gateway.access import unsettled
from server.gateway.access.ledger import MemoryLedger
from server.gateway.access.rates import duration
from server.gateway.chat import turnstile
from server.gateway.errors import QuotaStoreUnavailable
from tests.gateway import toy_engine
from tests.gateway.serving import eventually, gateway
from tests.gateway.stand_in import EMBEDDED_TOKENS, PROMPT_TOKENS, Faults, StandIn, running
from tests.gateway.test_gateway_chat import ASK
from tests.gateway.test_gateway_stream import events
from tests.gateway.with_keys import KeysForTests, error_of

CHAT = "/v1/chat/completions"
DAY = {"thinking_tokens_per_day": 5000}
REMAINING = "x-ratelimit-remaining-thinking-tokens"
FIXED = 1_800_000_030.0


@dataclass
class Quota:
    """A gateway, and a key with quotas."""

    client: httpx.AsyncClient
    headers: dict[str, str]

    async def ask(self, **fields: Any) -> httpx.Response:
        return await self.client.post(CHAT, json=ASK | fields, headers=self.headers)

    async def spent(self, limit: int = 5000) -> int:
        """Thinking tokens of the day; asks without thinking."""
        response = await self.ask(max_thinking_tokens=0)
        assert response.status_code == 200
        return limit - int(response.headers[REMAINING])

    async def settled(self) -> None:
        await eventually(lambda: not self.client.turnstile._open and not self.client.turnstile._finishing)

    async def leave_stream(self, engine: StandIn, **fields: Any) -> None:
        """Hang up when all choices have stalled in the engine."""
        body = ASK | {"stream": True} | fields
        stalled = engine.stalled + fields.get("n", 1)
        async with self.client.stream("POST", CHAT, json=body, headers=self.headers) as response:
            assert response.status_code == 200
            await anext(response.aiter_lines())
            await eventually(lambda: engine.stalled == stalled)


@asynccontextmanager
async def quota(
    engine_url: str,
    tmp_path: Path,
    quotas: dict[str, int],
    caps: dict[str, int] | None = None,
    ledger: MemoryLedger | None = None,
    **settings: Any,
) -> AsyncIterator[Quota]:
    keys = KeysForTests(tmp_path / "keys.json")
    headers = keys.add("ann", quotas=quotas, caps=caps or {})
    ledger = ledger or MemoryLedger(lambda: FIXED)
    async with gateway(engine_url, keys_file=keys.path, ledger=ledger, **settings) as client:
        yield Quota(client, headers)


@pytest.mark.parametrize("stream", [False, True], ids=["whole", "stream"])
async def test_what_was_not_used_is_given_back(engine: StandIn, tmp_path: Path, stream: bool) -> None:
    async with quota(engine.url, tmp_path, DAY) as held:
        spent = 0
        for fields, used in (
            ({"max_thinking_tokens": 400}, 8),
            ({"max_thinking_tokens": 5}, 5),
            ({"max_thinking_tokens": 100, "min_thinking_tokens": 30}, 32),
            ({"max_thinking_tokens": 6, "n": 3}, 18),
            ({"max_completion_tokens": 100}, 8),
            ({}, 8),
        ):
            response = await held.ask(**fields, stream=stream)
            assert response.status_code == 200
            spent += used
            assert await held.spent() == spent


async def test_twenty_at_once_never_spend_more_than_is_left(engine: StandIn, tmp_path: Path) -> None:
    async with quota(engine.url, tmp_path, DAY) as held:
        engine.faults = Faults(stall_after=0)
        body = {"max_thinking_tokens": 400, "min_thinking_tokens": 400, "max_completion_tokens": 1000}
        asking = [asyncio.create_task(held.ask(**body)) for _ in range(20)]
        await eventually(lambda: engine.active == 12 and sum(task.done() for task in asking) == 8)
        engine.release.set()
        responses = await asyncio.gather(*asking)
        answered = [response.json() for response in responses if response.status_code == 200]
        thought = [answer["choices"][0]["thinking_budget"]["thinking_tokens"] for answer in answered]
        assert thought == [400] * 12
        refused = [response for response in responses if response.status_code == 429]
        assert len(refused) == 8
        assert all(response.headers[REMAINING] == "200" for response in refused)
        engine.faults = Faults()
        assert await held.spent() == 4800


async def test_a_refusal_says_what_and_when(engine: StandIn, tmp_path: Path) -> None:
    async with quota(engine.url, tmp_path, {"thinking_tokens_per_minute": 20, **DAY}) as held:
        assert (await held.ask(max_thinking_tokens=15, min_thinking_tokens=15)).status_code == 200
        response = await held.ask(max_thinking_tokens=15)
        assert response.status_code == 429
        error = error_of(response)
        assert (error["type"], error["code"]) == ("rate_limit_error", "rate_limit_exceeded")
        for part in ("ann", "20 thinking tokens per minute", "5 left", "15"):
            assert part in error["message"]
        told = {name: value for name, value in response.headers.items() if "thinking" in name}
        assert told == {
            "x-ratelimit-limit-thinking-tokens": "20",
            "x-ratelimit-remaining-thinking-tokens": "5",
            "x-ratelimit-reset-thinking-tokens": "30s",
        }
        assert response.headers["retry-after"] == "30"
        assert (await held.ask(max_thinking_tokens=5)).status_code == 200


async def test_while_others_are_under_way_it_is_worth_trying_soon(engine: StandIn, tmp_path: Path) -> None:
    async with quota(engine.url, tmp_path, {"thinking_tokens_per_day": 20}) as held:
        engine.faults = Faults(stall_after=0)
        first = asyncio.create_task(held.ask(max_thinking_tokens=15))
        await eventually(lambda: engine.active == 1)
        response = await held.ask(max_thinking_tokens=15)
        assert (response.status_code, response.headers["retry-after"]) == (429, "5")
        engine.release.set()
        await first
        assert (await held.ask(max_thinking_tokens=12)).status_code == 200


@pytest.mark.parametrize(
    ("quotas", "fields", "limit"),
    [
        ({"thinking_tokens_per_day": 500}, {"max_thinking_tokens": 501}, "500 thinking tokens per day"),
        (DAY, {"max_thinking_tokens": 501, "n": 10}, "5000 thinking tokens per day"),
        ({"tokens_per_minute": 100}, {"max_completion_tokens": 100}, "100 tokens per minute"),
    ],
)
async def test_what_can_never_be_had_is_not_worth_trying_again(
    engine: StandIn, tmp_path: Path, quotas: dict[str, int], fields: dict[str, int], limit: str
) -> None:
    async with quota(engine.url, tmp_path, quotas) as held:
        response = await held.ask(**fields)
        assert response.status_code == 429
        assert error_of(response)["code"] == "request_too_large"
        assert limit in error_of(response)["message"]
        assert response.headers["x-should-retry"] == "false"
        assert "retry-after" not in response.headers


@pytest.mark.parametrize("stream", [False, True], ids=["whole", "stream"])
async def test_who_names_no_maximum_gets_what_is_left(engine: StandIn, tmp_path: Path, stream: bool) -> None:
    async with quota(engine.url, tmp_path, {"thinking_tokens_per_day": 300}) as held:
        fields = {"min_thinking_tokens": 290, "stream": stream}
        response = await held.ask(**fields)
        text = response.text
        assert response.status_code == 200
        assert engine.bodies[-1]["vllm_xargs"]["max_thinking_tokens"] == 300
        assert '"clamped_by":["quota"]' in text
        assert '"requested":{"min_thinking_tokens":290}' in text
        spent = await held.spent(300)
        assert 290 <= spent <= 300
        # What is left now is too little to think with.
        assert (await held.ask()).status_code == 429


async def test_a_part_is_the_same_for_each_choice(engine: StandIn, tmp_path: Path) -> None:
    async with quota(engine.url, tmp_path, {"thinking_tokens_per_day": 1000}) as held:
        response = await held.ask(n=3, min_thinking_tokens=320)
        budgets = [choice["thinking_budget"]["effective"]["max"] for choice in response.json()["choices"]]
        assert budgets == [333] * 3
        used = sum(c["thinking_budget"]["thinking_tokens"] for c in response.json()["choices"])
        assert await held.spent(1000) == used


async def test_no_thinking_is_opened_to_fit_a_quota(engine: StandIn, tmp_path: Path) -> None:
    async with quota(engine.url, tmp_path, {"thinking_tokens_per_day": 300}) as held:
        await held.ask(reasoning_effort="none")
        assert engine.bodies[-1]["vllm_xargs"]["max_thinking_tokens"] == 0


async def test_a_request_that_fits_is_left_alone(engine: StandIn, tmp_path: Path) -> None:
    async with quota(engine.url, tmp_path, DAY) as held:
        response = await held.ask(max_completion_tokens=50)
        assert "vllm_xargs" not in engine.bodies[-1]
        assert response.json()["choices"][0]["thinking_budget"]["clamped_by"] == []


@pytest.mark.parametrize("choices", [1, 2])
async def test_leaving_a_stream_costs_what_was_thought(engine: StandIn, tmp_path: Path, choices: int) -> None:
    async with quota(engine.url, tmp_path, DAY) as held:
        engine.faults = Faults(stall_after=3)
        await held.leave_stream(engine, max_thinking_tokens=400, n=choices)
        await held.settled()
        engine.faults = Faults()
        assert await held.spent() == 3 * choices


async def test_leaving_a_whole_answer_costs_what_was_thought(engine: StandIn, tmp_path: Path) -> None:
    async with quota(engine.url, tmp_path, DAY) as held:
        engine.faults = Faults(stall_after=0, tokens_in_stall=7)
        asking = asyncio.create_task(held.ask(max_thinking_tokens=400, min_thinking_tokens=400))
        await eventually(lambda: engine.active == 1)
        asking.cancel()
        await held.settled()
        engine.faults = Faults()
        assert await held.spent() == 7


async def test_leaving_without_a_receipt_costs_what_was_reserved(engine: StandIn, tmp_path: Path) -> None:
    async with quota(engine.url, tmp_path, DAY) as held:
        engine.faults = Faults(stall_after=0, no_receipt=True)
        asking = asyncio.create_task(held.ask(max_thinking_tokens=400))
        await eventually(lambda: engine.active == 1)
        asking.cancel()
        await held.settled()
        engine.faults = Faults()
        assert await held.spent() == 400


async def test_leaving_a_stream_without_a_budget_costs_what_was_seen(engine: StandIn, tmp_path: Path) -> None:
    async with quota(engine.url, tmp_path, DAY) as held:
        engine.faults = Faults(stall_after=5)
        await held.leave_stream(engine, max_completion_tokens=400)
        await held.settled()
        engine.faults = Faults()
        assert await held.spent() == 5


@pytest.mark.parametrize("asked", [False, True])
async def test_token_ids_are_for_those_who_ask(engine: StandIn, tmp_path: Path, asked: bool) -> None:
    async with quota(engine.url, tmp_path, DAY) as held:
        held.client.headers.update(held.headers)
        chunks = await events(held.client, max_completion_tokens=400, return_token_ids=asked)
        assert engine.bodies[-1]["return_token_ids"] is True
        assert any("token_ids" in str(chunk) for chunk in chunks) is asked
        assert await held.spent() == 8


@pytest.mark.parametrize("stream", [False, True], ids=["whole", "stream"])
@pytest.mark.parametrize(
    ("faults", "charged"),
    [
        (Faults(refuse=(400, {"error": {"message": "too long", "code": 400}})), 0),
        (Faults(refuse=(500, {"error": {"message": "broken", "code": 500}})), 0),
        (Faults(die_after=0), 0),
    ],
    ids=["refused", "broken", "died"],
)
@pytest.mark.parametrize("budget", [{"max_thinking_tokens": 400}, {"max_completion_tokens": 400}])
async def test_what_an_engine_fails_is_free(
    engine: StandIn, tmp_path: Path, faults: Faults, charged: int, budget: dict[str, int], stream: bool
) -> None:
    async with quota(engine.url, tmp_path, DAY) as held:
        engine.faults = faults
        response = await held.ask(**budget, stream=stream)
        assert response.status_code >= 400
        await held.settled()
        engine.faults = Faults()
        assert await held.spent() == charged


@pytest.mark.parametrize("stream", [False, True], ids=["whole", "stream"])
async def test_what_an_engine_refuses_is_given_back_at_once(
    engine: StandIn, tmp_path: Path, stream: bool
) -> None:
    async with quota(engine.url, tmp_path, {"concurrency": 1, **DAY}) as held:
        engine.faults = Faults(refuse=(400, {"error": {"message": "too long", "code": 400}}))
        asked = engine.receipts_asked
        for _ in range(3):
            assert (await held.ask(max_thinking_tokens=400, stream=stream)).status_code == 400
        assert engine.receipts_asked == asked


async def test_a_refusal_within_a_stream_costs_what_came_before(engine: StandIn, tmp_path: Path) -> None:
    async with quota(engine.url, tmp_path, DAY) as held:
        engine.faults = Faults(garbage_after=3, garbage=b'{"error": {"message": "no", "code": 400}}')
        response = await held.ask(max_thinking_tokens=400, stream=True)
        assert '"no"' in response.text
        await held.settled()
        engine.faults = Faults()
        # The stand-in's receipt is of the whole answer, however little of it was sent.
        assert await held.spent() == 8


async def test_all_choices_are_inquired_of_at_once(engine: StandIn, tmp_path: Path) -> None:
    async with quota(engine.url, tmp_path, DAY) as held:
        engine.faults = Faults(stall_after=3, stall_receipt=True)
        await held.leave_stream(engine, max_thinking_tokens=400, n=4)
        await eventually(lambda: engine.receipt_waits == 4 and engine.active == 0, within_s=4)
        engine.release.set()
        await held.settled()
        engine.faults = Faults()
        assert await held.spent() == 3 * 4


@dataclass
class Away(MemoryLedger):
    """A store that is away: it refuses so many settlements, or lets them wait until it is back."""

    refuses: int = 0
    attempts: int = 0
    back: asyncio.Event = field(default_factory=asyncio.Event)

    def __post_init__(self) -> None:
        super().__init__(lambda: FIXED)

    async def settle(self, account: str, id: str, used: Mapping[str, int]) -> bool:
        self.attempts += 1
        if self.attempts <= self.refuses:
            raise QuotaStoreUnavailable("away")
        await self.back.wait()
        return await super().settle(account, id, used)


@pytest.mark.parametrize("stream", [False, True], ids=["whole", "stream"])
async def test_an_answer_is_not_withheld_for_a_store_that_is_away(
    engine: StandIn, tmp_path: Path, stream: bool
) -> None:
    ledger = Away()
    async with quota(engine.url, tmp_path, DAY, ledger=ledger) as held:
        async with asyncio.timeout(15):
            response = await held.ask(max_thinking_tokens=400, stream=stream)
        assert response.status_code == 200
        assert held.client.turnstile._open
        ledger.back.set()
        await held.settled()
        assert await held.spent() == 8


@pytest.mark.parametrize("left", [False, True], ids=["whole", "left"])
async def test_the_last_settlements_are_waited_for(engine: StandIn, tmp_path: Path, left: bool) -> None:
    ledger = Away()
    async with quota(engine.url, tmp_path, DAY, ledger=ledger) as held:
        if left:
            engine.faults = Faults(stall_after=3)
            await held.leave_stream(engine, max_thinking_tokens=400)
            await eventually(lambda: ledger.attempts == 1)
        else:
            assert (await held.ask(max_thinking_tokens=400)).status_code == 200
        asyncio.get_running_loop().call_later(1.5, ledger.back.set)
    assert [own.open for own in ledger._accounts.values()] == [{}]


async def test_a_settlement_is_put_off_until_the_store_is_back(
    engine: StandIn, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(turnstile, "_SETTLE_RETRIES_S", (0.01, 0.01))
    monkeypatch.setattr(turnstile, "_SETTLE_WAIT_S", 60)
    ledger = Away(refuses=6)
    ledger.back.set()
    async with quota(engine.url, tmp_path, DAY, ledger=ledger, lease_s=0.06) as held:
        assert (await held.ask(max_thinking_tokens=400)).status_code == 200
        assert ledger.attempts >= 3 and not held.client.turnstile._open
        await eventually(lambda: ledger.attempts > 6)
        assert await held.spent() == 8


async def test_a_settlement_that_was_put_off_is_tried_once_more_at_the_end(
    engine: StandIn, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(turnstile, "_SETTLE_RETRIES_S", ())
    ledger = Away(refuses=1)
    ledger.back.set()
    async with quota(engine.url, tmp_path, DAY, ledger=ledger) as held:
        assert (await held.ask(max_thinking_tokens=400)).status_code == 200
        await held.settled()
    assert [own.open for own in ledger._accounts.values()] == [{}]


async def test_of_too_many_settlements_the_oldest_is_dropped(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(unsettled, "_MOST", 2)
    ledger = MemoryLedger(lambda: FIXED)
    waiting = unsettled.Unsettled(ledger)
    for id in ("oldest", "a", "b"):
        await ledger.reserve("k", id, [], concurrency=None)
        waiting.add("k", id, {})
    await waiting.settle()
    assert list(ledger._accounts["k"].open) == ["oldest"]
    assert len(waiting) == 0


async def test_charges_are_not_dropped_for_settlements_of_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(unsettled, "_MOST", 3)
    ledger = MemoryLedger(lambda: FIXED)
    waiting = unsettled.Unsettled(ledger)
    charges = {"used 1": 5, "refused 1": 0, "used 2": 7, "refused 2": 0, "refused 3": 0}
    for id, tokens in charges.items():
        await ledger.reserve("k", id, [], concurrency=None)
        waiting.add("k", id, {"thinking": 0, "total": tokens})
    assert len(waiting) == 3
    await waiting.settle()
    assert list(ledger._accounts["k"].open) == ["refused 1", "refused 2"]
    assert len(waiting) == 0


@pytest.mark.parametrize("fault", ["die_after", "end_early_after", "error_after", "garbage_after"])
@pytest.mark.parametrize("accounts", [True, False], ids=["accounted", "gone"])
async def test_a_stream_that_fails_costs_what_the_engine_accounts_for(
    engine: StandIn, tmp_path: Path, fault: str, accounts: bool
) -> None:
    async with quota(engine.url, tmp_path, DAY) as held:
        engine.faults = Faults(**{fault: 3}, no_receipt=not accounts)
        response = await held.ask(max_thinking_tokens=400, stream=True)
        assert "error" in response.text.splitlines()[-2]
        await held.settled()
        engine.faults = Faults()
        # The stand-in's receipt is of the whole answer, however little of it was sent.
        assert await held.spent() == (8 if accounts else 0)


async def test_what_is_refused_by_the_gateway_itself_is_free(engine: StandIn, tmp_path: Path) -> None:
    async with quota(engine.url, tmp_path, DAY) as held:
        response = await held.ask(max_thinking_tokens=400, max_completion_tokens=3)
        assert response.status_code == 400
        assert await held.spent() == 0


async def test_total_tokens_are_limited_too(engine: StandIn, tmp_path: Path) -> None:
    async with quota(engine.url, tmp_path, {"tokens_per_minute": 1000}) as held:
        response = await held.ask(max_thinking_tokens=4, max_completion_tokens=900)
        assert response.status_code == 200
        assert response.headers["x-ratelimit-limit-tokens"] == "1000"
        used = response.json()["usage"]["total_tokens"]
        assert used == PROMPT_TOKENS + response.json()["usage"]["completion_tokens"]
        response = await held.ask(max_thinking_tokens=4, max_completion_tokens=970)
        assert response.status_code == 429
        assert response.headers["x-ratelimit-remaining-tokens"] == str(1000 - used)
        assert "tokens per minute" in error_of(response)["message"]
        # Without a limit of its own a request takes what is left.
        assert (await held.ask()).status_code == 200


async def test_requests_per_minute(engine: StandIn, tmp_path: Path) -> None:
    async with quota(engine.url, tmp_path, {"requests_per_minute": 3}) as held:
        for left in (2, 1):
            response = await held.ask()
            assert response.headers["x-ratelimit-limit-requests"] == "3"
            assert response.headers["x-ratelimit-remaining-requests"] == str(left)
        # Requests that are wrong count; reading what is served doesn't.
        assert (await held.ask(joy=1)).headers["x-ratelimit-remaining-requests"] == "0"
        assert (await held.client.get("/v1/models", headers=held.headers)).status_code == 200
        for path in (CHAT, "/v1/completions", "/v1/embeddings", "/tokenize", "/detokenize", "/nowhere"):
            response = await held.client.post(path, json=ASK, headers=held.headers)
            assert response.status_code == 429
            assert error_of(response)["code"] == "rate_limit_exceeded"
            assert 1 <= int(response.headers["retry-after"]) <= 60
            assert response.headers["x-ratelimit-reset-requests"].endswith("s")
        assert len(engine.bodies) == 2 and engine.passed == []


async def test_concurrency(engine: StandIn, tmp_path: Path) -> None:
    async with quota(engine.url, tmp_path, {"concurrency": 2}) as held:
        engine.faults = Faults(stall_after=1)
        await held.leave_stream(engine)
        await held.settled()
        engine.faults = Faults(stall_after=0)
        asking = [asyncio.create_task(held.ask()) for _ in range(2)]
        await eventually(lambda: engine.active == 2)
        response = await held.ask()
        assert response.status_code == 429
        assert error_of(response)["code"] == "concurrency_exceeded"
        assert response.headers["retry-after"] == "1"
        engine.release.set()
        assert [done.status_code for done in await asyncio.gather(*asking)] == [200, 200]
        assert (await held.ask()).status_code == 200


async def test_keys_have_quotas_of_their_own(engine: StandIn, tmp_path: Path) -> None:
    keys = KeysForTests(tmp_path / "keys.json")
    ann, ben = (keys.add(name, quotas={"thinking_tokens_per_day": 10}) for name in ("ann", "ben"))
    async with gateway(engine.url, keys_file=keys.path) as client:
        ask = ASK | {"max_thinking_tokens": 8}
        codes = [(await client.post(CHAT, json=ask, headers=key)).status_code for key in (ann, ann, ben)]
        assert codes == [200, 429, 200]


async def test_a_key_whose_tokens_are_counted_cant_use_completions(engine: StandIn, tmp_path: Path) -> None:
    async with quota(engine.url, tmp_path, DAY) as held:
        body = {"model": "tiny", "prompt": "x"}
        response = await held.client.post("/v1/completions", json=body, headers=held.headers)
        assert response.status_code == 403
        assert error_of(response)["code"] == "not_counted_here"
        assert "thinking_tokens_per_day" in error_of(response)["message"]
        assert engine.passed == []


async def test_leaving_rounds_costs_what_was_thought(tmp_path: Path) -> None:
    """Before an engine without our plugin the gateway itself knows."""
    async with toy_engine.running(toy_engine.Toy(ends=0)) as toy, quota(toy.url, tmp_path, DAY) as held:
        ask = {"model": toy.name, "max_thinking_tokens": 40, "stream": True}
        whole = await held.ask(**ask, max_completion_tokens=80)
        assert whole.status_code == 200
        assert '"thinking_tokens":9,' in whole.text
        assert await _rounds_spent(held, toy) == 9
        toy.stall_after = 5
        body = ASK | ask
        async with held.client.stream("POST", CHAT, json=body, headers=held.headers) as response:
            received = 0
            async for line in response.aiter_lines():
                received += '"reasoning":' in line
                if received == 5:
                    break
        await held.settled()
        toy.stall_after = None
        assert await _rounds_spent(held, toy) == 9 + 5


async def _rounds_spent(held: Quota, toy: toy_engine.Toy) -> int:
    response = await held.ask(model=toy.name, max_thinking_tokens=0, max_completion_tokens=30)
    assert response.status_code == 200
    return 5000 - int(response.headers[REMAINING])


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0, "0ms"),
        (0.0121, "13ms"),
        (1, "1s"),
        (7.42, "7.5s"),
        (59.99, "60s"),
        (60, "1m0s"),
        (359.2, "6m0s"),
        (86_399, "23h59m59s"),
    ],
)
def test_durations_are_written_as_openai_does(seconds: float, text: str) -> None:
    assert duration(seconds) == text


@pytest.mark.parametrize("stream", [False, True], ids=["whole", "stream"])
@pytest.mark.parametrize(
    "quotas",
    [{"concurrency": 1, **DAY}, {"thinking_tokens_per_minute": 150, **DAY}],
    ids=["places", "tokens"],
)
async def test_another_engine_answers_on_the_same_reservation(
    tmp_path: Path, quotas: dict[str, int], stream: bool
) -> None:
    async with running(StandIn()) as first, running(StandIn()) as second:
        keys = KeysForTests(tmp_path / "keys.json")
        headers = keys.add("ann", quotas=quotas)
        ledger = MemoryLedger(lambda: FIXED)
        async with gateway(first.url, second.url, keys_file=keys.path, ledger=ledger) as client:
            held = Quota(client, headers)
            first.faults = Faults(die_after=0)
            response = await held.ask(max_thinking_tokens=100, stream=stream)
            assert response.status_code == 200, response.text
            assert first.bodies and len(second.bodies) == 1
            await held.settled()
            first.faults = Faults()
            assert await held.spent(min(5000, quotas.get("thinking_tokens_per_minute", 5000))) == 8


async def test_leaving_an_engine_that_tells_no_ids_costs_what_was_seen(
    engine: StandIn, tmp_path: Path
) -> None:
    async with quota(engine.url, tmp_path, DAY) as held:
        engine.faults = Faults(stall_after=5, no_token_ids=True)
        await held.leave_stream(engine, max_completion_tokens=400)
        await held.settled()
        engine.faults = Faults()
        assert await held.spent() == 5


async def test_embeddings_are_counted(engine: StandIn, tmp_path: Path) -> None:
    async with quota(engine.url, tmp_path, {"tokens_per_minute": 100}) as held:

        async def embed(text: str) -> httpx.Response:
            return await held.client.post("/v1/embeddings", json={"input": text}, headers=held.headers)

        first = await embed("x" * 30)
        assert first.status_code == 200
        # What the engine has counted, not what was estimated.
        assert first.headers["x-ratelimit-remaining-tokens"] == str(100 - 10)
        second = await embed("x" * 30)
        assert second.headers["x-ratelimit-remaining-tokens"] == str(100 - EMBEDDED_TOKENS - 10)
        refused = await embed("x" * 300)
        assert (refused.status_code, error_of(refused)["code"]) == (429, "rate_limit_exceeded")
        assert len(engine.passed) == 2
        # As messages the same text costs the same.
        body = {"messages": [{"role": "user", "content": "x" * 240}]}
        refused = await held.client.post("/v1/embeddings", json=body, headers=held.headers)
        assert (refused.status_code, error_of(refused)["code"]) == (429, "rate_limit_exceeded")
        assert len(engine.passed) == 2


async def test_leaving_embeddings_costs_their_estimate(engine: StandIn, tmp_path: Path) -> None:
    async with quota(engine.url, tmp_path, {"tokens_per_minute": 100}) as held:
        engine.faults = Faults(stall_after=0)
        embed = partial(held.client.post, "/v1/embeddings", headers=held.headers)
        asking = asyncio.create_task(embed(json={"input": "x" * 30}))
        await eventually(lambda: engine.passed)
        asking.cancel()
        await held.settled()
        engine.faults = Faults()
        after = await embed(json={"input": "x" * 3})
        assert after.headers["x-ratelimit-remaining-tokens"] == str(100 - 10 - 1)
