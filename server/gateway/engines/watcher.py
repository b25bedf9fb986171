"""Looks at one engine again and again: whether it is there, makes tokens, and enforces what it says."""

from __future__ import annotations

import asyncio
import contextlib
import time
from typing import Any

import structlog

from server.gateway.engines.engine import Engine, EngineDescription
from server.gateway.engines.probe import Verdict, probe
from server.gateway.engines.progress import ProgressWatch
from server.gateway.errors import EngineDied, EngineMisbehaved, EngineRefused

log = structlog.get_logger(__name__)

_SLOW_LOOKS_BEFORE_DOWN = 3
"""A busy engine may be slow to answer; one that refuses connections is down at once."""


class Watcher:
    """Keeps one engine's status true."""

    def __init__(self, engine: Engine) -> None:
        self.engine = engine
        self._look_now = asyncio.Event()
        self._slow_looks = 0
        self._probe_again_at: float | None = None
        self._progress = ProgressWatch(engine.settings.stall_timeout_s, time.monotonic)
        engine.on_lost = self._look_now.set

    def start(self) -> asyncio.Task[None]:
        task = asyncio.create_task(self._run())
        task.add_done_callback(self._ended)
        return task

    def _ended(self, task: asyncio.Task[None]) -> None:
        """A watcher that fails by a mistake of ours must not leave its engine looking well for ever."""
        if not task.cancelled() and (error := task.exception()) is not None:
            self._not_ready(f"the gateway's watcher failed: {type(error).__name__}")
            log.error("engine watcher failed", url=self.engine.url, exc_info=error)

    async def _run(self) -> None:
        settings = self.engine.settings
        while True:
            self._look_now.clear()
            await self._look()
            if self.engine.status.state != "ready":
                await asyncio.sleep(settings.starting_interval_s)
                continue
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._look_now.wait(), settings.refresh_interval_s)

    async def _look(self) -> None:
        engine = self.engine
        try:
            if not await engine.healthy():
                self._not_ready("its /health is not 200")
                return
            if await self._stalled():
                stalled_s = engine.settings.stall_timeout_s
                self._not_ready(f"no token in {stalled_s:g} s with {engine.owed} generations under way")
                engine.abandon()
                return
            models = await engine.learn_models()
            description = await engine.learn_description()
            if self._must_probe(models, description):
                await self._connect(models, description)
            self._slow_looks = 0
        except (TimeoutError, EngineRefused, EngineMisbehaved) as error:
            self._slow_looks += 1
            if self._progress.stalled(generations=engine.owed, marker=engine.parts_received):
                engine.abandon()
            if engine.status.state != "ready" or self._slow_looks >= _SLOW_LOOKS_BEFORE_DOWN:
                self._not_ready(str(error) or "it doesn't answer in time")
        except (EngineDied, OSError) as error:
            self._not_ready(str(error))

    async def _stalled(self) -> bool:
        """Whole answers show no tokens on their way: only the engine's own metrics tell of them."""
        engine = self.engine
        made = await engine.learn_tokens_made() if engine.owed else None
        if engine.owed and made is None and not engine.owes_streams:
            return False
        return self._progress.stalled(generations=engine.owed, marker=(engine.parts_received, made))

    def _must_probe(self, models: tuple[dict[str, Any], ...], description: EngineDescription | None) -> bool:
        status = self.engine.status
        if status.state != "ready" or description != status.description:
            return True
        if _names(models) != _names(status.models):
            return True
        return self._probe_again_at is not None and time.monotonic() >= self._probe_again_at

    async def _connect(
        self, models: tuple[dict[str, Any], ...], description: EngineDescription | None
    ) -> None:
        status = self.engine.status
        if not models:
            self._not_ready("it serves no model")
            return
        if status.state == "ready" and description != status.description:
            self._not_ready("its description changed")
        verdict = await probe(self.engine, models[0]["id"], description)
        if status.state == "down":
            status.reconnects += 1
        status.models, status.description = models, description
        status.rounds = verdict.rounds
        status.kv_cache_tokens = await self.engine.learn_kv_cache_tokens()
        status.enforcement, status.reason, status.state = verdict.enforcement, verdict.reason, "ready"
        self._probe_again_at = self._next_probe(verdict, description)
        log.info(
            "engine ready",
            url=self.engine.url,
            models=_names(models),
            enforcement=verdict.enforcement,
            reason=verdict.reason,
        )

    def _next_probe(self, verdict: Verdict, description: EngineDescription | None) -> float | None:
        """Who fails a probe may have had a bad moment; an engine without our plugin will not grow one."""
        if verdict.enforcement == "native" or (verdict.enforcement == "rounds" and description is None):
            return None
        return time.monotonic() + self.engine.settings.probe_retry_s

    def _not_ready(self, reason: str) -> None:
        status = self.engine.status
        if status.state == "ready":
            status.state = "down"
            log.warning("engine down", url=self.engine.url, reason=reason)
        status.enforcement, status.rounds, status.reason = "none", None, reason


def _names(cards: tuple[dict[str, Any], ...]) -> list[str]:
    return [card["id"] for card in cards]
