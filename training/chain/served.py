"""Our own server around a checkpoint, and a reward model: processes of their own that end with this one."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

import httpx

from training.train import TrainStopped

_START_S = 600.0
_STOP_S = 60.0
_POLL_S = 0.5
_ONE_THREAD = {"OMP_NUM_THREADS": "1", "VLLM_CPU_OMP_THREADS_BIND": "nobind"}


@contextlib.contextmanager
def served(
    model: Path, name: str, log: Path, *, options: Sequence[str] = (), shares_cores: bool = False
) -> Iterator[str]:
    """The URL of ``s1 serve MODEL``, up to and with ``/v1``, once it is ready; clients ask for ``name``.

    Args:
        options: further ones of ``s1 serve``.
        shares_cores: another engine runs beside it, so it gets one thread: more would starve each other by
            spinning.

    Raises:
        TrainStopped: it ended, or was not ready in ten minutes; names its log.
    """
    engine_log = log.with_name(f"{log.stem}-engine{log.suffix}")
    serve = ["serve", str(model), "--served-model-name", name, "--log-file", str(engine_log), *options]
    with _running(serve, "/ready", log, shares_cores=shares_cores) as url:
        yield f"{url}/v1"


@contextlib.contextmanager
def rewarded(model: Path, log: Path) -> Iterator[str]:
    """The URL of ``s1 reward MODEL``, beside another engine, once it is ready. Raises as `served` does."""
    with _running(["reward", str(model)], "/health", log, shares_cores=True) as url:
        yield url


@contextlib.contextmanager
def _running(command: Sequence[str], ready: str, log: Path, *, shares_cores: bool) -> Iterator[str]:
    port = _free_port()
    argv = [sys.executable, "-m", "server.cli", *command, "--port", str(port)]
    tethered = [sys.executable, "-m", "server.engine.tether", str(os.getpid()), *argv]
    environment = {**_ONE_THREAD, **os.environ} if shares_cores else None
    with log.open("wb") as output:
        process = subprocess.Popen(  # noqa: S603 -- our own server
            tethered, stdout=output, stderr=subprocess.STDOUT, env=environment
        )
    url = f"http://127.0.0.1:{port}"
    try:
        _await_ready(process, f"{url}{ready}", f"`s1 {command[0]}`", log)
        yield url
    finally:
        _stop(process)


def _free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        port: int = listener.getsockname()[1]
        return port


def _await_ready(process: subprocess.Popen[bytes], url: str, what: str, log: Path) -> None:
    deadline = time.monotonic() + _START_S
    while time.monotonic() < deadline:
        if process.poll() is not None:
            raise TrainStopped(f"{what} ended before it was ready: {_last_line(log)} (log: {log})")
        with contextlib.suppress(httpx.TransportError):
            if httpx.get(url, timeout=10).status_code == httpx.codes.OK:
                return
        time.sleep(_POLL_S)
    raise TrainStopped(f"{what} was not ready after {_START_S:.0f} s (log: {log})")


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
