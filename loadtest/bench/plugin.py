"""What budget forcing costs an engine: the overhead part of the GPU check, on this machine, as a page."""

from __future__ import annotations

import json
import re
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Annotated

import typer

from loadtest.bench.engines import DEMO
from loadtest.bench.processes import BenchError
from loadtest.bench.report import Page
from loadtest.client.compare import Ratio
from loadtest.gpu_check.overhead import ARMS, CONTROLS

_BARS = {"ours, inactive": 0.99, "ours, active": 0.97}


def main(
    rounds: Annotated[int, typer.Option(min=3)] = 7,
    batches: str = "1,16,64",
    tokens: int = 128,
    model: Path = DEMO,
    results: Path = Path("docs/results"),
) -> None:
    page = Page.begin("plugin", "What budget forcing costs an engine")
    with tempfile.TemporaryDirectory() as directory:
        argv = [
            sys.executable, "-m", "loadtest.gpu_check", str(model), directory, "--parts", "overhead",
            "--batches", batches, "--rounds", str(rounds), "--tokens", str(tokens),
        ]  # fmt: skip
        done = subprocess.run(argv, capture_output=True, text=True)  # noqa: S603 - our own command line
        report = Path(directory) / "gpu-check.json"
        found = json.loads(report.read_text())["parts"]["overhead"] if report.is_file() else {"speeds": []}
    if not found["speeds"]:
        raise BenchError(f"nothing was measured: {done.stderr[-1500:]}")
    page.say(
        "Output tokens per second of engines side by side, interleaved; a ratio is the median of the "
        "rounds', with Student's t interval of their log ratios (95 %). The arms:",
        "\n".join(f"- **{name}**: {text}" for name, text in ARMS.items()),
    )
    values = {(s["shape"], s["arm"], s["batch"]): s["tokens_per_s"] for s in found["speeds"]}
    rows: list[list[object]] = []
    for (shape, arm, batch), speeds in values.items():
        base = values.get((shape, CONTROLS.get(arm, ""), batch))
        pairs = list(zip(speeds, base or [], strict=False))
        own = Ratio.of([a / b for a, b in pairs]) if len(pairs) > 1 else None
        rows.append([shape, batch, arm, sorted(speeds)[len(speeds) // 2], *_judged(arm, own)])
    page.table(["shape", "batch", "arm", "tok/s", "over its control", "bar"], rows)
    page.say(*found["notes"])
    # The shapes' weights were written for this run alone.
    found["commands"] = [re.sub(r"model='[^']*/", "model='", line) for line in found["commands"]]
    page.data = found
    typer.echo(page.write(results))


def _judged(arm: str, own: Ratio | None) -> tuple[str, str]:
    if own is None:
        return "–", "–"
    shown = f"{own.median:.3f} ({own.low:.3f} to {own.high:.3f})"
    bar = _BARS.get(arm)
    return shown, "–" if bar is None else f"{bar:g}: {'holds' if own.median >= bar else 'missed'}"


if __name__ == "__main__":
    typer.run(main)
