"""The command `s1`, in this process where that is enough and as users start it where it is not."""

from __future__ import annotations

import contextlib
import json
import os
import resource
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from typer.testing import CliRunner, Result

from server.cli import app


def s1(*arguments: str | Path, env: dict[str, str] | None = None) -> Result:
    return CliRunner().invoke(app, [str(argument) for argument in arguments], env=env)


def s1_ok(*arguments: str | Path, env: dict[str, str] | None = None) -> str:
    result = s1(*arguments, env=env)
    assert result.exit_code == 0, result.output + repr(result.exception)
    return result.stdout


def s1_fails(status: int, *arguments: str | Path) -> str:
    """The one line that a failing command says."""
    result = s1(*arguments)
    assert result.exit_code == status, result.output + repr(result.exception)
    lines = [line for line in result.stderr.splitlines() if line.startswith("s1: ")]
    assert len(lines) == 1 and result.stderr.rstrip().endswith(lines[0]), result.stderr
    return lines[0]


@contextlib.contextmanager
def file_size_limit(size: int) -> Iterator[None]:
    """Stands in for a full disk, in this process: an OSError where a file would grow over `size` bytes."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    before = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
        signal.signal(signal.SIGXFSZ, before)


def s1_process(
    *arguments: str | Path, before: str = "", **environment: str
) -> subprocess.CompletedProcess[str]:
    """`before` is Python that the process runs first, such as a limit it sets itself."""
    program = f"import sys\n{before}\nfrom server.cli import main\nsys.argv[0] = 's1'\nmain()"
    argv = [sys.executable, "-c", program, *map(str, arguments)]
    return subprocess.run(
        argv, env={**os.environ, **environment}, capture_output=True, text=True, timeout=120
    )


def start_commands(commands: list[list[str]], **environment: str) -> subprocess.Popen[str]:
    """Several commands after one another in one new process, which ends at the first that fails."""
    program = (
        "import json, sys\nfrom server.cli import app\n"
        "for command in json.loads(sys.argv[1]):\n    app(command, standalone_mode=False)\n"
    )
    argv = [sys.executable, "-c", program, json.dumps(commands)]
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT}
    return subprocess.Popen(argv, env={**os.environ, **environment}, text=True, **pipes)  # type: ignore[call-overload,no-any-return]


def rows(path: Path) -> list[dict[str, Any]]:
    """Of a stage's folder, or of a file."""
    from training.curate.files import questions_file, read_rows

    return read_rows(questions_file(path))


def drops(folder: Path) -> dict[str, int]:
    counts: dict[str, int] = {}
    for step in manifest(folder)["funnel"][-1:]:
        counts = step["drops"]
    return counts


def manifest(folder: Path) -> dict[str, Any]:
    content: dict[str, Any] = json.loads((folder / "manifest.json").read_text())
    return content
