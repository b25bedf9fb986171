"""`s1 serve --workers N` as a real process before an engine of the test's own."""

from __future__ import annotations

import contextlib
import os
import re
import signal
import subprocess
import sys
import tempfile
from collections.abc import AsyncIterator, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import psutil

from tests.gateway.serving import eventually

_READY = re.compile(r"ready .* at (http://[0-9.]+:([0-9]+))/v1")
START_S = 90


@dataclass
class Served:
    url: str
    port: int
    process: subprocess.Popen[bytes]
    log: Path

    @property
    def parent(self) -> psutil.Process:
        return psutil.Process(self.process.pid)

    def workers(self) -> list[psutil.Process]:
        return self.parent.children()

    def open_connections(self, worker: psutil.Process) -> int:
        """Of clients."""
        found = worker.net_connections("tcp")
        return sum(c.laddr.port == self.port and c.status == "ESTABLISHED" for c in found)

    async def fresh(self, method: str, path: str, **request: Any) -> httpx.Response:
        """Over a connection of its own, so that any worker may get it."""
        async with httpx.AsyncClient(base_url=self.url, timeout=60) as client:
            return await client.request(method, path, **request)


def command(*engine_urls: str, workers: int, port: int = 0) -> list[str]:
    argv = [sys.executable, "-m", "server.cli", "serve", "--port", str(port), "--workers", str(workers)]
    return argv + [part for url in engine_urls for part in ("--engine-url", url)]


def environment(**settings: Any) -> dict[str, str]:
    clean = {name: value for name, value in os.environ.items() if not name.startswith("S1_GATEWAY_")}
    # Wide enough that the line with the URL isn't broken.
    clean["COLUMNS"] = "200"
    quick = {"starting_interval_s": 0.05, "stream_granularity": "token"}
    settings = {**quick, **settings}
    return clean | {f"S1_GATEWAY_{name.upper()}": str(value) for name, value in settings.items()}


def left_in(directory: str) -> list[Path]:
    return list(Path(directory).iterdir())


@contextlib.asynccontextmanager
async def serving_by_workers(
    directory: Path, *engine_urls: str, workers: int = 3, **settings: Any
) -> AsyncIterator[Served]:
    """A server that is ready; afterwards nothing of it is left."""
    # Not in pytest's directories: a socket's path may have 107 bytes only.
    with tempfile.TemporaryDirectory(prefix="s1-test-") as temporary:
        given = environment(**settings) | {"TMPDIR": temporary}
        async with _serving(directory, engine_urls, workers, given) as served:
            yield served
        assert left_in(temporary) == []


@contextlib.asynccontextmanager
async def _serving(
    directory: Path, engine_urls: Sequence[str], workers: int, given: dict[str, str]
) -> AsyncIterator[Served]:
    log = directory / f"workers-{os.urandom(4).hex()}.log"
    process = _start(command(*engine_urls, workers=workers), log, given)
    with _ended(process):
        await eventually(
            lambda: _READY.search(log.read_text()) or process.poll() is not None, within_s=START_S
        )
        found = _READY.search(log.read_text())
        assert found, log.read_text()
        yield Served(found[1], int(found[2]), process, log)


def _start(argv: list[str], log: Path, environment_: dict[str, str]) -> subprocess.Popen[bytes]:
    with log.open("wb") as out:
        return subprocess.Popen(argv, stdout=out, stderr=subprocess.STDOUT, env=environment_)


@contextlib.contextmanager
def _ended(process: subprocess.Popen[bytes]) -> Iterator[None]:
    family: list[psutil.Process] = []
    try:
        yield
        if process.poll() is None:
            family = psutil.Process(process.pid).children(recursive=True)
            process.send_signal(signal.SIGTERM)
            process.wait(30)
    finally:
        process.kill()
        process.wait()
        _, left = psutil.wait_procs(family, timeout=20)
        for other in left:
            other.kill()
        assert not left, "workers outlived their parent"
