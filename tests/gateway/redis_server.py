"""A real Redis for tests: Debian's redis-server, on a socket of its own, never as a service."""

from __future__ import annotations

import contextlib
import shutil
import subprocess
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
import redis


@dataclass
class RunningRedis:
    url: str
    process: subprocess.Popen[bytes]


@contextlib.contextmanager
def redis_server() -> Iterator[RunningRedis]:
    program = shutil.which("redis-server")
    if program is None:
        pytest.fail(
            "redis-server is not installed: apt-get install redis-server (scripts/install.sh dev does)"
        )
    # Not in pytest's directories: a socket's path may have 107 bytes only.
    with tempfile.TemporaryDirectory(prefix="s1-redis-") as directory:
        socket = Path(directory) / "redis.sock"
        argv = [program, "--port", "0", "--unixsocket", str(socket), "--dir", directory]
        argv += ["--save", "", "--appendonly", "no"]
        process = subprocess.Popen(argv, stdout=subprocess.DEVNULL, stderr=subprocess.STDOUT)
        try:
            _until_it_answers(f"unix://{socket}", process)
            yield RunningRedis(f"unix://{socket}", process)
        finally:
            process.kill()
            process.wait()


def _until_it_answers(url: str, process: subprocess.Popen[bytes]) -> None:
    deadline = time.monotonic() + 30
    with redis.Redis.from_url(url) as client:
        while process.poll() is None and time.monotonic() < deadline:
            with contextlib.suppress(redis.ConnectionError):
                client.ping()
                return
            time.sleep(0.01)
    pytest.fail("redis-server did not start")
