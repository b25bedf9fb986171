"""What the process that started the workers answers them: each one's word, and the sums of their metrics."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import aiohttp
import structlog
from aiohttp import web
from prometheus_client.exposition import choose_encoder
from prometheus_client.registry import CollectorRegistry

from server.gateway.workers.fleet import merged_readiness, socket_session
from server.gateway.workers.inside import told
from server.gateway.workers.totals import (
    Fixed,
    Snapshot,
    add_up,
    current,
    lasting,
    left_behind,
    metrics_of,
    total,
)

log = structlog.get_logger(__name__)

_ANSWER_S = 3.0
"""A worker that hangs holds up probes and scrapes, which aren't waited for much longer."""


@dataclass(slots=True)
class Member:
    """A worker that takes clients."""

    index: int
    session: aiohttp.ClientSession = field(repr=False)
    last: Snapshot | None = None
    """What its metrics were when it was last asked for them."""


class Hub:
    def __init__(self, workers: int, *, control_s: float, answer_s: float = _ANSWER_S) -> None:
        """
        Args:
            control_s: for a worker that is to end a thinking: it waits for an engine in between.
            answer_s: for one that is asked anything else.
        """
        self.draining = False
        self.complete = False
        """Whether all workers have been there at once."""
        self._workers = workers
        self._control_s = control_s
        self._answer_s = answer_s
        self._members: dict[int, Member] = {}
        self._ended: Snapshot = []
        self._counting = asyncio.Lock()
        """What has been told must not be told smaller: one sum at a time, and none while a worker leaves."""

    def app(self) -> web.Application:
        app = web.Application()
        app.router.add_post("/each/{name}", self._each)
        app.router.add_get("/readiness", self._readiness)
        app.router.add_get("/metrics", self._metrics)
        return app

    def join(self, index: int, socket: Path) -> None:
        self._members[index] = Member(index, socket_session(str(socket), timeout_s=self._control_s))
        self.complete = self.complete or len(self._members) == self._workers

    def has_joined(self, index: int) -> bool:
        return index in self._members

    async def leave(self, index: int) -> None:
        """A worker that has ended; one that never joined is no matter."""
        async with self._counting:
            member = self._members.pop(index, None)
            if member is None:
                return
            if member.last is not None:
                self._ended = add_up([self._ended, lasting(member.last)])
        await member.session.close()

    async def readiness(self) -> dict[str, Any]:
        """As one gateway: not ready before all workers have joined, nor while one doesn't answer."""
        views, silent = await self.each("readiness")
        found = merged_readiness(views)
        return found | {
            "ready": found["ready"] and self.complete and not silent and not self.draining,
            "draining": found["draining"] or self.draining,
        }

    async def each(self, name: str, body: Any = None) -> tuple[list[Any], int]:
        """The answers of all workers to `name`, and how many gave none in time."""
        members = tuple(self._members.values())
        answers = await asyncio.gather(*(self._ask(member, name, body) for member in members))
        silent = [member.index for member, answer in zip(members, answers, strict=True) if answer is _SILENT]
        if silent:
            log.warning("workers don't answer", workers=silent, asked=name)
        return [answer for answer in answers if answer is not _SILENT and answer is not None], len(silent)

    async def metrics(self, accept: str) -> tuple[bytes, str]:
        async with self._counting:
            members = tuple(self._members.values())
            told_now = await asyncio.gather(*(self._ask(member, "snapshot", None) for member in members))
            living: list[Snapshot] = []
            ended: list[Snapshot] = []
            for member, answer in zip(members, told_now, strict=True):
                if isinstance(answer, list):
                    if member.last is not None:
                        self._ended = add_up([self._ended, left_behind(member.last, answer)])
                    member.last = answer
                    living.append(answer)
                elif member.last is not None:
                    ended.append(lasting(member.last))
            if len(living) == len(members):
                # Engines come and go for as long as the gateway runs.
                self._ended = current(living, self._ended)
            summed = total(living, add_up([self._ended, *ended]))
        registry = CollectorRegistry()
        registry.register(Fixed(metrics_of(summed)))
        encode, content_type = choose_encoder(accept)
        return encode(registry), content_type

    async def _ask(self, member: Member, name: str, body: Any) -> Any:
        """Its answer; None if it has ended, `_SILENT` if it doesn't answer, or not in time."""
        limit = aiohttp.ClientTimeout(total=self._control_s if name == "answer_now" else self._answer_s)
        try:
            async with member.session.post(f"http://worker/{name}", json=body, timeout=limit) as response:
                return await response.json()
        except TimeoutError:
            return _SILENT
        except (aiohttp.ClientConnectionError, OSError):
            return None
        except aiohttp.ClientError:
            return _SILENT

    async def _each(self, request: web.Request) -> web.Response:
        answers, silent = await self.each(request.match_info["name"], await request.json())
        return told({"answers": answers, "silent": silent})

    async def _readiness(self, _: web.Request) -> web.Response:
        return told(await self.readiness())

    async def _metrics(self, request: web.Request) -> web.Response:
        raw, content_type = await self.metrics(request.headers.get("accept", ""))
        return web.Response(body=raw, headers={"content-type": content_type})


_SILENT = object()
