"""How long the gateway takes to import and to be ready, and what it holds when it does nothing."""

from __future__ import annotations

import subprocess
import sys
import time
from pathlib import Path
from statistics import median
from typing import Annotated

import typer

from loadtest.bench.processes import gateway
from loadtest.bench.report import Page
from loadtest.stand_in import running
from loadtest.stand_in_engine import Options

_MOST_IMPORT_S = 1.0
_MODULES = {
    "python -c pass": "pass",
    "import fastapi, aiohttp, uvicorn": "import fastapi, aiohttp, uvicorn",
    "import server.gateway.app": "import server.gateway.app",
    "import server.cli (the command s1)": "import server.cli",
}
_SLOWEST = 12


def main(rounds: Annotated[int, typer.Option(min=3)] = 7, results: Path = Path("docs/results")) -> None:
    page = Page.begin("startup", "Start-up and rest")
    times: dict[str, list[float]] = {name: [] for name in _MODULES}
    cpu: dict[str, list[float]] = {name: [] for name in _MODULES}
    ready: list[float] = []
    resting: list[float] = []
    with running(Options()) as urls:
        for _ in range(rounds):
            for name, code in _MODULES.items():
                wall_s, cpu_s = _run(code)
                times[name].append(wall_s)
                cpu[name].append(cpu_s)
            with gateway(urls) as started:
                ready.append(started.ready_s)
                resting.append(started.used().memory_bytes / 1e6)
    page.say(
        f"Medians of {rounds} interleaved rounds. `ready` needs an engine that was probed, the stand-in's."
    )
    rows = [
        [name, median(times[name]), min(times[name]), max(times[name]), median(cpu[name])]
        for name in _MODULES
    ]
    page.table(["", "seconds", "least", "most", "of them CPU"], rows)
    page.table(
        ["`s1 serve --engine-url`", "median", "least", "most"],
        [
            ["start to /ready, s", median(ready), min(ready), max(ready)],
            ["resident memory at rest, MB", median(resting), min(resting), max(resting)],
        ],
    )
    verdict = "holds" if median(cpu["import server.gateway.app"]) < _MOST_IMPORT_S else "is missed"
    page.say(
        f"Bar: the gateway's import takes less than {_MOST_IMPORT_S:g} s of CPU: {verdict}.",
        "## What the import is made of",
        "Of `python -X importtime -c 'import server.gateway.app'`, each with what it imports first:",
    )
    page.table(["module", "ms"], _slowest())
    page.data = {"import_s": times, "import_cpu_s": cpu, "ready_s": ready, "resting_mb": resting}
    typer.echo(page.write(results))


def _run(code: str) -> tuple[float, float]:
    """Seconds, and seconds of CPU."""
    timed = f"{code}\nimport time; print(time.process_time())"
    began = time.monotonic()
    done = subprocess.run(  # noqa: S603 - our own code
        [sys.executable, "-c", timed], capture_output=True, text=True, check=True
    )
    return time.monotonic() - began, float(done.stdout)


def _slowest() -> list[list[object]]:
    """Packages by the time until they and what they need are there; not those inside of others listed."""
    done = subprocess.run(
        [sys.executable, "-X", "importtime", "-c", "import server.gateway.app"],
        capture_output=True,
        text=True,
        check=True,
    )
    found = []
    for line in done.stderr.splitlines():
        parts = line.removeprefix("import time:").split("|")
        if len(parts) == 3 and parts[1].strip().isdecimal():
            found.append((parts[2].strip(), int(parts[1]) / 1000))
    packages = [(name, ms) for name, ms in found if "." not in name or name.startswith("server.")]
    return [[name, ms] for name, ms in sorted(packages, key=lambda pair: -pair[1])[:_SLOWEST]]


if __name__ == "__main__":
    typer.run(main)
