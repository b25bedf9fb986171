"""`s1 evaluate demo`: one command starts both engines, asks every kind of method, and leaves a report."""

from __future__ import annotations

import json
import os
import subprocess
import sys
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


def test_one_command_measures_every_kind_of_method_and_ends_what_it_started(tmp_path: Path) -> None:
    sweep, out = tmp_path / "sweep.yaml", tmp_path / "run"
    sweep.write_text(SWEEP)
    command = ["evaluate", "demo", "--sweep", str(sweep), "--limit", "3", "--out", str(out)]
    run = subprocess.Popen(
        [sys.executable, "-m", "server.cli", *command],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        env={**os.environ, "NO_COLOR": "1"},
        start_new_session=True,
    )
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
