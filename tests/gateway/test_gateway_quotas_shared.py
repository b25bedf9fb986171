"""Quotas that gateways share in a real Redis: two processes, a crash, and a Redis that goes away."""

from __future__ import annotations

import asyncio
import contextlib
import os
import re
import subprocess
import sys
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from server.gateway.app import create_app
from server.gateway.chat import turnstile
from server.gateway.settings import Settings, SettingsError
from tests.gateway.redis_server import RunningRedis, redis_server
from tests.gateway.serving import eventually, gateway
from tests.gateway.stand_in import Faults, StandIn
from tests.gateway.test_gateway_chat import ASK
from tests.gateway.with_keys import KeysForTests, error_of

CHAT = "/v1/chat/completions"
REMAINING = "x-ratelimit-remaining-thinking-tokens"
_READY = re.compile(r"ready .* at (http://[0-9.:]+)/v1")
_START_S = 90


@pytest.fixture(scope="module")
def store() -> Iterator[RunningRedis]:
    with redis_server() as running:
        yield running


@contextlib.asynccontextmanager
async def process(
    directory: Path, engine_url: str, environment: dict[str, str]
) -> AsyncIterator[tuple[httpx.AsyncClient, subprocess.Popen[bytes]]]:
    """`s1 serve` before an engine that runs already."""
    log = directory / f"gateway-{os.urandom(4).hex()}.log"
    started = _start(engine_url, log, environment)
    try:
        await eventually(
            lambda: _READY.search(log.read_text()) or started.poll() is not None, within_s=_START_S
        )
        found = _READY.search(log.read_text())
        assert found, log.read_text()
        async with httpx.AsyncClient(base_url=found[1], timeout=60) as client:
            yield client, started
    finally:
        started.kill()
        await asyncio.to_thread(started.wait)


def _start(engine_url: str, log: Path, environment: dict[str, str]) -> subprocess.Popen[bytes]:
    argv = [sys.executable, "-m", "server.cli", "serve", "--port", "0", "--engine-url", engine_url]
    clean = {name: value for name, value in os.environ.items() if not name.startswith("S1_GATEWAY_")}
    # Wide enough that the line with the URL isn't broken.
    clean["COLUMNS"] = "200"
    with log.open("wb") as out:
        return subprocess.Popen(argv, stdout=out, stderr=subprocess.STDOUT, env=clean | environment)


@pytest.fixture
async def two(
    engine: StandIn, store: RunningRedis, tmp_path: Path
) -> AsyncIterator[tuple[KeysForTests, list[tuple[httpx.AsyncClient, subprocess.Popen[bytes]]]]]:
    keys = KeysForTests(tmp_path / "keys.json")
    keys.add("nobody")
    environment = {
        "S1_GATEWAY_KEYS_FILE": str(keys.path),
        "S1_GATEWAY_REDIS_URL": store.url,
        "S1_GATEWAY_LEASE_S": "1.5",
    }
    async with contextlib.AsyncExitStack() as stack:
        starting = (process(tmp_path, engine.url, environment) for _ in range(2))
        yield keys, await asyncio.gather(*(stack.enter_async_context(each) for each in starting))


async def ask(client: httpx.AsyncClient, headers: dict[str, str], **fields: Any) -> httpx.Response:
    return await client.post(CHAT, json=ASK | fields, headers=headers)


async def test_two_gateways_share_quotas_and_one_may_crash(engine: StandIn, two: Any) -> None:
    keys, ((first, _), (second, doomed)) = two
    headers = keys.add("ann", quotas={"thinking_tokens_per_day": 5000})
    body = {"max_thinking_tokens": 400, "min_thinking_tokens": 400, "max_completion_tokens": 1000}

    # Twenty at once over both: never more than what is left, and all of it.
    engine.faults = Faults(stall_after=0)
    asking = [asyncio.create_task(ask(client, headers, **body)) for client in [first, second] * 10]
    await eventually(lambda: engine.active == 12 and sum(task.done() for task in asking) == 8)
    engine.release.set()
    responses = await asyncio.gather(*asking)
    thought = [
        response.json()["choices"][0]["thinking_budget"]["thinking_tokens"]
        for response in responses
        if response.status_code == 200
    ]
    assert thought == [400] * 12
    assert sorted(response.status_code for response in responses)[12:] == [429] * 8

    # Refunds are exact, whichever gateway is asked.
    engine.faults = Faults()
    for client in (first, second):
        left = await ask(client, headers, max_thinking_tokens=0)
        assert left.headers[REMAINING] == "200"
        used = await ask(client, headers, max_thinking_tokens=100)
        assert used.json()["usage"]["completion_tokens_details"]["reasoning_tokens"] == 8
        after = await ask(second, headers, max_thinking_tokens=0)
        assert after.headers[REMAINING] == "192"
        assert (await ask(first, headers, max_thinking_tokens=193)).status_code == 429
        headers = keys.add(f"next-{client.base_url.port}", quotas={"thinking_tokens_per_day": 200})

    # Requests per minute count over both.
    slow = keys.add("slow", quotas={"requests_per_minute": 2})
    codes = [(await ask(client, slow)).status_code for client in (first, second, first, second)]
    assert codes == [200, 200, 429, 429]

    # A gateway that is killed does not hold its places for ever; what it had reserved stays spent.
    held = keys.add("held", quotas={"concurrency": 1, "thinking_tokens_per_day": 1000})
    engine.release.clear()
    engine.faults = Faults(stall_after=0)
    lost = asyncio.create_task(ask(second, held, max_thinking_tokens=300))
    await eventually(lambda: engine.active == 1)
    assert error_of(await ask(first, held, max_thinking_tokens=1))["code"] == "concurrency_exceeded"
    doomed.kill()
    with pytest.raises(httpx.TransportError):
        await lost
    engine.faults = Faults()

    async def retried() -> httpx.Response:
        # The lease runs out in another process.
        while True:
            response = await ask(first, held, max_thinking_tokens=0)
            if response.status_code != 429:
                return response
            await asyncio.sleep(0.05)

    async with asyncio.timeout(30):
        assert (await retried()).headers[REMAINING] == "700"


