"""Run the parts one after another, each under its own time limit, and report what they left."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from datetime import UTC, datetime
from pathlib import Path
from types import FrameType

from loadtest.gpu_check.machine import find_gpu, versions
from loadtest.gpu_check.options import Options, parse
from loadtest.gpu_check.report import Report
from loadtest.gpu_check.result import PartResult

# Shares of the whole time; what a part leaves over goes to the parts after it.
_SHARE = {"smoke": 0.25, "exactness": 0.4, "overhead": 1.0}
_GRACE_S = 5.0


def main(arguments: list[str]) -> int:
    gpu = find_gpu()
    options = parse(arguments, device="cpu" if gpu is None else "cuda")
    if options.device == "cuda" and gpu is None:
        print("gpu_check: nvidia-smi shows no GPU here; try --device cpu", file=sys.stderr)  # noqa: T201
        return 2
    signal.signal(signal.SIGTERM, _stop)
    logs = options.out_dir / "logs"
    logs.mkdir(parents=True, exist_ok=True)
    started_at, began = datetime.now(UTC), time.monotonic()
    parts: dict[str, PartResult] = {}
    try:
        for name in options.parts:
            left_s = options.limit_s - (time.monotonic() - began)
            parts[name] = _run_part(name, options, logs, left_s * _SHARE[name])
    finally:
        report = Report(
            options,
            gpu if options.device == "cuda" else None,
            versions(),
            started_at,
            time.monotonic() - began,
            parts,
        )
        (options.out_dir / "gpu-check.json").write_text(json.dumps(report.as_json(), indent=1) + "\n")
        (options.out_dir / "README.md").write_text(report.markdown())
        print(report.table())  # noqa: T201 -- the command's output
        print(f"\n{options.out_dir}/README.md, gpu-check.json; engines' logs in {logs}")  # noqa: T201
    return 0 if report.passed else 1


def _run_part(name: str, options: Options, logs: Path, limit_s: float) -> PartResult:
    """The part's result, complete or not. All its processes are gone afterwards."""
    path = logs / f"{name}.json"
    path.unlink(missing_ok=True)
    print(f"{name}: at most {limit_s:.0f} s", flush=True)  # noqa: T201
    argv = [sys.executable, "-m", "loadtest.gpu_check.part", name, str(path), str(logs), str(limit_s)]
    with (logs / f"{name}.log").open("wb") as log:
        process = subprocess.Popen(  # noqa: S603 -- this program
            [*argv, options.to_json()], stdout=log, stderr=subprocess.STDOUT, start_new_session=True
        )
    try:
        process.wait(limit_s + _GRACE_S)
        in_time = True
    except subprocess.TimeoutExpired:
        in_time = False
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()
    result = PartResult.read(path)
    if not in_time:
        result.check(name, False, f"not done in {limit_s:.0f} s; what it had found until then is kept")
    elif process.returncode != 0:
        result.check(name, False, f"ended with {process.returncode}; its log: {logs}/{name}.log")
    return result


def _stop(number: int, frame: FrameType | None) -> None:
    raise SystemExit(128 + number)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
