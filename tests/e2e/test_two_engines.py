"""One gateway before two engines, one of which is killed under load; and a gateway that is told to go."""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.e2e.test_budgets import questions
from tests.e2e.test_faults import until
from tests.support.engines import EXACT, Running, engine_alone, gateway_only, metric, sse_events

pytestmark = pytest.mark.engine

CHAT = "/v1/chat/completions"
LONG = {"min_thinking_tokens": 700, "max_thinking_tokens": 700, "max_completion_tokens": 1100}
_RUNNING, _TOKENS = "vllm:num_requests_running", "vllm:generation_tokens_total"


@dataclass
class Pair:
    first: str
    """The URL of the session's own engine, which is left alone."""
    second: Running
    gateway: Running
    model: str


@pytest.fixture(scope="module")
def pair(served: Running, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Pair]:
    directory = tmp_path_factory.mktemp("pair")
    with (
        engine_alone(directory, *EXACT, name="second") as second,
        gateway_only(directory, served.engine_url, second.url) as gateway,
    ):
        yield Pair(served.engine_url, second, gateway, served.model)


def body(pair: Pair, question: str, **fields: Any) -> dict[str, Any]:
    return {
        "model": pair.model,
        "messages": [{"role": "user", "content": question}],
        "temperature": 0,
        **LONG,
        **fields,
    }


@dataclass
class Stream:
    """A streamed answer as its client sees it."""

    events: list[dict[str, Any]] = field(default_factory=list)
    done: bool = False

    @property
    def failed(self) -> bool:
        return bool(self.events) and "error" in self.events[-1]

    @property
    def finished(self) -> bool:
        finishes = [choice.get("finish_reason") for e in self.events for choice in e.get("choices", ())]
        return self.done and any(finishes)

    async def run(self, client: httpx.AsyncClient, asked: dict[str, Any]) -> None:
        async with client.stream("POST", CHAT, json=asked | {"stream": True}) as response:
            assert response.status_code == 200, await response.aread()
            async for line in response.aiter_lines():
                self.events.extend(sse_events(iter([line])))
                self.done |= line == "data: [DONE]"


async def until_ready(gateway_url: str, count: int) -> None:
    def are_ready() -> bool:
        engines = httpx.get(gateway_url + "/ready").json()["engines"]
        return sum(engine["state"] == "ready" for engine in engines) == count

    await until(are_ready, timeout_s=120, what=f"{count} engines ready")


async def test_one_of_two_engines_is_killed_in_mid_load(pair: Pair, tmp_path: Path) -> None:
    asked = [body(pair, question) for question in questions(24)]
    async with httpx.AsyncClient(base_url=pair.gateway.url, timeout=240) as client:
        await until_ready(pair.gateway.url, 2)
        streams = [Stream() for _ in asked[:12]]
        streaming = [
            asyncio.create_task(stream.run(client, each))
            for stream, each in zip(streams, asked, strict=False)
        ]
        whole = [asyncio.create_task(client.post(CHAT, json=each)) for each in asked[12:]]
        both = (pair.first, pair.second.url)
        await until(
            lambda: all(metric(url, _RUNNING) >= 8 for url in both), timeout_s=60, what="load on both"
        )
        await until(
            lambda: all(stream.events for stream in streams), timeout_s=60, what="tokens in all streams"
        )
        os.killpg(pair.second.process.pid, signal.SIGKILL)
        answers = await asyncio.gather(*whole)
        await asyncio.gather(*streaming)
        # Nothing had been sent of these: they are asked of the other engine.
        for answer in answers:
            assert answer.status_code == 200, answer.text
            receipt = answer.json()["choices"][0]["thinking_budget"]
            assert receipt["thinking_tokens"] == 700
        assert all(stream.finished or stream.failed for stream in streams)
        assert any(stream.failed for stream in streams)
        assert any(stream.finished for stream in streams)
        for stream in streams:
            if stream.failed:
                assert stream.events[-1]["error"]["type"] == "engine_error"
        await until_ready(pair.gateway.url, 1)
        assert (await client.post(CHAT, json=asked[0])).status_code == 200
        port = int(pair.second.url.rpartition(":")[2])
        with engine_alone(tmp_path, *EXACT, name="second-again", port=port):
            await until_ready(pair.gateway.url, 2)
            before = await asyncio.to_thread(metric, pair.second.url, _TOKENS)
            again = await asyncio.gather(*(client.post(CHAT, json=each) for each in asked[:4]))
            assert [answer.status_code for answer in again] == [200] * 4
            # Two of four ran there.
            assert await asyncio.to_thread(metric, pair.second.url, _TOKENS) >= before + 2 * 700


async def test_a_gateway_that_is_told_to_go_finishes_its_streams(pair: Pair, tmp_path: Path) -> None:
    """A rolling update: the next gateway stands, the old one gets SIGTERM under load."""
    asked = [body(pair, question, return_token_ids=True) for question in questions(12)]
    with gateway_only(tmp_path, pair.first) as old:
        async with httpx.AsyncClient(base_url=old.url, timeout=240) as client:
            streams = [Stream() for _ in asked]
            streaming = [
                asyncio.create_task(stream.run(client, each | {"stream_options": {"include_usage": True}}))
                for stream, each in zip(streams, asked, strict=True)
            ]
            await until(lambda: all(stream.events for stream in streams), timeout_s=60, what="tokens in all")
            old.process.send_signal(signal.SIGTERM)
            async with httpx.AsyncClient(base_url=pair.gateway.url, timeout=240) as other:
                assert (await other.post(CHAT, json=asked[0])).status_code == 200
            await asyncio.gather(*streaming)
        assert await asyncio.to_thread(old.process.wait, 60) == 0
    for stream in streams:
        assert stream.finished
        choices = [choice for event in stream.events for choice in event["choices"]]
        received = sum(len(choice.get("token_ids") or ()) for choice in choices)
        usage = next(event["usage"] for event in stream.events if event.get("usage"))
        receipt = next(choice["thinking_budget"] for choice in choices if choice.get("thinking_budget"))
        assert received == usage["completion_tokens"]
        assert receipt["thinking_tokens"] == 700
