"""The hub between workers: what it makes of workers that answer, don't, can't, and are gone."""

from __future__ import annotations

import asyncio
import contextlib
import shutil
import tempfile
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web
from prometheus_client.parser import text_string_to_metric_families

from server.gateway.engines.engine import CONTROL_TIMEOUT_S
from server.gateway.errors import CompletionNotFound, Conflict, Overloaded
from server.gateway.settings import Settings
from server.gateway.workers.fleet import Together, error_to_json
from server.gateway.workers.hub import Hub
from server.gateway.workers.inside import site, told
from server.gateway.workers.supervisor import Workers

NOT_FOUND = {"error": error_to_json(CompletionNotFound("none here", param="id"))}
ENDED = {"error": error_to_json(Conflict("it has ended", code="already_answering"))}
APPLIED = {"applied": True}


@dataclass
class Scripted:
    """A worker that says what it is told to."""

    answer_now: Any = field(default_factory=lambda: NOT_FOUND)
    counted: float = 0
    stopped: bool = False
    broken: bool = False
    resumed: asyncio.Event = field(default_factory=asyncio.Event)

    async def handle(self, request: web.Request) -> web.Response:
        if self.stopped:
            await self.resumed.wait()
        if self.broken:
            raise web.HTTPInternalServerError
        ready = {"ready": True, "draining": False, "engines": []}
        samples = [("s1_requests_total", {}, self.counted, None)]
        family = {"name": "s1_requests", "text": "R.", "type": "counter", "samples": samples}
        none = {"kept": None, "running": False}
        answers = {
            "answer_now": self.answer_now,
            "readiness": ready,
            "snapshot": [family],
            "kept": none,
            "requests": {"requests": []},
        }
        return told(answers[request.match_info["name"]])


@dataclass
class Joined:
    hub: Hub
    together: Together
    workers: list[Scripted]


@contextlib.asynccontextmanager
async def joined(*workers: Scripted, of: int | None = None, control_s: float = 0.2) -> AsyncIterator[Joined]:
    hub = Hub(of or len(workers), control_s=control_s, answer_s=0.2)
    with tempfile.TemporaryDirectory(prefix="s1-hub-") as name:
        async with contextlib.AsyncExitStack() as stack:
            for index, worker in enumerate(workers):
                app = web.Application()
                app.router.add_post("/{name}", worker.handle)
                await stack.enter_async_context(site(app, Path(name) / f"{index}.sock"))
                stack.callback(worker.resumed.set)
                hub.join(index, Path(name) / f"{index}.sock")
                stack.push_async_callback(hub.leave, index)
            await stack.enter_async_context(site(hub.app(), Path(name) / "hub.sock"))
            together = Together(str(Path(name) / "hub.sock"), Settings())
            await stack.enter_async_context(together.running())
            yield Joined(hub, together, list(workers))


async def counted(together: Together) -> float:
    raw, content_type = await together.metrics("")
    assert content_type.startswith("text/plain")
    families = text_string_to_metric_families(raw.decode())
    return sum(sample.value for family in families for sample in family.samples)


async def test_one_that_knows_is_enough() -> None:
    async with joined(Scripted(), Scripted(APPLIED), Scripted(ENDED), Scripted(stopped=True)) as found:
        await found.together.answer_now("ann", "x")


@pytest.mark.parametrize(
    ("said", "kind", "code"),
    [((NOT_FOUND, ENDED), Conflict, "already_answering"), ((NOT_FOUND, NOT_FOUND), CompletionNotFound, None)],
)
async def test_nobody_knows(said: Any, kind: Any, code: str | None) -> None:
    async with joined(*(Scripted(answer) for answer in said)) as found:
        with pytest.raises(kind) as raised:
            await found.together.answer_now("ann", "x")
        assert raised.value.code == code


@pytest.mark.parametrize("failing", [{"stopped": True}, {"broken": True}])
async def test_a_worker_that_does_not_answer_may_be_the_one(failing: dict[str, bool]) -> None:
    async with joined(Scripted(), Scripted(**failing)) as found:
        for asking in (found.together.answer_now("ann", "x"), found.together.kept("ann", "x")):
            with pytest.raises(Overloaded) as raised:
                await asking
            assert raised.value.code == "worker_unavailable"
        assert (await found.together.readiness())["ready"] is False


async def test_ready_once_all_have_joined() -> None:
    async with joined(Scripted(), of=2) as found:
        assert (await found.together.readiness())["ready"] is False
    async with joined(Scripted(), Scripted()) as found:
        assert (await found.together.readiness())["ready"] is True
        # While one is replaced the others take all clients.
        await found.hub.leave(1)
        assert (await found.together.readiness())["ready"] is True
        found.hub.draining = True
        assert (await found.together.readiness())["ready"] is False


async def test_counts_never_get_smaller() -> None:
    first, second = Scripted(counted=3), Scripted(counted=4)
    async with joined(first, second) as found:
        assert await counted(found.together) == 7
        first.counted, second.stopped = 5, True
        assert await counted(found.together) == 9
        await found.hub.leave(1)
        assert await counted(found.together) == 9


async def test_only_what_waits_for_an_engine_is_waited_for_long() -> None:
    hung = Scripted(APPLIED, stopped=True)
    async with joined(Scripted(counted=3), hung, control_s=60) as found, asyncio.timeout(30):
        ending = asyncio.create_task(found.together.answer_now("ann", "x"))
        assert (await found.together.readiness())["ready"] is False
        assert await counted(found.together) == 3
        assert await found.together.requests() == []
        with pytest.raises(Overloaded):
            await found.together.kept("ann", "x")
        assert not ending.done()
        hung.resumed.set()
        await ending


async def test_without_its_parent_a_worker_says_so() -> None:
    together = Together("/nowhere/hub.sock", Settings())
    async with together.running():
        assert await together.readiness() == {"ready": False, "draining": True, "engines": []}
        with pytest.raises(Overloaded):
            await together.requests()


@pytest.mark.parametrize("control_timeout_s", [1, 60])
async def test_who_asks_waits_longer_than_who_is_asked(control_timeout_s: float) -> None:
    settings = Settings(workers=2, control_timeout_s=control_timeout_s)
    workers = Workers(settings, ("127.0.0.1", 0))
    try:
        together = Together("/nowhere/hub.sock", settings)
        engine_s = max(control_timeout_s, CONTROL_TIMEOUT_S)
        assert engine_s < workers.hub._control_s < together._timeout_s
    finally:
        shutil.rmtree(workers._directory)
