"""Servers under test as processes: started, awaited, metered, stopped."""

from __future__ import annotations

import contextlib
import http.client
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import psutil

from server.engine.supervisor import free_port

_POLL_S = 0.05
_READY_S = 120.0
_STOP_S = 20.0


class BenchError(RuntimeError):
    """A server did not come up, or a measurement can't be used; the message says why."""


@dataclass(frozen=True, slots=True)
class Used:
    """What a process and its children have used."""

    cpu_s: float
    memory_bytes: int
    """Resident, at the moment of asking."""


@dataclass(slots=True)
class Server:
    name: str
    url: str
    process: subprocess.Popen[bytes]
    ready_s: float
    """From its start until it could serve."""
    log: Path

    def used(self) -> Used:
        whole = psutil.Process(self.process.pid)
        family = [whole, *whole.children(recursive=True)]
        cpu_s, memory = 0.0, 0
        for member in family:
            with contextlib.suppress(psutil.NoSuchProcess):
                times = member.cpu_times()
                cpu_s += times.user + times.system
                memory += member.memory_info().rss
        return Used(cpu_s, memory)


def cpu_seconds(pid: int) -> float:
    """CPU time of a process's threads so far, in nanoseconds' steps: Linux alone tells it so finely."""
    threads = Path(f"/proc/{pid}/task").glob("*/schedstat")
    return sum(int(thread.read_text().split()[0]) for thread in threads) / 1e9


@contextlib.contextmanager
def server(
    name: str,
    argv: Sequence[str],
    *,
    port: int,
    ready_path: str = "/health",
    env: Mapping[str, str] | None = None,
) -> Iterator[Server]:
    """Start a server and wait until `ready_path` answers 200.

    Raises:
        BenchError: it ended, or isn't ready in time.
    """
    log = Path(tempfile.mkdtemp(prefix="s1-bench-")) / f"{name}.log"
    began = time.monotonic()
    with log.open("wb") as out:
        process = subprocess.Popen(  # noqa: S603 - the benchmark's own command lines
            list(argv), stdout=out, stderr=subprocess.STDOUT, env={**os.environ, **(env or {})}
        )
    try:
        _await_ready(name, process, port, ready_path, log, began)
        yield Server(name, f"http://127.0.0.1:{port}", process, time.monotonic() - began, log)
    finally:
        _stop(process)


def gateway(
    engine_urls: Sequence[str], *, options: Sequence[str] = (), env: Mapping[str, str] | None = None
) -> contextlib.AbstractContextManager[Server]:
    """Our gateway before engines that run."""
    port = free_port()
    argv = [sys.executable, "-m", "server.cli", "serve", "--port", str(port)]
    for url in engine_urls:
        argv += ["--engine-url", url]
    return server("s1-server", [*argv, *options], port=port, ready_path="/ready", env=env)


def _await_ready(
    name: str, process: subprocess.Popen[bytes], port: int, path: str, log: Path, began: float
) -> None:
    while time.monotonic() - began < _READY_S:
        if process.poll() is not None:
            break
        try:
            connection = http.client.HTTPConnection("127.0.0.1", port, timeout=2)
            connection.request("GET", path)
            if connection.getresponse().status == 200:
                return
        except OSError:
            pass
        finally:
            connection.close()
        time.sleep(_POLL_S)
    tail = log.read_text(errors="replace")[-1500:]
    raise BenchError(f"{name} did not come up at port {port}. Its log ends with:\n{tail}")


def _stop(process: subprocess.Popen[bytes]) -> None:
    """With whatever it has started."""
    with contextlib.suppress(psutil.NoSuchProcess):
        family = psutil.Process(process.pid).children(recursive=True)
        process.terminate()
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(_STOP_S)
        _, alive = psutil.wait_procs(family, timeout=2)
        for member in alive:
            with contextlib.suppress(psutil.NoSuchProcess):
                member.kill()
    if process.poll() is None:
        process.kill()
    process.wait()
