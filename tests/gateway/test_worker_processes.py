"""Several worker processes behind one port mean what one process means."""

from __future__ import annotations

import asyncio
import contextlib
import signal
import subprocess
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import httpx
import psutil
import pytest

from server.gateway.access.keys import Quotas
from tests.gateway.redis_server import redis_server
from tests.gateway.scraping import receipts_of, scrape, summed, total
from tests.gateway.serving import eventually
from tests.gateway.stand_in import Faults, StandIn, running
from tests.gateway.test_gateway_chat import ASK
from tests.gateway.test_gateway_drain import refused
from tests.gateway.test_live_control import asking
from tests.gateway.toy_native import ToyNative, running_native
from tests.gateway.with_keys import KeysForTests, error_of
from tests.gateway.worker_processes import Served, command, environment, serving_by_workers

CHAT = "/v1/chat/completions"


class Opened:
    """Streams that are open at once, each over a connection of its own."""

    def __init__(self, served: Served) -> None:
        self.served = served
        self.tasks: list[asyncio.Task[str]] = []
        self.client = httpx.AsyncClient(base_url=served.url, timeout=60)

    def add(self, body: dict[str, Any], **headers: str) -> None:
        self.tasks.append(asyncio.create_task(self._read(body, headers)))

    async def spread(self, body: dict[str, Any], running_: Any) -> None:
        """Open streams until two workers at least have some."""
        while sum(self.served.open_connections(w) > 0 for w in self.served.workers()) < 2:
            self.add(body)
            await eventually(lambda: running_() == len(self.tasks))

    async def _read(self, body: dict[str, Any], headers: dict[str, str]) -> str:
        async with self.client.stream("POST", CHAT, json=body, headers=headers) as response:
            return (await response.aread()).decode()


@contextlib.asynccontextmanager
async def opened(served: Served) -> AsyncIterator[Opened]:
    streams = Opened(served)
    async with streams.client:
        try:
            yield streams
        finally:
            for task in streams.tasks:
                task.cancel()
            await asyncio.gather(*streams.tasks, return_exceptions=True)


async def test_any_worker_knows_of_all_requests(tmp_path: Path) -> None:
    async with (
        running_native(ToyNative(ends=0.0)) as toy,
        serving_by_workers(tmp_path, toy.url) as served,
        opened(served) as streams,
    ):
        names = [f"asked-{number}" for number in range(8)]
        toy.gate = asyncio.Semaphore(0)
        for name in names:
            streams.add(asking(toy), **{"x-request-id": name})
        await eventually(lambda: len(toy.running) == len(names))

        listed = (await served.fresh("GET", "/s1/requests")).json()["data"]
        assert {seen["request_id"] for seen in listed} == set(names)
        found = await scrape_fresh(served)
        assert total(found, "s1_requests_in_flight") == len(names)
        assert total(found, "s1_engine_outstanding_generations") == len(names)

        # Of every stream, over connections that may reach any worker.
        for name in names:
            url = f"{CHAT}/chatcmpl-{name}/answer_now"
            early = await served.fresh("POST", f"{CHAT}/chatcmpl-{name}/think_more", json={})
            assert error_of(early)["code"] == "still_running"
            assert (await served.fresh("POST", url)).json()["applied"] is True
        for _ in range(400 * len(names)):
            toy.gate.release()
        assert all(text.endswith("data: [DONE]\n\n") for text in await asyncio.gather(*streams.tasks))
        assert sorted(word for _, word in toy.told) == ["request"] * len(names)

        gone = await served.fresh("POST", f"{CHAT}/chatcmpl-{names[0]}/answer_now")
        assert (gone.status_code, error_of(gone)["code"]) == (404, "completion_not_found")
        llamacpp = {"id": f"chatcmpl-{names[0]}", "action": "reasoning_end"}
        assert (await served.fresh("POST", f"{CHAT}/control", json=llamacpp)).status_code == 404
        toy.gate = None
        for name in names:
            body = {"num_waits": 2, "max_thinking_tokens": 20}
            more = await served.fresh("POST", f"{CHAT}/chatcmpl-{name}/think_more", json=body)
            assert more.json()["choices"][0]["thinking_budget"]["continues"]["id"] == f"chatcmpl-{name}"


async def asks(served: Served, worker: psutil.Process, body: dict[str, Any]) -> bool:
    """Whether a request over a new connection came to `worker`; it must succeed wherever it came to."""
    async with httpx.AsyncClient(base_url=served.url, timeout=60) as client:
        response = await client.post(CHAT, json=body)
        assert response.status_code == 200, response.text
        return served.open_connections(worker) > 0


