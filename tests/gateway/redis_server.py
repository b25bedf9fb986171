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
    socket: Path
    process: subprocess.Popen[bytes]

    @property
    def url(self) -> str:
        return f"unix://{self.socket}"

    def demote(self) -> None:
        """Make it the replica of a master that isn't there: it keeps its data and takes no writes."""
        self._replicate("127.0.0.1", 1)

    def promote(self) -> None:
        self._replicate("NO", "ONE")

    def _replicate(self, *master: str | int) -> None:
        with redis.Redis.from_url(self.url) as client:
            client.execute_command("REPLICAOF", *master)


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
            yield RunningRedis(socket, process)
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
