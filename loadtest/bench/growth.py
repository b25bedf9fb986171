"""What a stream costs as they grow in number, and a request as engines and keys do."""

from __future__ import annotations

import contextlib
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import typer

from loadtest.bench.measure import Sample, Subject, sample, workload
from loadtest.bench.processes import Server, cpu_seconds, gateway
from loadtest.bench.report import Page
from loadtest.client.fleet import Fleet, Load, fleet
from loadtest.stand_in import running
from loadtest.stand_in_engine import Options
from loadtest.stand_in_script import Script

STREAMS = (1, 16, 128, 512, 1000, 2000)
ENGINES = (1, 4, 16, 64)
KEYS = (1, 100, 10_000)
_ITL_S = 0.5
"""Slow enough that 2,000 streams don't fill a core: what is looked for is the cost of one, not the limit."""
_FLAT = 0.2
_RATE = 40.0
_FILES_WANTED = 16_384


def main(
    seconds: Annotated[float, typer.Option(min=2, help="Of one measurement.")] = 20,
    results: Path = Path("docs/results"),
) -> None:
    _allow_files()
    page = Page.begin("growth", "Cost against growth")
    with fleet(os.cpu_count() or 1) as workers:
        streams = _streams(workers, seconds)
        engines = _engines(workers, seconds)
        keys = _keys(workers, seconds)
    page.say(
        "CPU and memory of one gateway process before stand-in engines.",
        "## Streams",
        f'Each gets a token every {_ITL_S:g} s, one event each (`stream_granularity: "token"`). Memory is '
        "what the gateway holds more than at rest, CPU what it takes more than at rest.",
    )
    page.table(
        ["streams", "updates/s", "CPU µs an update", "memory KB a stream", "errors"],
        [
            [
                one.number,
                one.sample.updates_per_s,
                one.cpu_us,
                one.memory_bytes / one.number / 1e3,
                one.sample.errors,
            ]
            for one in streams
        ],
    )
    page.say(_verdict("an update", [(one.number, one.cpu_us) for one in streams if one.number >= 16]))
    page.say("## Engines", f"{_RATE:g} whole answers a second, Poisson.")
    page.table(["engines", "CPU µs a request"], [[n, one.cpu_us_per_request] for n, one in engines])
    page.say(_verdict("a request", [(n, one.cpu_us_per_request) for n, one in engines]))
    page.say("## API keys", f"{_RATE:g} whole answers a second, Poisson; a key with quotas.")
    page.table(
        ["keys", "CPU µs a request", "memory MB"],
        [[n, one.cpu_us_per_request, one.memory_mb] for n, one in keys],
    )
    page.say(_verdict("a request", [(n, one.cpu_us_per_request) for n, one in keys]))
    page.data = {
        "streams": {one.number: [one.cpu_us, one.memory_bytes, one.sample.errors] for one in streams},
        "engines": {n: one.cpu_us_per_request for n, one in engines},
        "keys": {n: one.cpu_us_per_request for n, one in keys},
    }
    typer.echo(page.write(results))


@dataclass(frozen=True, slots=True)
class _Streams:
    number: int
    sample: Sample
    cpu_us: float
    """Of an update, without what the gateway does at rest: it looks after its engines."""
    memory_bytes: float
    """More than at rest."""


def _streams(workers: Fleet, seconds: float) -> list[_Streams]:
    found = []
    script = Script(thinking=round(seconds / _ITL_S), answer=4)
    for number in STREAMS:
        with running(Options(script, itl_s=_ITL_S), processes=1) as urls, gateway(urls) as own:
            subject = Subject("s1-server", own.url, own, {"stream_granularity": "token"})
            sample(workers, subject, Load(workload(max_thinking_tokens=1), duration_s=1, concurrency=8))
            resting = own.used().memory_bytes
            at_rest = Meter(own)
            time.sleep(seconds / 4)
            resting_part = at_rest.cpu_s / at_rest.elapsed_s
            load = Load(workload(), duration_s=seconds / 2, concurrency=number)
            loaded = Meter(own)
            one = sample(workers, subject, load)
            cpu_s = loaded.cpu_s - resting_part * loaded.elapsed_s
            more = max(0.0, (one.memory_mb or 0) * 1e6 - resting)
            found.append(_Streams(number, one, cpu_s * 1e6 / max(1, one.updates), more))
    return found


class Meter:
    """CPU and wall time of a process from now on."""

    def __init__(self, own: Server) -> None:
        self._pid = own.process.pid
        self._cpu_s, self._began = cpu_seconds(self._pid), time.monotonic()

    @property
    def cpu_s(self) -> float:
        return cpu_seconds(self._pid) - self._cpu_s

    @property
    def elapsed_s(self) -> float:
        return time.monotonic() - self._began


def _engines(workers: Fleet, seconds: float) -> list[tuple[int, Sample]]:
    found = []
    for number in ENGINES:
        with running(Options(Script(thinking=4, answer=4)), engines=number) as urls, gateway(urls) as own:
            found.append((number, _whole(workers, own, seconds)))
    return found


def _keys(workers: Fleet, seconds: float) -> list[tuple[int, Sample]]:
    found = []
    for number in KEYS:
        with contextlib.ExitStack() as stack:
            folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
            key = _write_keys(folder / "keys.json", number)
            urls = stack.enter_context(running(Options(Script(thinking=4, answer=4))))
            own = stack.enter_context(gateway(urls, options=["--keys-file", str(folder / "keys.json")]))
            found.append((number, _whole(workers, own, seconds, key=key)))
    return found


def _write_keys(path: Path, number: int) -> str:
    """A file of so many keys, made of one that `s1 keys` has made; that one, which is the last."""
    argv = [sys.executable, "-m", "server.cli", "keys", "create", "bench", "--file", str(path)]
    made = subprocess.run(  # noqa: S603 - our own command
        [*argv, "--tokens-per-minute", "1000000000"], capture_output=True, text=True, check=True
    )
    content = json.loads(path.read_text())
    own = content["keys"][0]
    others = [
        own | {"id": f"{i:0{len(own['id'])}x}", "name": f"bench-{i}", "sha256": f"{i:064x}"}
        for i in range(number - 1)
    ]
    path.write_text(json.dumps(content | {"keys": [*others, own]}))
    return next(word for word in made.stdout.split() if word.startswith("s1-"))


def _whole(workers: Fleet, own: Server, seconds: float, *, key: str | None = None) -> Sample:
    subject = Subject("s1-server", own.url, own, key=key)
    load = Load(workload(stream=False), duration_s=seconds, warmup_s=seconds / 10, rate=_RATE)
    return sample(workers, subject, load)


def _verdict(of: str, costs: Sequence[tuple[int, float | None]]) -> str:
    known = [(number, cost) for number, cost in costs if cost is not None]
    low, high = min(cost for _, cost in known), max(cost for _, cost in known)
    spread = high / low - 1
    word = "holds" if spread <= _FLAT else "is missed"
    return (
        f"Bar: the CPU of {of} stays within {_FLAT:.0%} from {known[0][0]:,} on: {word} "
        f"({low:.0f} to {high:.0f} µs, {spread:.0%} apart)."
    )


def _allow_files() -> None:
    """A stream is two sockets of the gateway's, which inherits this limit."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft < _FILES_WANTED:
        resource.setrlimit(resource.RLIMIT_NOFILE, (min(_FILES_WANTED, hard), hard))


if __name__ == "__main__":
    typer.run(main)
