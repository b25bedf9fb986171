"""The engine pool: which engines there are, which of them are ready, and which one a request goes to."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Mapping
from types import MappingProxyType, TracebackType
from typing import Any, Self

import structlog

from server.budget.spec import ThinkingBudget
from server.gateway.engines.balance import least_busy
from server.gateway.engines.discovery import DNS_SCHEME, Resolve, engine_urls, resolve_addresses
from server.gateway.engines.engine import Engine, EngineDescription
from server.gateway.engines.probe import Verdict, probe
from server.gateway.engines.progress import ProgressWatch
from server.gateway.errors import (
    EngineDied,
    EngineMisbehaved,
    EngineRefused,
    EngineUnavailable,
    InvalidRequest,
    ModelNotFound,
)
from server.gateway.settings import Settings, SettingsError

log = structlog.get_logger(__name__)

_SLOW_LOOKS_BEFORE_DOWN = 3
"""A busy engine may be slow to answer; one that refuses connections is down at once."""


class EnginePool:
    """Watches the engines from `async with` on; `choose` is what a request needs."""

    def __init__(self, settings: Settings, *, resolve: Resolve = resolve_addresses) -> None:
        """
        Args:
            resolve: how the names of `dns+http://` URLs become addresses.

        Raises:
            SettingsError: there is no engine URL.
        """
        if not settings.engine_urls:
            raise SettingsError("engine_urls: at least one engine URL is needed. Given: none")
        self._settings = settings
        self._resolve = resolve
        self._tasks: dict[str, asyncio.Task[None]] = {}
        """Of what watches each URL: an engine, or the name of several."""
        self._engines: dict[str, Engine] = {}
        self._leaving: dict[str, Engine] = {}
        """Whose address has gone, with requests under way: watched, and not chosen any more."""

    async def __aenter__(self) -> Self:
        for url in self._settings.engine_urls:
            if url.startswith(DNS_SCHEME):
                self._tasks[url] = asyncio.create_task(self._follow(url))
            else:
                self._watch(url)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        tasks = list(self._tasks.values())
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        for engine in (*self.engines, *self._leaving.values()):
            engine.close()

    def _watch(self, url: str) -> None:
        engine = self._engines[url] = Engine(url, self._settings)
        self._tasks[url] = _Watcher(engine).start()

    async def _follow(self, dns_url: str) -> None:
        """Keep to the addresses of a name. Requests under way at one that has gone run on; if it comes back
        before they have ended, it is the same engine.
        """
        followed: frozenset[str] = frozenset()
        while True:
            try:
                found = await engine_urls(dns_url, self._resolve)
            except OSError as error:
                log.warning("engine name not resolved", url=dns_url, reason=str(error))
            else:
                new = found - self._engines.keys()
                for url in followed - found:
                    self._leaving[url] = self._engines.pop(url)
                for url in sorted(new):
                    if url in self._leaving:
                        self._engines[url] = self._leaving.pop(url)
                    else:
                        self._watch(url)
                followed = (followed & found) | new
            self._let_go()
            await asyncio.sleep(self._settings.refresh_interval_s)

    def _let_go(self) -> None:
        for url, engine in tuple(self._leaving.items()):
            if not engine.is_busy:
                del self._leaving[url]
                self._tasks.pop(url).cancel()
                engine.close()

    @property
    def engines(self) -> tuple[Engine, ...]:
        return tuple(self._engines.values())

    @property
    def ready(self) -> list[Engine]:
        return [engine for engine in self.engines if engine.status.state == "ready"]

    def models(self) -> dict[str, list[Engine]]:
        """The models served now, each with the ready engines that serve it."""
        served: dict[str, list[Engine]] = {}
        for engine in self.ready:
            for card in engine.status.models:
                served.setdefault(card["id"], []).append(engine)
        return served

    def serving(self, model: str) -> list[Engine]:
        """The ready engines that serve `model`. There may be many, and every request asks."""
        found = []
        for engine in self._engines.values():
            status = engine.status
            if status.state == "ready":
                for card in status.models:
                    if card["id"] == model:
                        found.append(engine)
                        break
        return found

    def context(self, model: str) -> int | None:
        """The longest context in which `model` is served, in tokens; None if no engine tells."""
        lengths = [engine.context(model) for engine in self.serving(model)]
        return max((length for length in lengths if length is not None), default=None)

    def resolve_model(self, model: str | None) -> str:
        """The model asked for, or the only one there is.

        Raises:
            EngineUnavailable, InvalidRequest, ModelNotFound
        """
        if model is None:
            served = self.models()
            self._require_ready()
            if len(served) != 1:
                names = ", ".join(sorted(served))
                raise InvalidRequest(
                    f"`model` is required: this server has {names}. Given: null", param="model"
                )
            return next(iter(served))
        if self.serving(model):
            return model
        if any(engine.serves(model) for engine in self.engines):
            raise EngineUnavailable(f"no engine that serves the model '{model}' is ready")
        self._require_ready()
        raise ModelNotFound(f"The model `{model}` does not exist. Given: {model!r}", param="model")

    def choose(
        self, model: str, budget: ThinkingBudget, named: Mapping[str, str] = MappingProxyType({})
    ) -> Engine:
        """The least busy of the engines that are `able`.

        Raises: as `able`.
        """
        return least_busy(self.able(model, budget, named))

    def able(
        self, model: str, budget: ThinkingBudget, named: Mapping[str, str] = MappingProxyType({})
    ) -> list[Engine]:
        """The ready engines that serve `model` and enforce every field of `budget`; at least one.

        Args:
            named: the client's own names of fields, for messages.

        Raises:
            EngineUnavailable: no engine that serves it is ready (any more), or one that might enforce the
                budget is of another version than this gateway.
            InvalidRequest: no engine enforces the budget; `param` is the first field that none does.
        """
        candidates = self.serving(model)
        if not candidates:
            raise EngineUnavailable(f"no engine that serves the model '{model}' is ready")
        requested = budget.requested()
        able = [engine for engine in candidates if requested.keys() <= set(engine.enforced_fields)]
        if able:
            return able
        for engine in candidates:
            if engine.speaks_another_protocol:
                raise EngineUnavailable(
                    f"no engine can enforce a budget for '{model}' during an upgrade: {engine.status.reason}",
                    code="version_skew",
                )
        best = max(candidates, key=lambda engine: len(engine.enforced_fields))
        field, value = next(
            (name, value) for name, value in requested.items() if name not in best.enforced_fields
        )
        shown = named.get(field, field)
        meant = value if shown == field else f"{field} {value}"
        reason = best.status.reason or f"it enforces {', '.join(best.enforced_fields)}"
        raise InvalidRequest(
            f"`{shown}` ({meant}) can't be enforced by the engine of `{model}`: {reason}",
            param=shown,
        )

    def _require_ready(self) -> None:
        if not self.ready:
            raise EngineUnavailable("no engine is ready")


class _Watcher:
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
