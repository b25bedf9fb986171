"""`s1 serve`: gateway and, unless engines already run, one supervised engine, until a signal stops both."""

from __future__ import annotations

import asyncio
import contextlib
import json
import shlex
import signal
import socket
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import structlog
import uvicorn
import uvloop
from fastapi import FastAPI
from rich.console import Console
from rich.markup import escape

from server.chat.cli import DEFAULT_URL as CHAT_URL
from server.engine.launch import EngineOptions
from server.engine.supervisor import EngineStartError, EngineSupervisor
from server.garbage import rarely_collect_garbage
from server.gateway.access.callers import is_loopback
from server.gateway.app import create_app
from server.gateway.connection.protocol import uvicorn_options
from server.gateway.connection.stopping import GatewayServer, stop_on_signals
from server.gateway.engines.pool import EnginePool
from server.gateway.file_changes import following
from server.gateway.settings import Settings
from server.gateway.workers.port import shared_socket
from server.gateway.workers.supervisor import Workers, WorkersError

log = structlog.get_logger(__name__)

_POLL_S = 0.2
_PATIENCE_S = 10.0
"""So long an engine that runs already may take before it is told of."""
_EXAMPLE_QUESTION = "How many r in raspberry?"


class ServeError(RuntimeError):
    """The server can't start or had to end; the message is for the person who started it."""


def serve_until_stopped(settings: Settings, options: EngineOptions | None, *, log_path: Path) -> None:
    """Serve until SIGINT or SIGTERM.

    Raises:
        ServeError: the address is taken, or the engine ended before it was ever ready.
    """
    # Whoever reads JSON lines reads nothing else; the log says what matters.
    console = Console(stderr=True, quiet=settings.log_format == "json")
    listener = _listen(settings.host, settings.port)
    url = _public_url(listener)
    if settings.keys_file is None and not is_loopback(settings.host):
        if settings.log_format == "json":
            log.warning("listening without authentication", host=settings.host)
        console.print(
            f"[yellow]listening on {escape(settings.host)} without authentication: "
            "anyone who reaches this port can use the model[/yellow]"
        )
    serve = _serve if settings.workers == 1 else _serve_by_workers
    try:
        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            runner.run(serve(settings, options, listener, log_path=log_path, url=url, console=console))
    finally:
        listener.close()


async def _serve(
    settings: Settings,
    options: EngineOptions | None,
    listener: socket.socket,
    *,
    log_path: Path,
    url: str,
    console: Console,
) -> None:
    failures: list[EngineStartError] = []

    def give_up(error: EngineStartError) -> None:
        failures.append(error)
        server.should_exit = True

    background = []
    if options is not None:
        supervisor = EngineSupervisor(options, log_path=log_path, on_give_up=give_up)
        settings = settings.model_copy(update={"engine_urls": (supervisor.url,)})
        background.append(supervisor.running)
    pool = EnginePool(settings)

    async def look() -> _Found | str:
        if not pool.ready:
            return "; ".join(f"{engine.url}: {engine.status.reason}" for engine in pool.engines)
        return _Found(tuple(pool.models()), pool.ready[0].status.enforcement)

    announce = _Announcement(
        look, settings, url=url, console=console, engine_log=log_path if options else None
    )
    app: FastAPI = create_app(settings, engines=pool, background=[*background, announce.running])
    server = GatewayServer(
        uvicorn.Config(
            app,
            log_level="warning",
            access_log=False,
            **uvicorn_options(settings),
        )
    )
    stop_on_signals(server, app.state.context.drain, settings)
    rarely_collect_garbage()
    async with _rereading(settings.policy_file, app.state.context.policy.reload):
        await server.serve(sockets=[listener])
    if failures:
        raise ServeError(str(failures[0]))
    console.print("stopped")


async def _serve_by_workers(
    settings: Settings,
    options: EngineOptions | None,
    listener: socket.socket,
    *,
    log_path: Path,
    url: str,
    console: Console,
) -> None:
    """The same by several processes; this one supervises them, and the engine."""
    # That nobody else had the address is known; from now on the workers share it.
    host, port = listener.getsockname()[:2]
    listener.close()
    failures: list[Exception] = []
    policy_file = settings.policy_file

    def give_up(error: EngineStartError) -> None:
        failures.append(error)
        workers.stop(signal.SIGTERM)

    async with AsyncExitStack() as stack:
        stack.callback(_shared(host, port).close)
        supervisor = None
        if options is not None:
            supervisor = EngineSupervisor(options, log_path=log_path, on_give_up=give_up)
            settings = settings.model_copy(update={"engine_urls": (supervisor.url,)})
        try:
            workers = Workers(settings, (host, port))
        except WorkersError as error:
            raise ServeError(str(error)) from error
        if supervisor is not None:
            await stack.enter_async_context(supervisor.running())

        async def look() -> _Found | str:
            found = await workers.hub.readiness()
            if not found["ready"]:
                return "; ".join(f"{engine['url']}: {engine['reason']}" for engine in found["engines"])
            ready = [engine for engine in found["engines"] if engine["state"] == "ready"]
            models = dict.fromkeys(model for engine in ready for model in engine["models"])
            return _Found(tuple(models), ready[0]["enforcement"])

        loop = asyncio.get_running_loop()
        for number in (signal.SIGINT, signal.SIGTERM):
            loop.add_signal_handler(number, workers.stop, number)
        announce = _Announcement(
            look, settings, url=url, console=console, engine_log=log_path if options else None
        )
        await stack.enter_async_context(announce.running())
        await stack.enter_async_context(_rereading(policy_file, workers.reload_policy))
        await workers.run()
        if workers.failure is not None:
            failures.append(workers.failure)
    if failures:
        raise ServeError(str(failures[0]))
    console.print("stopped")


