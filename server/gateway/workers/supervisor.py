"""The workers' parent: it starts them, starts them again, hands on its signals, and leaves nothing behind.

uvicorn's own supervisor doesn't do: it ends workers within its own limits instead of ours, replaces them
without telling the others, and knows nothing of a policy to reload.
"""

from __future__ import annotations

import asyncio
import contextlib
import shutil
import signal
import sys
import tempfile
import time
from collections.abc import AsyncIterator
from pathlib import Path

import aiohttp
import structlog

from server.gateway.connection.stopping import CLOSING_S, drain_times_s
from server.gateway.settings import Settings
from server.gateway.workers.fleet import engine_wait_s, socket_session
from server.gateway.workers.hub import Hub
from server.gateway.workers.inside import site
from server.gateway.workers.order import Order
from server.gateway.workers.policy_copy import PolicyCopy
from server.gateway.workers.port import shared_socket
from server.gateway.workers.share import engines_from, share_of

log = structlog.get_logger(__name__)

_JOIN_POLL_S = 0.05
_LOOK_INTERVAL_S = 5.0
_HANG_S = 60.0
"""A worker that hasn't answered for so long is taken for hung and replaced."""
_FIRST_BACKOFF_S = 0.25
_MAX_BACKOFF_S = 30.0
_STEADY_S = 60.0
"""A worker that ran this long was well: the next death starts the back-off anew."""
_ASKING_S = 5.0
"""Beyond what it waits for an engine, a worker that is to end a thinking has so long."""
_SOCKET_PATH_BYTES = 107
_LAST_S = 15.0
"""Beyond its own limits a worker that stops has so long, then it is killed."""


class WorkersError(RuntimeError):
    """The workers can't be started."""


