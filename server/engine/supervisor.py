"""Keep one local engine running: start it, watch it, start it again, leave nothing behind."""

from __future__ import annotations

import asyncio
import contextlib
import os
import shutil
import signal
import socket
import sys
import tempfile
import time
from collections import deque
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import httpx
import structlog

from server.engine.config import read_refusal
from server.engine.launch import EngineOptions, command, engine_environment

_log = structlog.get_logger(__name__)

_HOST = "127.0.0.1"
_POLL_S = 0.5
_HEALTH_INTERVAL_S = 5.0
_HANG_S = 90.0
"""Without one healthy answer for so long, a ready engine is taken for hung and started again."""
_STOP_S = 15.0
_FIRST_BACKOFF_S = 1.0
_MAX_BACKOFF_S = 30.0
_STEADY_S = 60.0
"""An engine that ran this long was well: the next death starts the back-off anew."""
_TAIL_LINES = 20


class EngineStartError(RuntimeError):
    """The engine ended before it was ever ready; the message carries its last log lines."""


def free_port() -> int:
    with socket.socket() as listener:
        listener.bind((_HOST, 0))
        port: int = listener.getsockname()[1]
        return port


class EngineSupervisor:
    """One engine process group. `url` is stable over restarts."""

    def __init__(
        self,
        options: EngineOptions,
        *,
        log_path: Path,
        on_give_up: Callable[[EngineStartError], None] | None = None,
    ) -> None:
        """
        Args:
            on_give_up: called if the engine dies before it was ever ready: its configuration is wrong,
                and starting it again would not help.
        """
        self.options = options
        self.log_path = log_path
        self.port = free_port()
        self.url = f"http://{_HOST}:{self.port}"
        self.pid: int | None = None
        self._on_give_up = on_give_up
        self._was_ready = False
        self._run_dir = Path(tempfile.mkdtemp(prefix="s1-engine-"))

    @contextlib.asynccontextmanager
    async def running(self) -> AsyncIterator[EngineSupervisor]:
        """Keep the engine running inside the block and stop it at its end."""
        task = asyncio.create_task(self._supervise())
        try:
            yield self
        finally:
            task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await task
            shutil.rmtree(self._run_dir, ignore_errors=True)

    async def _supervise(self) -> None:
        backoff = _FIRST_BACKOFF_S
        while True:
            ran_s = await self._run_once()
            tail = last_lines(self.log_path, _TAIL_LINES)
            if not self._was_ready:
                self._give_up(tail)
                return
            backoff = _FIRST_BACKOFF_S if ran_s >= _STEADY_S else min(backoff * 2, _MAX_BACKOFF_S)
            _log.error("engine_died", restart_in_s=backoff, log=str(self.log_path), last_lines=tail)
            await asyncio.sleep(backoff)

    def _give_up(self, tail: list[str]) -> None:
        refusal = read_refusal(self._run_dir)
        reason = "the engine ended before it was ready. Its last lines:\n  " + "\n  ".join(tail)
        error = EngineStartError(f"{refusal or reason}\nThe whole log: {self.log_path}")
        if self._on_give_up is not None:
            self._on_give_up(error)
        else:
            _log.error("engine_start_failed", reason=str(error))

    async def _run_once(self) -> float:
        """Run the engine until it ends; how many seconds it ran."""
        self._clear_run_dir()
        process = await self._spawn()
        started = time.monotonic()
        self.pid = process.pid
        watch = asyncio.create_task(self._watch(process))
        try:
            await process.wait()
        finally:
            watch.cancel()
            await _end_group(process)
            self.pid = None
        return time.monotonic() - started

    async def _spawn(self) -> asyncio.subprocess.Process:
        self.log_path.parent.mkdir(parents=True, exist_ok=True)
        environment = engine_environment(self.options, run_dir=self._run_dir, base=os.environ)
        tether = [sys.executable, "-m", "server.engine.tether", str(os.getpid())]
        with self.log_path.open("ab") as log:
            return await asyncio.create_subprocess_exec(
                *tether,
                *command(self.options, host=_HOST, port=self.port),
                stdout=log,
                stderr=asyncio.subprocess.STDOUT,
                stdin=asyncio.subprocess.DEVNULL,
                env=environment,
                start_new_session=True,
            )

    async def _watch(self, process: asyncio.subprocess.Process) -> None:
        """Note when the engine is ready; from then on, kill it if it stops answering."""
        healthy_at: float | None = None
        async with httpx.AsyncClient(timeout=_HEALTH_INTERVAL_S) as client:
            while True:
                with contextlib.suppress(httpx.TransportError):
                    if (await client.get(f"{self.url}/health")).status_code == httpx.codes.OK:
                        self._was_ready, healthy_at = True, time.monotonic()
                if healthy_at is not None and time.monotonic() - healthy_at > _HANG_S:
                    _log.error("engine_hung", unhealthy_for_s=_HANG_S, log=str(self.log_path))
                    process.kill()
                    return
                await asyncio.sleep(_POLL_S if healthy_at is None else _HEALTH_INTERVAL_S)

    def _clear_run_dir(self) -> None:
        for path in self._run_dir.iterdir():
            path.unlink()


async def _end_group(process: asyncio.subprocess.Process) -> None:
    """End the engine's whole process group: politely first, then for good.

    vLLM's workers are children of children; after a SIGKILL of the server nobody else would end them.
    """
    if process.returncode is None:
        with contextlib.suppress(ProcessLookupError):
            process.send_signal(signal.SIGTERM)
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(process.wait(), _STOP_S)
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    await process.wait()


def last_lines(path: Path, count: int) -> list[str]:
    """The end of a log, without reading it into memory."""
    if not path.is_file():
        return []
    with path.open(errors="replace") as log:
        return [line.rstrip() for line in deque(log, maxlen=count)]
