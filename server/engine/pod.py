"""An engine in a container: whether it is alive, and its way out. Nothing but the standard library.

    python -m server.engine.pod alive --port 8001     for a liveness probe
    python -m server.engine.pod drain --port 8001     before it is stopped (a preStop hook)

`alive` fails if /health does, or if requests are running and no token was made for `--stall-s`: /health can
stay 200 after a GPU has failed. Each data-parallel rank has an engine core, and each is judged by itself.
What was seen last is kept in a file between two calls.
`drain` waits until gateways have noticed that this engine is leaving, and then until nothing runs any more.
"""

from __future__ import annotations

import argparse
import json
import re
import socket
import sys
import tempfile
import time
import urllib.request
from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from http.client import HTTPException
from pathlib import Path
from urllib.error import URLError

_SAMPLE = re.compile(r"^vllm:(?P<name>\w+)(?:\{(?P<labels>[^}]*)\})? (?P<value>[0-9.e+]+)$", re.MULTILINE)
_CORE = re.compile(r'\bengine="(?P<number>[^"]*)"')
_MADE = ("generation_tokens_total", "prompt_tokens_total")
_UNDER_WAY = ("num_requests_running", "num_requests_waiting")
_POLL_S = 1.0
_TIMEOUT_S = 8.0


@dataclass(frozen=True, slots=True)
class Work:
    """What an engine core has done and has to do, by vLLM's metrics."""

    tokens_made: float
    running: float
    waiting: float

    @property
    def under_way(self) -> bool:
        return self.running + self.waiting > 0


@dataclass(frozen=True, slots=True)
class Progress:
    """When tokens were last seen to grow, on the wall clock: it must outlive this process."""

    tokens_made: float
    since: float


def read_work(metrics: str) -> dict[str, Work]:
    """By the number of the engine core."""
    names = (*_MADE, *_UNDER_WAY)
    cores: defaultdict[str, dict[str, float]] = defaultdict(lambda: dict.fromkeys(names, 0.0))
    for sample in _SAMPLE.finditer(metrics):
        if sample["name"] in names:
            core = _CORE.search(sample["labels"] or "")
            cores[core["number"] if core else ""][sample["name"]] += float(sample["value"])
    return {
        core: Work(sum(sums[name] for name in _MADE), *(sums[name] for name in _UNDER_WAY))
        for core, sums in cores.items()
    }


def progress(work: Work, last: Progress | None, *, now: float) -> Progress:
    """An engine without running requests needn't make tokens."""
    if last is None or not work.running or work.tokens_made != last.tokens_made:
        return Progress(work.tokens_made, now)
    return last


def alive(url: str, state: Path, *, stall_s: float, now: Callable[[], float] = time.time) -> str | None:
    """Why the engine is not alive, or None.

    Args:
        state: the file that remembers what was seen last.
    """
    try:
        _get(f"{url}/health")
        work = read_work(_get(f"{url}/metrics"))
    except (OSError, HTTPException) as error:
        return f"{url} doesn't answer: {error}"
    last = _read(state)
    seen = {core: progress(done, last.get(core), now=now()) for core, done in work.items()}
    _write(state, seen)
    for core, done in work.items():
        idle_s = now() - seen[core].since
        if idle_s >= stall_s:
            where = f" (core {core})" if len(work) > 1 else ""
            return f"{done.running:g} requests are running and no token was made in {idle_s:.0f} s{where}"
    return None


def drain(
    url: str,
    *,
    notice_s: float,
    timeout_s: float,
    sleep: Callable[[float], None] = time.sleep,
    clock: Callable[[], float] = time.monotonic,
) -> bool:
    """Wait `notice_s`, then until nothing is under way, at most `timeout_s` in all; whether it came to that.

    An engine that isn't there has nothing under way; one that doesn't answer may have.
    """
    end = clock() + timeout_s
    sleep(min(notice_s, timeout_s))
    while True:
        try:
            cores = read_work(_get(f"{url}/metrics"))
            if not any(work.under_way for work in cores.values()):
                return True
        except (OSError, HTTPException) as error:
            # A busy engine may be slow to answer; only nobody at its address is an engine that is gone.
            if _is_gone(error):
                return True
        if clock() >= end:
            return False
        sleep(_POLL_S)


def _is_gone(error: Exception) -> bool:
    reason = error.reason if isinstance(error, URLError) else error
    if isinstance(reason, socket.gaierror):
        return reason.errno == socket.EAI_NONAME
    return isinstance(reason, ConnectionRefusedError)


def _get(url: str) -> str:
    with urllib.request.urlopen(url, timeout=_TIMEOUT_S) as answer:  # noqa: S310 - http, built from our arguments
        body: bytes = answer.read()
    return body.decode()


def _read(state: Path) -> dict[str, Progress]:
    try:
        return {core: Progress(**seen) for core, seen in json.loads(state.read_text()).items()}
    except (FileNotFoundError, json.JSONDecodeError, TypeError):
        return {}


def _write(state: Path, seen: dict[str, Progress]) -> None:
    partial = state.with_suffix(".partial")
    partial.write_text(json.dumps({core: asdict(last) for core, last in seen.items()}))
    partial.replace(state)


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m server.engine.pod", description=__doc__)
    parser.add_argument("command", choices=("alive", "drain"))
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--stall-s", type=float, default=300.0)
    parser.add_argument("--notice-s", type=float, default=15.0)
    parser.add_argument("--timeout-s", type=float, default=600.0)
    given = parser.parse_args(argv)
    url = f"http://{given.host}:{given.port}"
    if given.command == "drain":
        return 0 if drain(url, notice_s=given.notice_s, timeout_s=given.timeout_s) else 1
    state = Path(tempfile.gettempdir()) / f"s1-engine-{given.port}.progress"
    reason = alive(url, state, stall_s=given.stall_s)
    if reason is not None:
        sys.stderr.write(f"{reason}\n")
    return 0 if reason is None else 1


if __name__ == "__main__":
    sys.exit(main())
