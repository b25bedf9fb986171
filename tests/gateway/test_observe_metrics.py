"""Every metric's value after a scripted set of requests, and that they agree with the receipts."""

from __future__ import annotations

import asyncio
import itertools
import json
import random
from pathlib import Path
from typing import Any, get_args

import aiohttp
import httpx
import pytest
from prometheus_client.openmetrics.parser import (
    text_string_to_metric_families as openmetrics_families,
)

from server import __version__
from server.budget.spec import EndedBy
from server.gateway.observe.observation import Api
from server.gateway.observe.outcomes import Outcome
from tests.gateway.scraping import Series, receipts_of, scrape, series, summed, total, without_times
from tests.gateway.serving import eventually, gateway
from tests.gateway.stand_in import ANSWER, NATURAL_THINKING, PROMPT_TOKENS, Faults, StandIn, running
from tests.gateway.test_gateway_chat import ASK
from tests.gateway.toy_engine import Toy
from tests.gateway.toy_engine import running as running_toy
from tests.gateway.with_keys import KeysForTests

CHAT = "/v1/chat/completions"


async def whole(client: httpx.AsyncClient, **fields: Any) -> dict[str, Any]:
    response = await client.post(CHAT, json=ASK | fields)
    assert response.status_code == 200, response.text
    return response.json()


async def streamed(client: httpx.AsyncClient, **fields: Any) -> dict[str, Any]:
    """A stream's receipts and usage, in the form of a whole answer."""
    options = {"stream": True, "stream_options": {"include_usage": True}}
    response = await client.post(CHAT, json=ASK | options | fields)
    events = [line[6:] for line in response.text.splitlines() if line.startswith("data: ")]
    chunks = [json.loads(event) for event in events if event != "[DONE]"]
    choices = [choice for chunk in chunks for choice in chunk.get("choices", ())]
    ended = [choice for choice in choices if choice.get("finish_reason")]
    return {"choices": ended, "usage": next((c["usage"] for c in chunks if c.get("usage")), None)}


async def ended(client: httpx.AsyncClient, requests: int) -> dict[Series, float]:
    """The metrics once so many requests have ended: the last byte is sent a moment before."""

    async def all_ended() -> dict[Series, float] | None:
        found = await scrape(client)
        return found if total(found, "s1_requests_total") == requests else None

    for _ in range(500):
        if (found := await all_ended()) is not None:
            return found
    raise AssertionError(f"not {requests} requests: {await scrape(client)}")