@contextlib.asynccontextmanager
async def _rereading(policy_file: Path | None, reload: Callable[[], bool]) -> AsyncIterator[None]:
    """The policy is read again when its file changes, and at once on SIGHUP."""
    if policy_file is None:
        yield
        return
    asyncio.get_running_loop().add_signal_handler(signal.SIGHUP, reload)
    async with following(policy_file, reload):
        yield


def _shared(host: str, port: int) -> socket.socket:
    """It holds the address while no worker listens there.

    Raises:
        ServeError: somebody else took it just now.
    """
    try:
        return shared_socket(host, port)
    except OSError as error:
        raise ServeError(f"can't listen on {host}:{port}: {error.strerror}") from error


@dataclass(frozen=True, slots=True)
class _Found:
    """Of a server that is ready."""

    models: tuple[str, ...]
    """Of all engines that are ready by then, the first engine's first."""
    enforcement: str
    """The first engine's."""


class _Announcement:
    """Tells the person at the terminal what is going on, and what to paste once it is ready."""

    def __init__(
        self,
        look: Callable[[], Awaitable[_Found | str]],
        settings: Settings,
        *,
        url: str,
        console: Console,
        engine_log: Path | None,
    ) -> None:
        """
        Args:
            look: tells of the server once it is ready, and until then why it isn't.
        """
        self._look = look
        self._url = url
        self._console = console
        self._engine_log = engine_log
        self._needs_key = settings.keys_file is not None
        self._playground = f"playground: [bold]{url}/[/bold]\n" if settings.playground else ""

    @contextlib.asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        task = asyncio.create_task(self._run())
        try:
            yield
        finally:
            task.cancel()

    async def _run(self) -> None:
        if self._engine_log is not None:
            self._console.print(f"[dim]engine log: {escape(str(self._engine_log))}[/dim]")
        found = await self._until_ready()
        model, enforced = found.models[0], found.enforcement
        self._console.print(
            f"\n[bold green]ready[/bold green]  {escape(', '.join(found.models))} "
            f"at [bold]{self._url}/v1[/bold]   "
            f"budgets: {enforced}\n"
            f"{self._playground}"
            f"in a terminal: [bold]{escape(chat_command(self._url, found.models))}[/bold]\n"
            f"[dim]API: {self._url}/docs   engines: {self._url}/ready   meaning: docs/budget.md[/dim]\n",
            soft_wrap=True,
        )
        example = example_curl(self._url, model, budget=enforced != "none", needs_key=self._needs_key)
        self._console.print(example, soft_wrap=True, highlight=False, markup=False)
        stopped = "gateway and engine" if self._engine_log is not None else "the gateway; engines run on"
        self._console.print(f"\n[dim]Ctrl-C stops {stopped}.[/dim]")

    async def _until_ready(self) -> _Found:
        own = self._engine_log is not None
        doing = "starting the engine (about half a minute on a CPU)…" if own else "waiting for an engine…"
        patient_until = time.monotonic() + _PATIENCE_S
        with self._console.status(doing):
            while isinstance(found := await self._look(), str):
                # Our own engine takes its time and has a log; another's address may be wrong.
                if not own and found and time.monotonic() >= patient_until:
                    log.warning("no engine is ready", engines=found)
                    patient_until = float("inf")
                await asyncio.sleep(_POLL_S)
        return found


def chat_command(url: str, models: Sequence[str]) -> str:
    """How `s1 chat` reaches this server."""
    where = [] if url == CHAT_URL else ["--url", url]
    which = [] if len(models) == 1 else ["--model", models[0]]
    return shlex.join(["s1", "chat", *where, *which])


def example_curl(url: str, model: str, *, budget: bool, needs_key: bool = False) -> str:
    """A request to paste: stdin-free, and readable as it stands. The key is the reader's to fill in."""
    key = ' -H "authorization: Bearer $S1_API_KEY"' if needs_key else ""
    body: dict[str, Any] = {
        "model": model,
        "messages": [{"role": "user", "content": _EXAMPLE_QUESTION}],
        "temperature": 0,
    }
    if budget:
        body |= {"max_thinking_tokens": 256, "num_waits": 1}
    return (
        f"curl -s {url}/v1/chat/completions -H 'content-type: application/json'{key} -d '\n"
        f"{json.dumps(body, indent=2)}'"
    )


def _listen(host: str, port: int) -> socket.socket:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    listener = socket.socket(family)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listener.bind((host, port))
        listener.listen(2048)
    except OSError as error:
        listener.close()
        raise ServeError(
            f"can't listen on {host}:{port}: {error.strerror}. Choose another with --port (make serve PORT=…)"
        ) from error
    listener.setblocking(False)
    return listener


def _public_url(listener: socket.socket) -> str:
    host, port = listener.getsockname()[:2]
    shown = "127.0.0.1" if host in ("0.0.0.0", "::") else f"[{host}]" if ":" in host else host  # noqa: S104
    return f"http://{shown}:{port}"
