"""`s1 evaluate demo`: one command starts both engines, asks every kind of method, and leaves a report."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from training.evaluate.samples import read_samples

pytestmark = pytest.mark.engine

SWEEP = """
benchmarks: [demo]
series:
  maximum: {max_thinking_tokens: [64, 128], num_waits: 4}
  conditional: {method: token_conditional_forced, tokens: 64}
  rejection: {method: rejection_sampling, max_thinking_tokens: 48, max_tries: 4, temperature: 0.7}
  branches:
    method: [majority_vote, weighted_vote, best_of, rebase]
    width: 4
    total_thinking_tokens: 128
    temperature: 0.7
    limit: 2
"""


def _start(out: Path, *options: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-m", "server.cli", "evaluate", "demo", *options, "--out", str(out)],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        env={**os.environ, "NO_COLOR": "1"},
        start_new_session=True,
    )


def test_one_command_measures_every_kind_of_method_and_ends_what_it_started(tmp_path: Path) -> None:
    sweep, out = tmp_path / "sweep.yaml", tmp_path / "run"
    sweep.write_text(SWEEP)
    run = _start(out, "--sweep", str(sweep), "--limit", "3")
    said, _ = run.communicate(timeout=400)
    assert run.returncode == 0, said
    with pytest.raises(ProcessLookupError):
        os.killpg(run.pid, 0)
    rows = read_samples(out / "samples.parquet")
    assert len(rows) == 4 * 3 + 4 * 2 and not any(row.error for row in rows)
    allowed = {"token_conditional_forced": 64, "best_of": 128, "rebase": 128}
    assert all(0 < row.thinking_tokens <= allowed[row.method] for row in rows if row.method in allowed)
    told = json.loads((out / "summary.json").read_text())
    assert [row["series"] for row in told["equal_tokens"]] == [
        "maximum",
        *(f"branches, {method}" for method in ("majority_vote", "weighted_vote", "best_of", "rebase")),
    ]
    assert "At equal thinking tokens" in (out / "report.html").read_text()


def test_told_to_end_it_ends_what_it_started(tmp_path: Path) -> None:
    out = tmp_path / "run"
    run = _start(out, "--limit", "3")
    log = out / "reward.log"
    while not (log.is_file() and "s1 serve --reward-url" in log.read_text()):
        assert run.poll() is None, run.communicate()
        time.sleep(0.1)
    run.terminate()
    said, _ = run.communicate(timeout=100)
    assert run.returncode == 130 and "Run the same command to go on" in said, said
    assert "Traceback" not in said and len((out / "parts.jsonl").read_text().splitlines()) == 1
    with pytest.raises(ProcessLookupError):
        os.killpg(run.pid, 0)
