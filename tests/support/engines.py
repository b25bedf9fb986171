"""Real processes for the end-to-end tests: the server as users start it, and engines alone."""

from __future__ import annotations

import contextlib
import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import psutil

from server.engine import one_process
from server.engine.launch import VLLM_SERVER, on_gpu
from server.engine.supervisor import free_port

DEMO = Path(__file__).parents[2] / "training" / "checkpoints" / "tiny-reasoner"
_START_S = 240
# float32 so that greedy ties do not hang on which requests share a batch.
EXACT = ("--dtype", "float32", "--seed", "0")
# On a GPU: engines that fit beside one another, and graphs without minutes of compiling; FlashAttention knows
# no float32.
_ON_GPU = (
    *("--gpu-memory-utilization", "0.08", "--kv-cache-memory-bytes", str(2 << 30)),
    *("--attention-backend", "TRITON_ATTN"),
    *("--compilation-config", '{"mode": 0, "cudagraph_mode": "FULL_DECODE_ONLY"}'),
    # As on a CPU: a model as small as the demo would fill the white space that a grammar allows.
    *("--structured-outputs-config", '{"backend": "xgrammar", "disable_any_whitespace": true}'),
)
_EVERYWHERE = _ON_GPU if on_gpu() else ()
TIGHT_CACHE = ("--num-gpu-blocks-override", "64" if on_gpu() else "8")
"""1,024 tokens: a block holds 16 on a GPU and 128 on a CPU."""


@dataclass
class Running:
    """A process that answers at `url`."""

    url: str
    process: subprocess.Popen[bytes]
    log: Path
    model: str = ""
    engine_url: str = ""
    """Where the engine itself listens; the same as `url` for an engine alone."""
    extra: dict[str, Any] = field(default_factory=dict)

    def get(self, path: str) -> Any:
        return httpx.get(self.url + path, timeout=30).json()

    def descendants(self) -> list[psutil.Process]:
        return psutil.Process(self.process.pid).children(recursive=True)


@contextlib.contextmanager
def serving(
    directory: Path,
    *engine_args: str,
    name: str = "serve",
    model: Path | None = None,
    options: Sequence[str] = (),
) -> Iterator[Running]:
    """`s1 serve` on `model`, by default the demo checkpoint; `options` are the server's own."""
    log = directory / f"{name}.log"
    port = free_port()
    argv = [sys.executable, "-m", "server.cli", "serve", "--port", str(port), *options]
    argv += [str(model)] if model is not None else []
    argv += ["--log-file", str(directory / f"{name}-engine.log"), "--", *_EVERYWHERE, *engine_args]
    with _process(argv, log) as process:
        url = f"http://127.0.0.1:{port}"
        _await(process, log, lambda: httpx.get(f"{url}/ready", timeout=5).status_code == 200)
        ready = httpx.get(f"{url}/ready", timeout=5).json()
        engine = ready["engines"][0]
        yield Running(url, process, log, model=engine["models"][0], engine_url=engine["url"])


@contextlib.contextmanager
def gateway_only(
    directory: Path,
    *engine_urls: str,
    family: str | None = None,
    policy: Path | None = None,
    options: Sequence[str] = (),
) -> Iterator[Running]:
    """`s1 serve --engine-url …` before engines that already run."""
    log = directory / "gateway.log"
    port = free_port()
    argv = [sys.executable, "-m", "server.cli", "serve", "--port", str(port), *options]
    for engine_url in engine_urls:
        argv += ["--engine-url", engine_url]
    if family is not None:
        argv += ["--family", family]
    if policy is not None:
        argv += ["--policy", str(policy)]
    with _process(argv, log) as process:
        url = f"http://127.0.0.1:{port}"
        _await(process, log, lambda: httpx.get(f"{url}/ready", timeout=5).status_code == 200)
        yield Running(url, process, log, engine_url=engine_urls[0])


@contextlib.contextmanager
def engine_alone(
    directory: Path, *engine_args: str, name: str = "engine", plugin: bool = True, port: int | None = None
) -> Iterator[Running]:
    """One vLLM engine on the demo checkpoint, with our plugin (`s1 engine`) or stock."""
    log = directory / f"{name}.log"
    port = free_port() if port is None else port
    engine_args = (*_EVERYWHERE, *engine_args)
    if plugin:
        argv = [sys.executable, "-m", "server.cli", "engine", "--port", str(port), "--", *engine_args]
    else:
        argv = [
            sys.executable, "-m", VLLM_SERVER, "--model", str(DEMO),
            "--served-model-name", DEMO.name, "--host", "127.0.0.1", "--port", str(port),
            "--enforce-eager", *one_process.arguments(engine_args, {}), *engine_args,
        ]  # fmt: skip
    with _process(argv, log) as process:
        url = f"http://127.0.0.1:{port}"
        _await(process, log, lambda: httpx.get(f"{url}/health", timeout=5).status_code == 200)
        yield Running(url, process, log, model=DEMO.name, engine_url=url)


@contextlib.contextmanager
def process_at(argv: Sequence[str], log: Path, *, engine_args: Sequence[str] = ()) -> Iterator[Running]:
    """A command of `s1` that serves one engine, on a free port."""
    port = free_port()
    with _process([*argv, "--port", str(port), "--", *engine_args], log) as process:
        url = f"http://127.0.0.1:{port}"
        _await(process, log, lambda: httpx.get(f"{url}/health", timeout=5).status_code == 200)
        yield Running(url, process, log, engine_url=url)


@contextlib.contextmanager
def _process(argv: list[str], log: Path) -> Iterator[subprocess.Popen[bytes]]:
    # Engines that run side by side would starve each other by spinning.
    threads = {"OMP_NUM_THREADS": "1", "VLLM_CPU_OMP_THREADS_BIND": "nobind"}
    environment = {**os.environ, "VLLM_CPU_KVCACHE_SPACE": "1", "VLLM_NO_USAGE_STATS": "1", **threads}
    with log.open("wb") as output:
        process = subprocess.Popen(
            argv, stdout=output, stderr=subprocess.STDOUT, env=environment, start_new_session=True
        )
    try:
        yield process
    finally:
        process.send_signal(signal.SIGTERM)
        try:
            process.wait(timeout=40)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()


def _await(process: subprocess.Popen[bytes], log: Path, ready: Any) -> None:
    deadline = time.monotonic() + _START_S
    while time.monotonic() < deadline:
        if process.poll() is not None:
            raise AssertionError(f"ended with {process.returncode} before it was ready:\n{_tail(log)}")
        with contextlib.suppress(httpx.TransportError):
            if ready():
                return
        time.sleep(0.25)
    raise AssertionError(f"not ready after {_START_S} s:\n{_tail(log)}")


def _tail(log: Path) -> str:
    return "\n".join(log.read_text(errors="replace").splitlines()[-40:])


def metric(engine_url: str, name: str) -> float:
    """The sum of one of vLLM's own Prometheus metrics over its labels."""
    text = httpx.get(f"{engine_url}/metrics", timeout=30).text
    values = re.findall(rf"^{re.escape(name)}(?:{{[^}}]*}})? ([0-9.e+-]+)$", text, re.MULTILINE)
    return sum(map(float, values))


def sse_events(lines: Iterator[str]) -> Iterator[dict[str, Any]]:
    """The JSON events of a stream; `[DONE]` ends it."""
    for line in lines:
        if line.startswith("data: ") and line != "data: [DONE]":
            yield json.loads(line.removeprefix("data: "))