async def test_every_metric_after_a_script(engine: StandIn) -> None:
    async with gateway(engine.url) as client:
        answers = [
            await whole(client, max_thinking_tokens=5),
            await streamed(client, num_waits=2, max_thinking_tokens=100),
            await whole(client, n=2, max_thinking_tokens=3, max_completion_tokens=1000),
            await streamed(client, min_thinking_tokens=20),
            await whole(client, max_thinking_tokens=1900, max_completion_tokens=200),
        ]
        free = await whole(client)
        assert (await client.post(CHAT, json=ASK | {"model": "made-up"})).status_code == 404
        assert (await client.post(CHAT, json=ASK | {"made_up": 1})).status_code == 400
        engine.faults = Faults(die_after=4)
        broken = await streamed(client, max_thinking_tokens=6)
        assert broken["choices"] == []
        found = await ended(client, 9)

    receipts = [receipt for answer in answers for receipt in receipts_of(answer)]
    usages = [answer["usage"] for answer in (*answers, free)]
    assert [r["thinking_tokens"] for r in receipts] == [5, 16, 3, 3, 20, NATURAL_THINKING]
    free_answer = free["usage"]["completion_tokens"] - NATURAL_THINKING
    waits = summed(receipts, "waits")
    assert waits == 2 + 3
    thinking = summed(receipts, "thinking_tokens") + NATURAL_THINKING
    effective = [receipt["effective"]["max"] for receipt in receipts]
    requested = [receipt["requested"].get("max_thinking_tokens") for receipt in receipts]
    assert sum(usage["prompt_tokens"] for usage in usages) == 6 * PROMPT_TOKENS

    of = {"model": "tiny"}
    at = {"engine": engine.url}
    expected: dict[Series, float] = {
        series("s1_requests_total", api="chat", outcome="ok", **of): 6,
        series("s1_requests_total", api="chat", outcome="engine_error", **of): 1,
        series("s1_requests_total", api="chat", outcome="invalid", model="unknown"): 2,
        series("s1_tokens_total", kind="prompt", **of): 6 * PROMPT_TOKENS,
        series("s1_tokens_total", kind="thinking", **of): thinking,
        series("s1_tokens_total", kind="marker", **of): summed(receipts, "marker_tokens"),
        series("s1_tokens_total", kind="answer", **of): summed(receipts, "answer_tokens") + free_answer,
        series("s1_cut_short_tokens_total", kind="thinking", **of): 4,
        series("s1_cut_short_tokens_total", kind="answer", **of): 0,
        series("s1_thinking_ended_total", ended_by="max_thinking_tokens", **of): 3,
        series("s1_thinking_ended_total", ended_by="model", **of): 4,
        series("s1_thinking_clamped_total", clamped_by="max_completion_tokens", **of): 1,
        series("s1_waits_injected_total", **of): waits,
        series("s1_end_attempts_refused_total", reason="num_waits", **of): 2,
        series("s1_end_attempts_refused_total", reason="min_thinking_tokens", **of): waits - 2,
        series("s1_empty_answers_total", **of): 0,
        series("s1_request_duration_seconds_count", api="chat", **of): 7,
        series("s1_queue_time_seconds_count", **of): 7,
        series("s1_time_to_first_thinking_token_seconds_count", **of): 3,
        series("s1_time_to_first_answer_token_seconds_count", **of): 2,
        series("s1_thinking_requested_tokens_count", **of): len([r for r in requested if r]),
        series("s1_thinking_requested_tokens_sum", **of): sum(r for r in requested if r),
        series("s1_thinking_effective_tokens_count", **of): len(receipts),
        series("s1_thinking_effective_tokens_sum", **of): sum(effective),
        series("s1_thinking_used_tokens_count", **of): len(receipts) + 1,
        series("s1_thinking_used_tokens_sum", **of): thinking,
        series("s1_thinking_utilisation_ratio_count", **of): len(receipts),
        series("s1_thinking_utilisation_ratio_sum", **of): pytest.approx(
            sum(r["thinking_tokens"] / most for r, most in zip(receipts, effective, strict=True))
        ),
        series("s1_answer_tokens_count", **of): len(receipts),
        series("s1_answer_tokens_sum", **of): summed(receipts, "answer_tokens"),
        series("s1_thinking_rate_tokens_per_second_count", **of): 2,
        series("s1_answer_rate_tokens_per_second_count", **of): 2,
        # Between parts with text: of the stream that broke, too.
        series("s1_inter_token_latency_seconds_count", phase="thinking", **of): 15 + 19 + 3,
        series("s1_inter_token_latency_seconds_count", phase="answer", **of): 2 * (len(ANSWER) - 1),
        series("s1_engine_errors_total", kind="died", **at): 1,
        series("s1_engine_outstanding_generations", **at): 0,
        series("s1_engine_open_streams", **at): 0,
        series("s1_engine_committed_tokens", **at): 0,
        series("s1_engine_stream_parts_total", **at): found[series("s1_engine_stream_parts_total", **at)],
        series("s1_engine_reconnects_total", **at): 0,
        series("s1_build_info", version=__version__): 1,
    }
    expected[series("s1_unanswered_stream_duration_seconds_count", **of)] = 1
    for api, outcome in itertools.product(get_args(Api), get_args(Outcome)):
        expected.setdefault(series("s1_requests_total", api=api, outcome=outcome, **of), 0)
    for ended_by in set(get_args(EndedBy)) - {"max_thinking_tokens", "model"}:
        expected[series("s1_thinking_ended_total", ended_by=ended_by, **of)] = 0
    for kind in ("refused", "error", "misbehaved", "receipt_missing"):
        expected[series("s1_engine_errors_total", kind=kind, **at)] = 0
    expected[series("s1_engine_retries_total", **at)] = 0
    for kind in ("thinking", "total"):
        expected[series("s1_quota_reserved_tokens_total", kind=kind)] = 0
        expected[series("s1_quota_used_tokens_total", kind=kind)] = 0
    for reason in ("request_too_large", "concurrency_exceeded", "queue_full", "rate_limit_exceeded"):
        expected[series("s1_quota_refusals_total", reason=reason)] = 0
    for state in ("starting", "ready", "down"):
        expected[series("s1_engine_state", state=state, **at)] = float(state == "ready")
    for mode in ("native", "rounds", "none"):
        expected[series("s1_engine_enforcement", enforcement=mode, **at)] = float(mode == "native")
    assert without_times(found) == expected
    assert found[series("s1_engine_stream_parts_total", **at)] > 0
    # The kinds add up to what clients were told.
    assert total(found, "s1_tokens_total", model="tiny") == sum(usage["total_tokens"] for usage in usages)
    # Of the thinking that was counted, three choices had at most 3 or 5 tokens.
    assert found[series("s1_thinking_used_tokens_bucket", le="16.0", **of)] == 6


