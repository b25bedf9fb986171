"""Our own server around a checkpoint, as a process of its own that ends with this one."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import httpx

from training.train import TrainStopped

_START_S = 600.0
_STOP_S = 60.0
_POLL_S = 0.5


@contextlib.contextmanager
def served(model: Path, name: str, log: Path) -> Iterator[str]:
    """The URL of ``s1 serve MODEL``, up to and with ``/v1``, once it is ready; clients ask for ``name``.

    Raises:
        TrainStopped: it ended, or was not ready in ten minutes; names its log.
    """
    port = _free_port()
    engine_log = log.with_name(f"{log.stem}-engine{log.suffix}")
    serve = [
        sys.executable,
        "-m",
        "server.cli",
        "serve",
        str(model),
        "--port",
        str(port),
        "--served-model-name",
        name,
    ]
    tethered = [sys.executable, "-m", "server.engine.tether", str(os.getpid()), *serve]
    with log.open("wb") as output:
        process = subprocess.Popen(  # noqa: S603 -- our own server
            [*tethered, "--log-file", str(engine_log)], stdout=output, stderr=subprocess.STDOUT
        )
    try:
        _await_ready(process, f"http://127.0.0.1:{port}", log)
        yield f"http://127.0.0.1:{port}/v1"
    finally:
        _stop(process)


def _free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        port: int = listener.getsockname()[1]
        return port


def _await_ready(process: subprocess.Popen[bytes], url: str, log: Path) -> None:
    deadline = time.monotonic() + _START_S
    while time.monotonic() < deadline:
        if process.poll() is not None:
            raise TrainStopped(f"`s1 serve` ended before it was ready: {_last_line(log)} (log: {log})")
        with contextlib.suppress(httpx.TransportError):
            if httpx.get(f"{url}/ready", timeout=10).status_code == httpx.codes.OK:
                return
        time.sleep(_POLL_S)
    raise TrainStopped(f"`s1 serve` was not ready after {_START_S:.0f} s (log: {log})")


def _last_line(log: Path) -> str:
    lines = [line.strip() for line in log.read_text(errors="replace").splitlines() if line.strip()]
    return lines[-1] if lines else "it said nothing"


def _stop(process: subprocess.Popen[bytes]) -> None:
    process.send_signal(signal.SIGTERM)
    try:
        process.wait(_STOP_S)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