async def test_a_redis_that_goes_away(engine: StandIn, tmp_path: Path) -> None:
    keys = KeysForTests(tmp_path / "keys.json")
    counted = keys.add("counted", quotas={"thinking_tokens_per_day": 100})
    rated = keys.add("rated", quotas={"requests_per_minute": 100})
    free = keys.add("free")
    with redis_server() as running:
        async with gateway(engine.url, keys_file=keys.path, redis_url=running.url) as client:
            fields = {"max_thinking_tokens": 10}
            for headers in (counted, rated, free):
                assert (await ask(client, headers, **fields)).status_code == 200
            running.process.kill()
            running.process.wait()
            for headers in (counted, rated):
                response = await ask(client, headers, **fields)
                assert response.status_code == 503
                assert error_of(response)["code"] == "quota_store_unavailable"
                assert "redis" not in response.text.lower()
                assert response.headers["retry-after"]
            assert (await ask(client, free, **fields)).status_code == 200


async def test_a_failover_needs_nobody(engine: StandIn, tmp_path: Path) -> None:
    keys = KeysForTests(tmp_path / "keys.json")
    headers = keys.add("ann", quotas={"thinking_tokens_per_day": 1000, "requests_per_minute": 100})
    with redis_server() as old, redis_server() as new:
        address = old.socket.with_name("current.sock")
        address.symlink_to(old.socket)
        async with gateway(engine.url, keys_file=keys.path, redis_url=f"unix://{address}") as client:
            before = [ask(client, headers, max_thinking_tokens=10) for _ in range(4)]
            assert {response.status_code for response in await asyncio.gather(*before)} == {200}
            # The old master lives on as a replica, and connections to it stay open.
            old.demote()
            address.unlink()
            address.symlink_to(new.socket)
            for _ in range(5):
                assert (await ask(client, headers, max_thinking_tokens=10)).status_code == 200


async def test_what_ended_while_redis_took_no_writes_is_charged_exactly(
    engine: StandIn,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr(turnstile, "_SETTLE_RETRIES_S", ())
    keys = KeysForTests(tmp_path / "keys.json")
    headers = keys.add("ann", quotas={"thinking_tokens_per_day": 1000, "concurrency": 2})
    rated = keys.add("rated", quotas={"requests_per_minute": 100})
    with redis_server() as store:
        async with gateway(engine.url, keys_file=keys.path, redis_url=store.url, lease_s=0.3) as client:
            engine.faults = Faults(stall_after=3)
            asking = asyncio.create_task(ask(client, headers, max_thinking_tokens=900, stream=True))
            await eventually(lambda: engine.stalled == 1)
            store.demote()
            refused = await ask(client, rated)
            said = capsys.readouterr().out
            engine.release.set()
            assert (await asking).status_code == 200
            assert refused.status_code == 503
            assert "read only replica" in said
            await eventually(lambda: len(client.turnstile._unsettled) == 1)
            engine.faults = Faults()
            store.promote()
            await eventually(lambda: not len(client.turnstile._unsettled))
            assert (await ask(client, headers, max_thinking_tokens=0)).headers[REMAINING] == str(1000 - 8)


def test_a_wrong_redis_url_stops_the_start() -> None:
    with pytest.raises(ValueError, match="redis://"):
        Settings(redis_url="http://localhost")


def test_a_missing_client_for_redis_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "redis", None)
    with pytest.raises(SettingsError, match=r"install the extra `redis`"):
        create_app(Settings(engine_urls=("http://127.0.0.1:9",), redis_url="redis://127.0.0.1:9"))