async def test_requests_under_way_are_seen_by_phase(engine: StandIn) -> None:
    engine.faults = Faults(stall_after=2)
    async with (
        gateway(engine.url) as client,
        client.stream("POST", CHAT, json=ASK | {"stream": True, "max_thinking_tokens": 6}) as response,
    ):
        lines = response.aiter_lines()
        while '"t1 "' not in await anext(lines):
            pass
        found = await scrape(client)
        assert found[series("s1_requests_in_flight", model="tiny", phase="thinking")] == 1
        assert found[series("s1_engine_open_streams", engine=engine.url)] == 1
        engine.release.set()
        async for _ in lines:
            pass
        found = await ended(client, 1)
        assert total(found, "s1_requests_in_flight") == 0


async def test_a_client_that_leaves_is_no_error(engine: StandIn) -> None:
    engine.faults = Faults(stall_after=2)
    async with gateway(engine.url) as client:
        async with client.stream("POST", CHAT, json=ASK | {"stream": True, "num_waits": 1}) as response:
            async for line in response.aiter_lines():
                if '"t1 "' in line:
                    break
        found = await ended(client, 1)
    assert found[series("s1_requests_total", api="chat", model="tiny", outcome="disconnected")] == 1
    assert found[series("s1_cut_short_tokens_total", model="tiny", kind="thinking")] == 2
    assert total(found, "s1_tokens_total") == 0


async def test_an_engine_that_dies_at_once_is_a_retry(engine: StandIn) -> None:
    async with running(StandIn()) as other, gateway(engine.url, other.url) as client:
        engine.faults = Faults(die_after=0)
        client.pool.engines[1].outstanding += 1
        await whole(client, max_thinking_tokens=5)
        found = await ended(client, 1)
        assert found[series("s1_requests_total", api="chat", model="tiny", outcome="ok")] == 1
        assert found[series("s1_engine_retries_total", engine=engine.url)] == 1
        assert found[series("s1_engine_errors_total", engine=engine.url, kind="died")] == 1


