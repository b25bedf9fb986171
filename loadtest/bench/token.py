"""The budget of a token: where the gateway's microseconds go, by sampling it with py-spy under load."""

from __future__ import annotations

import os
import subprocess
import tempfile
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

import typer

from loadtest.bench.measure import Sample, Subject, sample, workload
from loadtest.bench.processes import BenchError, gateway
from loadtest.bench.report import Page
from loadtest.bench.venvs import FOLDER, program
from loadtest.client.fleet import Load, fleet
from loadtest.stand_in import running
from loadtest.stand_in_engine import Options
from loadtest.stand_in_script import Script

_HERTZ = 250
_SCRIPT = Script(thinking=40, answer=22)
_PACED_S = 0.02
_REQUEST = "once a request: before and after its stream"
_PARTS: Mapping[str, tuple[str, ...]] = {
    "the write to the client's socket": ("RequestResponseCycle.send", "gateway/connection/joined_head.py"),
    "between answer and socket: middleware": (
        "gateway/chat/sse.py",
        "gateway/access/guard.py",
        "gateway/connection/boundary.py",
        "observe/middleware.py",
        "starlette/",
        "gateway/chat/turnstile.py",
    ),
    "the engine's connection": ("gateway/engines/engine_http.py",),
    "cutting events, JSON to objects": ("gateway/engines/engine.py",),
    "the chunk's form, joining, JSON": ("streaming.py", "bursts.py", "granularity.py", "chat_service.py"),
    "metering, observation, control": ("metering.py", "observe/", "live.py"),
    "event loop": ("asyncio/",),
}
"""By the file, or the function, in which a sample was taken."""


def main(
    seconds: Annotated[float, typer.Option(min=3, help="Of one case.")] = 15,
    venvs: Path = FOLDER,
    results: Path = Path("docs/results"),
) -> None:
    page = Page.begin("token", "The budget of a token")
    spy = program("py-spy", "py-spy", folder=venvs)
    paced, token = Options(_SCRIPT, itl_s=_PACED_S), {"stream_granularity": "token"}
    budget: dict[str, Any] = {"max_thinking_tokens": 40}
    cases: Mapping[str, tuple[Options, Load, Mapping[str, Any]]] = {
        "200 streams at 50 tokens a second, token by token": (paced, _load(200, seconds, budget), token),
        "the same by default": (paced, _load(200, seconds, budget), {}),
        "16 streams as fast as they go, token by token": (
            Options(_SCRIPT),
            _load(16, seconds, budget),
            token,
        ),
        "16 whole answers at a time": (Options(_SCRIPT), _load(16, seconds, {"stream": False}), {}),
    }
    found = {name: _case(spy, *case, seconds) for name, case in cases.items()}
    page.say(f"One gateway before a stand-in engine, streams of 64 tokens; py-spy at {_HERTZ} Hz.")
    columns = ["cpu_us_per_request", "cpu_us_per_update", "cpu_us_per_token", "requests_per_s", "errors"]
    page.table(
        ["case", *(column.replace("_", " ") for column in columns)],
        [[name, *(getattr(one, column) for column in columns)] for name, (one, _) in found.items()],
    )
    parts = [_REQUEST, *_PARTS, "other"]
    page.say("Shares of its CPU time:")
    page.table(
        ["part", *found],
        [[part, *(f"{shares[part]:.0%}" for _, shares in found.values())] for part in parts],
    )
    page.data = {name: dict(shares) for name, (_, shares) in found.items()}
    typer.echo(page.write(results))


def _load(concurrency: int, seconds: float, fields: Mapping[str, Any]) -> Load:
    return Load(workload(**fields), duration_s=seconds, concurrency=concurrency)


def _case(
    spy: Path, options: Options, load: Load, extra: Mapping[str, Any], seconds: float
) -> tuple[Sample, Mapping[str, float]]:
    with (
        tempfile.TemporaryDirectory() as folder,
        running(options) as urls,
        gateway(urls) as own,
        fleet(os.cpu_count() or 1) as workers,
    ):
        subject = Subject("s1-server", own.url, own, extra)
        sample(workers, subject, Load(load.workload, duration_s=1, concurrency=load.concurrency))
        raw = Path(folder) / "samples.txt"
        argv = [str(spy), "record", "--pid", str(own.process.pid), "--rate", str(_HERTZ), "--format", "raw"]
        argv += ["--duration", str(max(2, int(seconds) - 1)), "--output", str(raw)]
        with subprocess.Popen(argv, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE) as spying:  # noqa: S603
            one = sample(workers, subject, load)
            _, complaint = spying.communicate()
        if not raw.is_file():
            raise BenchError(f"py-spy has no samples: {complaint.decode(errors='replace')[-500:]}")
        return one, _shares(raw.read_text())


def _shares(samples: str) -> Mapping[str, float]:
    """Parts of all samples. A line is a stack, outermost first, and how often it was seen."""
    seen: Counter[str] = Counter()
    for line in samples.splitlines():
        stack, _, times = line.rpartition(" ")
        leaf = stack.rpartition(";")[2]
        in_stream = "stream_chat" in stack or "Runner.run" in leaf or "Connection.data_received" in stack
        part = next((name for name, signs in _PARTS.items() if any(sign in leaf for sign in signs)), "other")
        seen[part if in_stream else _REQUEST] += int(times)
    total = sum(seen.values())
    return {part: seen[part] / total for part in (_REQUEST, *_PARTS, "other")}


if __name__ == "__main__":
    typer.run(main)