class Workers:
    """`settings.workers` processes at one address."""

    def __init__(self, settings: Settings, address: tuple[str, int]) -> None:
        """
        Args:
            address: host and port, held by a `shared_socket`.

        Raises:
            WorkersError: there is no place for the workers' sockets.
            PolicyFileError
        """
        self.failure: WorkersError | None = None
        self.hub = Hub(settings.workers, control_s=engine_wait_s(settings) + _ASKING_S)
        self._settings = settings
        self._address = address
        self._directory = _private_directory()
        self._processes: dict[int, asyncio.subprocess.Process] = {}
        self._stopping = asyncio.Event()
        self._starts = 0
        self._policy_renewals = 0
        self._policy: PolicyCopy | None = None
        if settings.policy_file is not None:
            self._policy = PolicyCopy(settings.policy_file, self._directory)
            self._settings = settings.model_copy(update={"policy_file": self._policy.path})

    async def run(self) -> None:
        """Until all workers have ended after a `stop`."""
        try:
            async with site(self.hub.app(), self._hub_socket):
                await asyncio.gather(*(self._keep(index) for index in range(self._settings.workers)))
        finally:
            shutil.rmtree(self._directory, ignore_errors=True)

    def stop(self, number: signal.Signals) -> None:
        """Let all workers drain as `number` says. Again: at once."""
        again = self._stopping.is_set()
        self.hub.draining = True
        self._stopping.set()
        for process in self._processes.values():
            _send(process, number)
        limit_s = _LAST_S + CLOSING_S + (0 if again else sum(drain_times_s(self._settings)[number]))
        asyncio.get_running_loop().call_later(limit_s, self._kill_all)

    def reload_policy(self) -> bool:
        """Read the policy again; all workers take it or none does. Whether it was taken."""
        if self._policy is None or not self._policy.renew():
            return False
        self._policy_renewals += 1
        for index, process in self._processes.items():
            # One that has just been started doesn't take signals yet, and gets this one when it joins.
            if self.hub.has_joined(index):
                _send(process, signal.SIGHUP)
        return True

    async def _keep(self, index: int) -> None:
        """Have a worker in this place until `stop`."""
        backoff_s = _FIRST_BACKOFF_S
        while not self._stopping.is_set():
            started = time.monotonic()
            code = await self._run_once(index)
            if self._stopping.is_set():
                return
            if not self.hub.complete:
                self.failure = self.failure or WorkersError(
                    f"a gateway worker ended before all were there ({_ended(code)})"
                )
                self.stop(signal.SIGTERM)
                return
            ran_s = time.monotonic() - started
            backoff_s = _FIRST_BACKOFF_S if ran_s >= _STEADY_S else min(2 * backoff_s, _MAX_BACKOFF_S)
            log.error("worker died", worker=index, ended=_ended(code), restart_in_s=backoff_s)
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._stopping.wait(), backoff_s)

    async def _run_once(self, index: int) -> int:
        """Run a worker until it ends; its return code."""
        self._starts += 1
        own_socket = self._directory / f"{index}-{self._starts}.sock"
        async with self._process(index, own_socket) as process:
            watch = asyncio.create_task(self._watch(index, process, own_socket))
            try:
                return await process.wait()
            finally:
                watch.cancel()
                await asyncio.gather(watch, return_exceptions=True)
                await self.hub.leave(index)
                own_socket.unlink(missing_ok=True)

    @contextlib.asynccontextmanager
    async def _process(self, index: int, own_socket: Path) -> AsyncIterator[asyncio.subprocess.Process]:
        with shared_socket(*self._address) as listener:
            order = self._order(index, own_socket, listener.fileno())
            process = await asyncio.create_subprocess_exec(
                sys.executable,
                *("-m", "server.gateway.workers.process"),
                stdin=asyncio.subprocess.PIPE,
                pass_fds=(listener.fileno(),),
                # A terminal's Ctrl-C is for the parent, which hands it on.
                start_new_session=True,
            )
        self._processes[index] = process
        try:
            with contextlib.suppress(ConnectionError):
                _stdin(process).write(order.model_dump_json().encode() + b"\n")
                await _stdin(process).drain()
            if self._stopping.is_set():
                _send(process, signal.SIGTERM)
            yield process
        finally:
            del self._processes[index]
            _send(process, signal.SIGKILL)
            await process.wait()
            _stdin(process).close()

    def _order(self, index: int, own_socket: Path, listener_fd: int) -> Order:
        share = share_of(self._settings)
        return Order(
            index=index,
            settings=share.model_copy(update={"engine_urls": engines_from(share, index)}),
            listener_fd=listener_fd,
            own_socket=own_socket,
            hub_socket=self._hub_socket,
            replaces=self.hub.complete,
        )

    async def _watch(self, index: int, process: asyncio.subprocess.Process, own_socket: Path) -> None:
        """Let it join once it takes clients; kill it if it stops answering."""
        answered_at: float | None = None
        policy_renewals = self._policy_renewals
        async with socket_session(str(own_socket), timeout_s=_LOOK_INTERVAL_S) as session:
            while answered_at is None or time.monotonic() - answered_at <= _HANG_S:
                listening = await _listening(session)
                if listening and answered_at is None:
                    self.hub.join(index, own_socket)
                    if self._policy_renewals > policy_renewals:
                        _send(process, signal.SIGHUP)
                if listening:
                    answered_at = time.monotonic()
                await asyncio.sleep(_JOIN_POLL_S if answered_at is None else _LOOK_INTERVAL_S)
        log.error("worker hung", worker=index, silent_for_s=_HANG_S)
        _send(process, signal.SIGKILL)

    def _kill_all(self) -> None:
        for index, process in self._processes.items():
            log.error("worker killed: it didn't end in time", worker=index)
            _send(process, signal.SIGKILL)

    @property
    def _hub_socket(self) -> Path:
        return self._directory / "hub.sock"


def _private_directory() -> Path:
    directory = Path(tempfile.mkdtemp(prefix="s1-workers-"))  # mode 0700
    longest = directory / "63-999999.sock"
    if len(bytes(longest)) > _SOCKET_PATH_BYTES:
        directory.rmdir()
        raise WorkersError(
            f"TMPDIR: a socket's path may have {_SOCKET_PATH_BYTES} bytes at most. Given: {longest}"
        )
    return directory


async def _listening(session: aiohttp.ClientSession) -> bool:
    """Whether a worker answers and takes clients."""
    try:
        async with session.post("http://worker/readiness") as response:
            return bool((await response.json())["listening"])
    except (aiohttp.ClientError, TimeoutError, OSError):
        return False


def _send(process: asyncio.subprocess.Process, number: signal.Signals) -> None:
    if process.returncode is None:
        with contextlib.suppress(ProcessLookupError):
            process.send_signal(number)


def _stdin(process: asyncio.subprocess.Process) -> asyncio.StreamWriter:
    if process.stdin is None:
        raise RuntimeError("a worker was started without a stdin")
    return process.stdin


def _ended(code: int) -> str:
    return f"exit code {code}" if code >= 0 else signal.Signals(-code).name