async def test_an_answer_that_is_empty_is_counted(engine: StandIn, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tests.gateway.stand_in.ANSWER", ())
    async with gateway(engine.url) as client:
        await whole(client, max_thinking_tokens=5)
        await streamed(client, max_thinking_tokens=5)
        # Nobody promised an answer here.
        await whole(client)
        found = await ended(client, 3)
    assert found[series("s1_empty_answers_total", model="tiny")] == 2


async def test_quotas_in_tokens_and_by_key(engine: StandIn, tmp_path: Path) -> None:
    keys = KeysForTests(tmp_path / "keys.json")
    ann = keys.add("ann", quotas={"thinking_tokens_per_day": 100})
    bob = keys.add("bob", quotas={"requests_per_minute": 1})
    admin = keys.add("root", admin=True)
    async with gateway(engine.url, keys_file=keys.path, metrics_per_key="on") as client:
        statuses = [
            (await client.post(CHAT, headers=who, json=ASK | {"max_thinking_tokens": most})).status_code
            for who, most in ((ann, 60), (ann, 95), (ann, 101), (bob, 5), (bob, 5))
        ]
        assert statuses == [200, 429, 429, 200, 429]
        await eventually(lambda: not client.turnstile._open)
        assert (await client.get("/metrics", headers=ann)).status_code == 403
        client.headers.update(admin)
        found = await ended(client, 5)
    assert found[series("s1_quota_reserved_tokens_total", kind="thinking")] == 60
    assert found[series("s1_quota_used_tokens_total", kind="thinking")] == NATURAL_THINKING
    assert found[series("s1_quota_refusals_total", reason="rate_limit_exceeded", key="ann")] == 1
    assert found[series("s1_quota_refusals_total", reason="request_too_large", key="ann")] == 1
    assert found[series("s1_quota_refusals_total", reason="rate_limit_exceeded", key="bob")] == 1
    assert found[series("s1_tokens_total", model="tiny", kind="thinking", key="ann")] == NATURAL_THINKING
    assert found[series("s1_tokens_total", model="tiny", kind="thinking", key="bob")] == 5
    refused = series("s1_requests_total", api="chat", model="tiny", outcome="quota", key="ann")
    assert found[refused] == 2


async def test_rounds_count_as_the_plugin_does() -> None:
    async with running_toy(Toy()) as toy, gateway(toy.url) as client:
        fields = {"model": toy.name, "messages": ASK["messages"], "num_waits": 2, "max_thinking_tokens": 40}
        answers = [
            (await client.post(CHAT, json=fields)).json(),
            await streamed(client, **fields),
        ]
        found = await ended(client, 2)
    receipts = [receipt for answer in answers for receipt in receipts_of(answer)]
    assert total(found, "s1_tokens_total", kind="thinking") == summed(receipts, "thinking_tokens") > 0
    assert total(found, "s1_waits_injected_total") == summed(receipts, "waits") > 0
    assert total(found, "s1_empty_answers_total") == 0
    assert found[series("s1_engine_enforcement", engine=toy.url, enforcement="rounds")] == 1


async def test_nothing_of_requests_is_seen_when_observing_is_off(engine: StandIn) -> None:
    async with gateway(engine.url, observe="off") as client:
        await whole(client, max_thinking_tokens=5)
        found = await scrape(client)
        assert found[series("s1_engine_state", engine=engine.url, state="ready")] == 1
        assert not [name for name, _ in found if name.startswith("s1_requests")]
        assert (await client.get("/s1/requests")).json() == {"object": "list", "observing": False, "data": []}


async def test_exemplars_have_the_trace_of_sampled_requests(client: httpx.AsyncClient) -> None:
    trace = "4bf92f3577b34da6a3ce929d0e0e4736"
    for flags in ("00", "01"):
        parent = {"traceparent": f"00-{trace[:-1]}{flags[-1]}-00f067aa0ba902b7-{flags}"}
        response = await client.post(CHAT, json=ASK | {"max_thinking_tokens": 5}, headers=parent)
        assert response.status_code == 200
    await ended(client, 2)
    response = await client.get("/metrics", headers={"accept": "application/openmetrics-text; version=1.0.0"})
    assert response.headers["content-type"].startswith("application/openmetrics-text; version=1.0.0")
    found = {
        sample.exemplar.labels["trace_id"]
        for family in openmetrics_families(response.text)
        for sample in family.samples
        if sample.exemplar
    }
    assert found == {f"{trace[:-1]}1"}


async def test_labels_stay_bounded_under_random_fields(client: httpx.AsyncClient) -> None:
    """10,000 requests with fields, paths, ids and names that their clients made up."""
    rng = random.Random(7)

    def word() -> str:
        return "".join(rng.choices("abcdefghij", k=12))

    async def one(number: int) -> None:
        fields: dict[str, Any] = ASK | rng.choice(
            [{"model": word()}, {word(): word()}, {"user": word(), "max_thinking_tokens": -1},
             {"max_thinking_tokens": rng.randrange(2000), "reasoning_effort": word()}]
        )  # fmt: skip
        if number % 40 == 0:
            fields = ASK | {"user": word(), "max_thinking_tokens": rng.randrange(2000)}
        path = rng.choice([CHAT, CHAT, "/v1/completions", "/v1/messages", f"/v1/{word()}"])
        headers = {"x-request-id": word(), "authorization": f"Bearer {word()}", "user-agent": word()}
        # Ten times as quick as httpx.
        async with session.post(f"{client.base_url}{path}", json=fields, headers=headers) as response:
            await response.read()

    async def some(numbers: range) -> int:
        for number in numbers:
            await one(number)
        return len(await scrape(client))

    assert (await client.post(CHAT, json=ASK | {"max_thinking_tokens": 5})).status_code == 200
    async with aiohttp.ClientSession() as session:
        few = await some(range(1000))
        parts = (range(start, start + 1125) for start in range(1000, 10_000, 1125))
        rest = await asyncio.gather(*map(some, parts))
    # New combinations of known words may still turn up, but no more than there are.
    assert max(rest) <= few + 60
