"""`s1 train` from nothing to a checkpoint measured through our own server, in miniature."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.engine
pytest.importorskip("trl")

STAGES = [
    "base",
    "pool",
    "curate/collect",
    "curate/quality",
    "curate/decontaminate",
    "curate/solver-set",
    "solver-samples",
    "solver",
    "curate/difficulty",
    "curate/diversity",
    "samples",
    "sft",
    "evaluate",
]


def s1_train(out: Path, *options: str) -> subprocess.CompletedProcess[str]:
    argv = [
        sys.executable,
        "-m",
        "server.cli",
        "train",
        "--recipe",
        "tiny-smoke",
        "--out",
        str(out),
        *options,
    ]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "NO_COLOR": "1"}
    return subprocess.run(argv, capture_output=True, text=True, timeout=570, env=environment)


def test_the_whole_chain_and_that_nothing_is_done_twice(tmp_path: Path) -> None:
    out = tmp_path / "run"
    done = s1_train(out)
    assert done.returncode == 0, done.stderr
    assert f"serve it with: s1 serve {out / 'model'}" in done.stdout

    manifest = json.loads((out / "model" / "training_manifest.json").read_text())
    assert list(manifest["stages"]) == STAGES
    notes = {name: stage["notes"] for name, stage in manifest["stages"].items()}
    assert notes["curate/difficulty"]["calls"]["sent"] == notes["curate/difficulty"]["funnel"]["in"] > 24
    assert notes["samples"]["samples"] == 2 * notes["samples"]["traces"] == 48
    assert notes["sft"]["data"]["samples"] == 48

    curve = json.loads((out / "evaluate" / "curve.json").read_text())
    rows = [*curve["budgets"], *curve["waits"], *curve["minima"]]
    assert all(row["num_errors"] == 0 and row["num_questions"] == 2 for row in rows)
    assert [row["mean_thinking_tokens"] for row in curve["budgets"]][:2] == [0, 32]
    card = (out / "model" / "README.md").read_text()
    assert "2 held-out questions" in card and "Not measured yet" not in card

    again = s1_train(out)
    assert again.returncode == 0, again.stderr
    said = [line for line in again.stderr.splitlines() if line.endswith(": done already")]
    assert said == [f"{name}: done already" for name in STAGES]
    assert json.loads((out / "model" / "training_manifest.json").read_text()) == manifest