async def scrape_fresh(served: Served) -> dict[Any, float]:
    async with httpx.AsyncClient(base_url=served.url, timeout=60) as client:
        return await scrape(client)


async def test_sums_survive_a_worker(engine: StandIn, tmp_path: Path) -> None:
    async with serving_by_workers(tmp_path, engine.url) as served, opened(served) as streams:
        body = ASK | {"num_waits": 1}
        answers = await asyncio.gather(*(served.fresh("POST", CHAT, json=body) for _ in range(12)))
        receipts = [one for answer in answers for one in receipts_of(answer.json())]
        found = await scrape_fresh(served)
        thinking = summed(receipts, "thinking_tokens")
        assert total(found, "s1_tokens_total", kind="thinking") == thinking > 0
        assert total(found, "s1_waits_injected_total") == summed(receipts, "waits") == 12
        assert total(found, "s1_requests_total", outcome="ok") == 12
        assert total(found, "s1_thinking_used_tokens_count") == 12
        assert total(found, "s1_engine_state", engine=engine.url, state="ready") == 1
        assert total(found, "s1_engine_state") == total(found, "s1_build_info") == 1

        # A worker dies under streams: only its own end, and what it had counted is still counted.
        engine.faults = Faults(stall_after=3)
        await streams.spread(body | {"stream": True}, lambda: engine.active)
        doomed = max(served.workers(), key=served.open_connections)
        lost, before = served.open_connections(doomed), set(served.workers())
        doomed.kill()
        await eventually(lambda: sum(task.done() for task in streams.tasks) == lost)
        engine.release.set()
        ends = await asyncio.gather(*streams.tasks, return_exceptions=True)
        assert sum(isinstance(end, httpx.TransportError) for end in ends) == lost
        whole = [end for end in ends if isinstance(end, str)]
        assert len(whole) == len(ends) - lost
        assert all(text.endswith("data: [DONE]\n\n") for text in whole)
        engine.faults = Faults()
        await eventually(lambda: len(served.workers()) == 3 and set(served.workers()) != before)
        again = await scrape_fresh(served)
        assert total(again, "s1_tokens_total", kind="thinking") >= thinking
        assert total(again, "s1_requests_total", outcome="ok") >= 12
        assert total(again, "process_cpu_seconds_total") >= total(found, "process_cpu_seconds_total")
        assert "worker died" in served.log.read_text()

        # The one that replaces it serves, and never says that it has no engine.
        new = (set(served.workers()) - before).pop()
        async with asyncio.timeout(60):
            while not await asks(served, new, body):
                pass
        assert (await served.fresh("GET", "/ready")).status_code == 200

        # Without the parent nobody stays.
        family = served.workers()
        served.process.kill()
        assert not psutil.wait_procs(family, timeout=30)[1]


async def test_a_signal_drains_all_workers(tmp_path: Path) -> None:
    async with (
        running(StandIn(faults=Faults(stall_after=3))) as engine,
        serving_by_workers(tmp_path, engine.url, drain_delay_s=0.5) as served,
        opened(served) as streams,
    ):
        await streams.spread(ASK | {"stream": True, "num_waits": 1}, lambda: engine.active)
        family = served.workers()
        served.process.send_signal(signal.SIGTERM)
        async with asyncio.timeout(20):
            while True:
                state = (await streams.client.get("/ready")).json()
                if state["draining"]:
                    break
        assert state["ready"] is False
        await refused(httpx.URL(served.url))
        engine.release.set()
        texts = await asyncio.gather(*streams.tasks)
        assert all(text.endswith("data: [DONE]\n\n") for text in texts)
        assert await asyncio.to_thread(served.process.wait, 30) == 0
        assert not psutil.wait_procs(family, timeout=1)[1]
        assert "worker died" not in served.log.read_text()


