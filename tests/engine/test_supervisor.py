"""The supervisor over small programs in the engine's place: start, death, restart, end."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import psutil
import pytest

from server.engine import supervisor
from server.engine.launch import EngineOptions
from server.engine.supervisor import EngineStartError, EngineSupervisor, last_lines

# Answers /health, and has a child in its process group as vLLM has.
ENGINE = """
import http.server, subprocess, sys
subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])
class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        self.send_response(200); self.end_headers()
    def log_message(self, *_): pass
http.server.HTTPServer(("127.0.0.1", int(sys.argv[1])), Handler).serve_forever()
"""
BROKEN = "import sys; print('no such model: m'); sys.exit(3)"


@pytest.fixture
def program(monkeypatch: pytest.MonkeyPatch) -> Callable[[str], None]:
    def choose(source: str) -> None:
        monkeypatch.setattr(
            supervisor, "command", lambda options, *, host, port: [sys.executable, "-c", source, str(port)]
        )

    monkeypatch.setattr(supervisor, "_FIRST_BACKOFF_S", 0.05)
    return choose


async def until(condition: Callable[[], object]) -> None:
    async with asyncio.timeout(30):
        while not condition():  # noqa: ASYNC110 - another process's state
            await asyncio.sleep(0.02)


def group(pid: int) -> list[psutil.Process]:
    members = []
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error, ProcessLookupError):
            if os.getpgid(process.pid) == pid and process.status() != psutil.STATUS_ZOMBIE:
                members.append(process)
    return members


async def test_it_starts_restarts_and_leaves_nothing_behind(
    program: Callable[[str], None], tmp_path: Path
) -> None:
    program(ENGINE)
    engine = EngineSupervisor(EngineOptions(model="m"), log_path=tmp_path / "log")
    async with engine.running():
        await until(lambda: engine._was_ready and engine.pid and len(group(engine.pid)) == 2)
        first = engine.pid
        assert first is not None
        os.kill(first, signal.SIGKILL)
        await until(lambda: engine.pid not in (None, first))
        await until(lambda: not group(first))
        second = engine.pid
        assert second is not None
        await until(lambda: len(group(second)) == 2)
    await until(lambda: not group(second))


async def test_an_engine_that_stops_answering_is_started_again(
    program: Callable[[str], None], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(supervisor, "_HEALTH_INTERVAL_S", 0.1)
    monkeypatch.setattr(supervisor, "_HANG_S", 0.5)
    program(ENGINE)
    engine = EngineSupervisor(EngineOptions(model="m"), log_path=tmp_path / "log")
    async with engine.running():
        await until(lambda: engine._was_ready)
        hung = engine.pid
        assert hung is not None
        os.kill(hung, signal.SIGSTOP)
        await until(lambda: engine.pid not in (None, hung))
        assert group(hung) == []


async def test_an_engine_that_never_was_ready_is_given_up(
    program: Callable[[str], None], tmp_path: Path
) -> None:
    program(BROKEN)
    errors: list[EngineStartError] = []
    engine = EngineSupervisor(EngineOptions(model="m"), log_path=tmp_path / "log", on_give_up=errors.append)
    async with engine.running():
        await until(lambda: errors)
    assert "no such model: m" in str(errors[0])
    assert str(tmp_path / "log") in str(errors[0])
    assert (tmp_path / "log").read_text().count("no such model: m") == 1


def test_an_engine_ends_when_its_parent_is_killed(tmp_path: Path) -> None:
    pid_file = tmp_path / "pid"
    child = (
        f"import os, pathlib, time; pathlib.Path({str(pid_file)!r}).write_text(str(os.getpid())); "
        "time.sleep(600)"
    )
    parent = (
        "import os, subprocess, sys, time\n"
        "tether = [sys.executable, '-m', 'server.engine.tether', str(os.getpid())]\n"
        f"subprocess.Popen([*tether, sys.executable, '-c', {child!r}])\n"
        "time.sleep(600)"
    )
    process = subprocess.Popen([sys.executable, "-c", parent], cwd=Path(__file__).parents[2])
    deadline = time.monotonic() + 30
    while not (pid_file.exists() and pid_file.read_text()):
        assert time.monotonic() < deadline
        time.sleep(0.02)
    engine = psutil.Process(int(pid_file.read_text()))
    process.kill()
    process.wait()
    engine.wait(timeout=10)


def test_last_lines(tmp_path: Path) -> None:
    log = tmp_path / "log"
    assert last_lines(log, 3) == []
    log.write_text("".join(f"line {i}\n" for i in range(100)))
    assert last_lines(log, 2) == ["line 98", "line 99"]
