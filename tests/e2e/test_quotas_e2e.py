"""Quotas before a real engine: what it says of requests that ended, and of those that were left."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import httpx
import pytest

from server.gateway.access.ledger import MemoryLedger
from tests.gateway.serving import eventually, gateway
from tests.gateway.with_keys import KeysForTests
from tests.support.engines import Running, metric

pytestmark = pytest.mark.engine

LIMIT = 100_000
LONG = 1500
CHAT = "/v1/chat/completions"
MESSAGES = [{"role": "user", "content": "How many r in raspberry?"}]
_RUNNING = "vllm:num_requests_running"


async def test_a_real_engine_accounts_for_every_token(served: Running, tmp_path: Path) -> None:
    keys = KeysForTests(tmp_path / "keys.json")
    headers = keys.add("ann", quotas={"thinking_tokens_per_day": LIMIT})
    fixed = MemoryLedger(lambda: 1_800_000_000.0)
    async with gateway(
        served.engine_url, keys_file=keys.path, ledger=fixed, admission="on", receipt_wait_ms=5000
    ) as client:
        client.headers.update(headers)
        client.timeout = httpx.Timeout(120)
        # vLLM says how much its cache holds.
        assert client.pool.engines[0].status.kv_cache_tokens > 1000

        async def ask(**fields: Any) -> httpx.Response:
            response = await client.post(CHAT, json={"messages": MESSAGES} | fields)
            assert response.status_code == 200, response.text
            return response

        async def spent() -> int:
            await eventually(lambda: not client.turnstile._open)
            told = await ask(max_thinking_tokens=0)
            return LIMIT - int(told.headers["x-ratelimit-remaining-thinking-tokens"])

        expected = 0
        for fields in ({"max_thinking_tokens": 60, "num_waits": 2, "n": 2}, {"max_completion_tokens": 200}):
            answer = (await ask(**fields)).json()
            expected += answer["usage"]["completion_tokens_details"]["reasoning_tokens"]
            assert await spent() == expected
        assert expected > 0

        endless = {"min_thinking_tokens": LONG, "max_thinking_tokens": LONG, "messages": MESSAGES}
        seen = await leave_after(client, 20, endless)
        by_stream = await spent() - expected
        # A quick engine may have come to its end before it heard of it.
        assert seen <= by_stream <= LONG

        asking = asyncio.create_task(client.post(CHAT, json=endless))
        await until_running(served.engine_url, asking)
        asking.cancel()
        by_whole = await spent() - expected - by_stream
        assert 0 <= by_whole <= LONG


async def until_running(engine_url: str, asking: asyncio.Task[httpx.Response]) -> None:
    """Or until it has been answered: a quick engine needs less than a second."""
    async with asyncio.timeout(60):
        while not asking.done():
            if await asyncio.to_thread(metric, engine_url, _RUNNING) >= 1:
                return
            await asyncio.sleep(0.02)


async def leave_after(client: httpx.AsyncClient, chunks: int, body: dict[str, Any]) -> int:
    """Hang up after so many chunks of thinking; each has at least one token."""
    seen = 0
    async with client.stream("POST", CHAT, json=body | {"stream": True}) as response:
        async for line in response.aiter_lines():
            seen += '"reasoning":' in line
            if seen == chunks:
                break
    return seen
