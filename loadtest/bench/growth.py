"""What a stream costs as they grow in number, and a request as engines and keys do."""

from __future__ import annotations

import contextlib
import json
import os
import resource
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import typer

from loadtest.bench.measure import Sample, Subject, sample, workload
from loadtest.bench.processes import Server, gateway
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
        "what the gateway holds more than at rest.",
    )
    page.table(
        ["streams", "updates/s", "CPU µs an update", "memory KB a stream", "errors"],
        [
            [n, one.updates_per_s, one.cpu_us_per_update, more / n / 1e3, one.errors]
            for n, one, more in streams
        ],
    )
    page.say(_verdict("an update", [(n, one.cpu_us_per_update) for n, one, _ in streams if n >= 16]))
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
        "streams": {n: [one.cpu_us_per_update, more, one.errors] for n, one, more in streams},
        "engines": {n: one.cpu_us_per_request for n, one in engines},
        "keys": {n: one.cpu_us_per_request for n, one in keys},
    }
    typer.echo(page.write(results))


def _streams(workers: Fleet, seconds: float) -> list[tuple[int, Sample, float]]:
    """Number, sample, and bytes more than at rest."""
    found = []
    script = Script(thinking=round(seconds / _ITL_S), answer=4)
    for number in STREAMS:
        # A spread of first tokens, so that streams don't march in step.
        with running(Options(script, itl_s=_ITL_S), processes=1) as urls, gateway(urls) as own:
            resting = own.used().memory_bytes
            subject = Subject("s1-server", own.url, own, {"stream_granularity": "token"})
            load = Load(workload(), duration_s=seconds / 2, concurrency=number)
            one = sample(workers, subject, load)
            found.append((number, one, max(0.0, (one.memory_mb or 0) * 1e6 - resting)))
    return found


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
