"""What observing costs the gateway: the same load on gateways that observe more and less, in turns.

    python -m loadtest.observing_cost --rounds 9 --output docs/results/observing-cost.json

One stand-in engine, one OTLP collector, and a gateway for each of

- `off`: S1_GATEWAY_OBSERVE=off,
- `metrics`: without the log's lines,
- `tracing`: metrics, and the default part of the requests traced,
- `all`: every request traced, and its line in the log.

The gateway is one thread, so its capacity is what it does with a second of CPU time: unlike the throughput of
a closed loop, that hardly depends on who else uses the machine, and not on what client and engine cost. Both
are told.
"""

from __future__ import annotations

import contextlib
import os
import re
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from statistics import median
from typing import Annotated, Any

import httpx
import orjson
import typer

from loadtest import stand_in
from loadtest.client.compare import Ratio
from loadtest.client.discover import discover
from loadtest.client.fleet import Fleet, Load, fleet
from loadtest.client.provenance import provenance
from loadtest.client.summary import summarize
from loadtest.client.workload import Workload, read_workload
from loadtest.stand_in_engine import Options
from loadtest.stand_in_script import Script

_READY_S = 60
_CPU_SECONDS = re.compile(r"^process_cpu_seconds_total (\S+)$", re.MULTILINE)
_ON = {"S1_GATEWAY_OBSERVE": "on", "S1_GATEWAY_LOG_REQUESTS": "off"}


def variants(otlp_url: str) -> dict[str, dict[str, str]]:
    """The gateways' settings, the one without anything first."""
    traced = {"S1_GATEWAY_OTLP_ENDPOINT": otlp_url}
    return {
        "off": {"S1_GATEWAY_OBSERVE": "off"},
        "metrics": _ON,
        "tracing": _ON | traced,
        "all": traced
        | {"S1_GATEWAY_OBSERVE": "on", "S1_GATEWAY_LOG_FORMAT": "json", "S1_GATEWAY_TRACE_SAMPLE_RATIO": "1"},
    }


@dataclass(frozen=True, slots=True)
class Point:
    """One gateway in one round."""

    tokens_per_s: float
    tokens_per_cpu_s: float
    requests: int


def measure(
    gateways: Mapping[str, str], workers: Fleet, workload: Workload, *, rounds: int, duration_s: float,
    concurrency: int,
) -> dict[str, list[Point]]:  # fmt: skip
    """
    Args:
        gateways: URLs by variant. Each round begins with another one.
    """
    names = list(gateways)
    points: dict[str, list[Point]] = {name: [] for name in names}
    for number in range(rounds):
        turn = number % len(names)
        for name in names[turn:] + names[:turn]:
            load = Load(workload, duration_s, concurrency=concurrency, seed=number)
            points[name].append(_point(gateways[name], workers, load))
    return points


def _point(url: str, workers: Fleet, load: Load) -> Point:
    found = discover(url, model=None, fields="ours", key=None, family=None, timeout_s=60)
    before = _cpu_s(url)
    run = workers.run(url, found.dialect, load)
    spent_s = _cpu_s(url) - before
    figures = summarize(run, [])["all"]
    if figures["errors"] or not figures["succeeded"]:
        raise RuntimeError(f"{url}: not all requests were answered: {figures['errors']}")
    tokens = sum(record.completion_tokens for record in run.records)
    return Point(tokens / run.measured_s, tokens / spent_s, figures["succeeded"])


def _cpu_s(url: str) -> float:
    found = _CPU_SECONDS.search(httpx.get(f"{url}/metrics", timeout=30).text)
    if found is None:
        raise RuntimeError(f"{url}/metrics does not tell the process's CPU time")
    return float(found[1])


def compared(points: Mapping[str, list[Point]]) -> dict[str, Any]:
    """Each variant against `off`, round by round."""
    told: dict[str, Any] = {}
    for name, own in points.items():
        told[name] = {
            "requests": sum(point.requests for point in own),
            "tokens_per_s": round(median(point.tokens_per_s for point in own)),
            "tokens_per_cpu_s": round(median(point.tokens_per_cpu_s for point in own)),
        }
        if name == "off":
            continue
        for figure in ("tokens_per_cpu_s", "tokens_per_s"):
            pairs = zip(own, points["off"], strict=True)
            ratio = Ratio.of([getattr(on, figure) / getattr(off, figure) for on, off in pairs])
            told[name][f"{figure}_to_off"] = ratio.as_json()
    return told


@contextlib.contextmanager
def collector() -> Iterator[str]:
    """Takes spans and forgets them; yields its URL."""

    class Taking(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_POST(self) -> None:
            self.rfile.read(int(self.headers["content-length"]))
            self.send_response(200)
            self.send_header("content-length", "0")
            self.end_headers()

        def log_message(self, format: str, *args: Any) -> None:
            return

    server = ThreadingHTTPServer(("127.0.0.1", 0), Taking)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield f"http://127.0.0.1:{server.server_port}/v1/traces"
    finally:
        server.shutdown()
        server.server_close()


@contextlib.contextmanager
def gateway(engine_url: str, environment: Mapping[str, str]) -> Iterator[str]:
    """`s1 serve` before an engine; yields its URL once it is ready."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        port = listener.getsockname()[1]
    argv = [sys.executable, "-m", "server.cli", "serve", "--port", str(port), "--engine-url", engine_url]
    process = subprocess.Popen(  # noqa: S603 - our own command
        argv, env={**os.environ, **environment}, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    url = f"http://127.0.0.1:{port}"
    try:
        _await_ready(url, process)
        yield url
    finally:
        process.terminate()
        process.wait(30)


def _await_ready(url: str, process: subprocess.Popen[bytes]) -> None:
    deadline = time.monotonic() + _READY_S
    while time.monotonic() < deadline and process.poll() is None:
        with contextlib.suppress(httpx.TransportError):
            if httpx.get(f"{url}/ready", timeout=5).status_code == 200:
                return
        time.sleep(0.1)
    raise RuntimeError("the gateway did not become ready")


def main(
    rounds: Annotated[int, typer.Option(min=3)] = 9,
    duration_s: Annotated[float, typer.Option(min=1, help="Of each gateway's turn in a round.")] = 5,
    concurrency: Annotated[int, typer.Option(min=1)] = 32,
    workload: str = "short",
    output: Path | None = None,
) -> None:
    """Measure, print, and write what observing costs."""
    with contextlib.ExitStack() as stack:
        (engine_url,) = stack.enter_context(stand_in.running(Options(Script(thinking=256, answer=32))))
        settings = variants(stack.enter_context(collector()))
        gateways = {name: stack.enter_context(gateway(engine_url, own)) for name, own in settings.items()}
        workers = stack.enter_context(fleet(1))
        points = measure(
            gateways,
            workers,
            read_workload(workload),
            rounds=rounds,
            duration_s=duration_s,
            concurrency=concurrency,
        )
    command = f"python -m loadtest.observing_cost {' '.join(sys.argv[1:])}".strip()
    found = {"provenance": provenance(command), "compared": compared(points)}
    text = orjson.dumps(found, option=orjson.OPT_INDENT_2).decode()
    typer.echo(text)
    if output is not None:
        output.write_text(text + "\n")


if __name__ == "__main__":
    typer.run(main)
