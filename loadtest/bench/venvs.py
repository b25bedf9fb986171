"""Peers from PyPI, each in a virtual environment of its own: their dependencies are not ours."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from loadtest.bench.processes import BenchError

FOLDER = Path("runs/bench-venvs")


def program(package: str, name: str, *, folder: Path = FOLDER) -> Path:
    """The path of the command `name` of `package`, installed if it isn't yet.

    Raises:
        BenchError: it can't be installed, or has no such command.
    """
    place = folder.absolute() / name
    command = place / "bin" / name
    if not command.exists():
        steps = (
            [sys.executable, "-m", "venv", str(place)],
            [str(place / "bin" / "pip"), "install", "--quiet", package],
        )
        for step in steps:
            done = subprocess.run(step, capture_output=True, text=True)  # noqa: S603 - our own command lines
            if done.returncode:
                raise BenchError(f"{package} can't be installed: {done.stderr[-500:]}")
    if not command.exists():
        raise BenchError(f"{package} has no command {name}")
    return command


def version(package: str, name: str, *, folder: Path = FOLDER) -> str:
    """Of what `program` has installed."""
    python = folder.absolute() / name / "bin" / "python"
    code = f"import importlib.metadata as m; print(m.version({package!r}))"
    done = subprocess.run([str(python), "-c", code], capture_output=True, text=True, check=True)  # noqa: S603
    return done.stdout.strip()