async def test_a_policy_reaches_all_workers_or_none(engine: StandIn, tmp_path: Path) -> None:
    policy = tmp_path / "policy.yaml"
    policy.write_text("server: {cap: {max_thinking_tokens: 5}}\n")

    async def maxima(served: Served) -> set[int]:
        body = ASK | {"max_thinking_tokens": 100}
        answers = await asyncio.gather(*(served.fresh("POST", CHAT, json=body) for _ in range(12)))
        return {one["effective"]["max"] for answer in answers for one in receipts_of(answer.json())}

    async with serving_by_workers(tmp_path, engine.url, workers=2, policy_file=policy) as served:
        assert await maxima(served) == {5}
        policy.write_text("server: {cap: {max_thinking_tokens: 6}}\n")
        served.process.send_signal(signal.SIGHUP)
        await eventually(lambda: served.log.read_text().count("policy reloaded") == 2)
        assert await maxima(served) == {6}
        policy.write_text("server: {cap: {no_such_field: 7}}\n")
        served.process.send_signal(signal.SIGHUP)
        await eventually(lambda: "policy not reloaded" in served.log.read_text())
        # Not even by a worker that starts now.
        before = set(served.workers())
        before.copy().pop().kill()
        await eventually(lambda: len(served.workers()) == 2 and set(served.workers()) != before)
        assert await maxima(served) == {6}


async def test_workers_share_quotas(engine: StandIn, tmp_path: Path) -> None:
    keys = KeysForTests(tmp_path / "keys.json")
    rich = keys.add("rich", quotas=Quotas(thinking_tokens_per_day=5000))
    slow = keys.add("slow", quotas=Quotas(requests_per_minute=3))
    body = ASK | {"max_thinking_tokens": 400, "min_thinking_tokens": 400, "max_completion_tokens": 1000}
    with redis_server() as store:
        settings = {"keys_file": keys.path, "redis_url": store.url}
        async with serving_by_workers(tmp_path, engine.url, **settings) as served:
            engine.faults = Faults(stall_after=0)
            asked = [
                asyncio.create_task(served.fresh("POST", CHAT, json=body, headers=rich)) for _ in range(20)
            ]
            await eventually(lambda: engine.active == 12 and sum(task.done() for task in asked) == 8)
            engine.release.set()
            codes = sorted([response.status_code for response in await asyncio.gather(*asked)])
            assert codes == [200] * 12 + [429] * 8
            asked_slowly = [await served.fresh("POST", CHAT, json=ASK, headers=slow) for _ in range(8)]
            assert [response.status_code for response in asked_slowly] == [200] * 3 + [429] * 5


async def test_without_redis_quotas_are_refused(engine: StandIn, tmp_path: Path) -> None:
    keys = KeysForTests(tmp_path / "keys.json")
    free = keys.add("free")
    async with serving_by_workers(tmp_path, engine.url, workers=2, keys_file=keys.path) as served:
        for quotas in (Quotas(concurrency=1), Quotas(requests_per_minute=9)):
            late = keys.add(f"late-{len(keys.secrets)}", quotas=quotas)
            refused = await served.fresh("POST", CHAT, json=ASK, headers=late)
            assert (refused.status_code, error_of(refused)["code"]) == (503, "quota_store_unavailable")
            assert "redis_url" in error_of(refused)["message"]
        assert (await served.fresh("POST", CHAT, json=ASK, headers=free)).status_code == 200
        # Neither does anybody share the port by chance.
        again = command(engine.url, workers=2, port=served.port)
        assert "can't listen on" in refusal(again, environment(), code=1)
    said = refusal(command(engine.url, workers=2), environment(keys_file=keys.path), code=2)
    assert "'late-" in said and "S1_GATEWAY_REDIS_URL" in said and "Given: 2" in said


def test_a_worker_that_can_not_start_ends_the_others() -> None:
    # The URL is read by the workers only.
    argv = command("http://127.0.0.1:1", workers=2)
    said = refusal(argv, environment(redis_url="redis://localhost:no-port"), code=1)
    assert "a gateway worker ended before all were there (exit code 1)" in said


def test_sockets_need_a_short_path(tmp_path: Path) -> None:
    long = tmp_path / ("x" * 100)
    long.mkdir()
    argv = command("http://127.0.0.1:1", workers=2)
    said = refusal(argv, environment() | {"TMPDIR": str(long)}, code=1)
    assert "TMPDIR" in said and str(long) in said
    assert not list(long.iterdir())


def refusal(argv: list[str], environment_: dict[str, str], *, code: int) -> str:
    done = subprocess.run(argv, env=environment_, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == code, done.stderr
    return done.stderr


@pytest.mark.parametrize("value", ["0", "65", "two"])
def test_a_wrong_number_of_workers(value: str) -> None:
    argv = command("http://127.0.0.1:1", workers=1)
    argv[argv.index("--workers") : argv.index("--workers") + 2] = []
    said = refusal(argv, environment(workers=value), code=2)
    assert "S1_GATEWAY_WORKERS" in said and value in said
