"""What goes wrong on a Friday night: killed engines, clients that hang up, a crowd."""

from __future__ import annotations

import asyncio
import os
import random
import signal
import time
from collections.abc import Callable
from typing import Any

import httpx
import orjson
import psutil
import pytest
from openai import AsyncOpenAI

from server.budget.markers import MarkerIds
from server.engine.launch import VLLM_SERVER
from tests.e2e.test_budgets import count, questions
from tests.support.engines import Running, metric, sse_events

pytestmark = pytest.mark.engine

_RUNNING = "vllm:num_requests_running"


async def until(condition: Callable[[], Any], *, timeout_s: float, what: str) -> None:
    deadline = time.monotonic() + timeout_s
    while not await asyncio.to_thread(condition):
        if time.monotonic() > deadline:
            pytest.fail(f"not within {timeout_s} s: {what}")
        await asyncio.sleep(0.05)


def _body(served: Running, question: str, **fields: Any) -> dict[str, Any]:
    return {
        "model": served.model,
        "messages": [{"role": "user", "content": question}],
        "stream": True,
        **fields,
    }


async def test_64_streams_with_mixed_budgets(aclient: AsyncOpenAI, served: Running, ids: MarkerIds) -> None:
    rng = random.Random(5)

    async def one(question: str) -> None:
        maximum = rng.choice([None, 0, 5, 40, 150])
        body: dict[str, Any] = {"return_token_ids": True}
        if maximum is not None:
            body |= {"max_thinking_tokens": maximum, "num_waits": rng.choice([0, 2])}
        stream = await aclient.chat.completions.create(
            model=served.model,
            messages=[{"role": "user", "content": question}],
            stream=True,
            max_completion_tokens=300,
            extra_body=body,
        )
        token_ids, finish, receipt = [], None, None
        async for chunk in stream:
            for choice in chunk.choices:
                fields = choice.model_dump()
                token_ids += fields.get("token_ids") or []
                finish = choice.finish_reason or finish
                receipt = fields.get("thinking_budget") or receipt
        assert finish in ("stop", "length")
        assert receipt is not None
        thinking = count(token_ids, ids).thinking
        if maximum is not None:
            assert thinking <= maximum
            assert receipt["thinking_tokens"] == thinking

    await asyncio.gather(*(one(question) for question in questions(64)))


async def test_32_clients_that_hang_up(served: Running) -> None:
    """Their requests leave the engine within two seconds."""
    endless = {"min_thinking_tokens": 1500, "max_thinking_tokens": 1500}

    async def hang_up(client: httpx.AsyncClient, question: str) -> None:
        request = client.stream(
            "POST", f"{served.url}/v1/chat/completions", json=_body(served, question, **endless)
        )
        async with request as response:
            assert response.status_code == 200
            async for line in response.aiter_lines():
                if '"reasoning"' in line:
                    return

    async with httpx.AsyncClient(timeout=60) as client:
        await asyncio.gather(*(hang_up(client, question) for question in questions(32)))
    await until(lambda: metric(served.engine_url, _RUNNING) == 0, timeout_s=2, what="no request running")


async def test_clients_of_whole_answers_that_hang_up(served: Running) -> None:
    fields = {"stream": False, "min_thinking_tokens": 1500, "max_thinking_tokens": 1500}
    async with httpx.AsyncClient(timeout=60) as client:
        requests = [
            asyncio.create_task(
                client.post(f"{served.url}/v1/chat/completions", json=_body(served, question) | fields)
            )
            for question in questions(24)
        ]
        await until(lambda: metric(served.engine_url, _RUNNING) >= 24, timeout_s=30, what="they run")
        for request in requests:
            request.cancel()
        await until(lambda: metric(served.engine_url, _RUNNING) == 0, timeout_s=2, what="they ended")


def _victim(served: Running, which: str) -> psutil.Process:
    """The API server is the gateway's own child; the engine core is the API server's."""
    api_server = next(p for p in served.descendants() if VLLM_SERVER in " ".join(p.cmdline()))
    if which == "api server":
        return api_server
    return next(p for p in api_server.children(recursive=True) if "EngineCore" in p.name())


@pytest.mark.parametrize("which", ["api server", "engine core"])
async def test_kill_9_in_mid_stream(served: Running, which: str) -> None:
    endless = {"min_thinking_tokens": 1800, "max_thinking_tokens": 1800}
    first_tokens = asyncio.Semaphore(0)
    killed_at = 0.0

    async def stream(client: httpx.AsyncClient, question: str) -> tuple[dict[str, Any], float]:
        request = client.stream(
            "POST", f"{served.url}/v1/chat/completions", json=_body(served, question, **endless)
        )
        async with request as response:
            if response.status_code != 200:  # asked again in the moment of the kill
                return orjson.loads(await response.aread()), time.monotonic()
            lines, started = [], False
            async for line in response.aiter_lines():
                lines.append(line)
                if not started and '"reasoning"' in line:
                    started = True
                    first_tokens.release()
        return list(sse_events(iter(lines)))[-1], time.monotonic()

    async def until_killed(client: httpx.AsyncClient, question: str) -> tuple[dict[str, Any], float]:
        """No context is endless: a stream that ends before its engine is killed is asked for again."""
        last, ended_at = await stream(client, question)
        while "error" not in last and not killed_at:
            last, ended_at = await stream(client, question)
        return last, ended_at

    victim = _victim(served, which)
    before = served.descendants()
    async with httpx.AsyncClient(timeout=120) as client:
        streams = [asyncio.create_task(until_killed(client, question)) for question in questions(4)]
        for _ in streams:
            await asyncio.wait_for(first_tokens.acquire(), 60)
        killed_at = time.monotonic()
        os.kill(victim.pid, signal.SIGKILL)
        ends = await asyncio.gather(*streams)
        assert any("error" in last for last, _ in ends)
        for last, ended_at in ends:
            assert "error" in last or last["choices"][0]["finish_reason"], last
            # Nobody hangs; on a crowded machine the client itself may be behind by seconds.
            assert ended_at - killed_at < 30
        assert (await client.get(f"{served.url}/health")).status_code == 200
        await until(
            lambda: httpx.get(f"{served.url}/ready").status_code == 503, timeout_s=10, what="/ready sees it"
        )
        refused = await client.post(
            f"{served.url}/v1/chat/completions", json=_body(served, "Are you there?", stream=False)
        )
        assert refused.status_code in (404, 503)
        await until(
            lambda: httpx.get(f"{served.url}/ready").status_code == 200, timeout_s=240, what="it is back"
        )
        answer = await client.post(
            f"{served.url}/v1/chat/completions",
            json=_body(served, questions(1)[0], stream=False, max_thinking_tokens=20),
        )
        assert answer.status_code == 200
    after = {process.pid for process in served.descendants()}
    left = [p for p in before if p.pid not in after and p.is_running() and p.status() != "zombie"]
    assert left == []
