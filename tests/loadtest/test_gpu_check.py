"""The GPU check, whole, through its shell script, on a CPU and small; and its judgement of divergences."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from loadtest.gpu_check.exactness import Demanded, is_tie
from tests.support.engines import DEMO
from tests.support.toy_markers import EOS, TURN, WAIT, toy_markers

SCRIPT = Path(__file__).parents[2] / "loadtest" / "gpu_check.sh"
DEMANDED = Demanded(
    token_ids=[25, 26, WAIT, 27, 28],
    chosen=frozenset({0, 1, 2, 3}),
    logprobs={0: {25: -0.1, 30: -0.12}, 1: {26: -0.1, 30: -2.0}, 2: {EOS: -0.7, 31: -0.71}, 4: {28: 0, 9: 0}},
)


@pytest.mark.parametrize(
    ("got", "tie"),
    [
        ([30, 26], True),
        ([25, 30], False),
        ([25, 26, 31, 27], True),
        ([25, 26, TURN, 27], True),
        ([25, 26, WAIT, 30], False),
        ([25, 26, WAIT, 27, 9], False),
        ([25, 26], False),
        ([24, 26], False),
    ],
    ids=[
        "near",
        "far",
        "a-wait-for-an-end",
        "another-end",
        "unknown",
        "forced",
        "shorter",
        "not-among-the-best",
    ],
)
def test_only_a_close_choice_of_the_model_is_a_tie(got: list[int], tie: bool) -> None:
    assert is_tie(DEMANDED, got, toy_markers(), 0.05) is tie


def run(*arguments: str) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "PYTHON": sys.executable}
    return subprocess.run([SCRIPT, *arguments], capture_output=True, text=True, env=environment)


def test_a_directory_without_a_checkpoint_is_refused(tmp_path: Path) -> None:
    done = run(str(tmp_path), "--device", "cpu")
    assert done.returncode == 2
    assert "a checkpoint's directory has a config.json" in done.stderr


@pytest.mark.engine
def test_the_whole_check_on_a_cpu(tmp_path: Path) -> None:
    sizes = ["--requests", "16", "--batches", "2", "--tokens", "32", "--rounds", "1", "--limit-s", "500"]
    done = run(str(DEMO), str(tmp_path), "--device", "cpu", *sizes)
    assert done.returncode == 0, done.stdout + done.stderr
    report = json.loads((tmp_path / "gpu-check.json").read_text())
    assert report["passed"] is True
    checks = {c["name"]: c["detail"] for part in report["parts"].values() for c in part["checks"]}
    assert checks.keys() == {
        "smoke v1",
        "exactness v1",
        "exactness v1-preemption",
        "exactness v1-preemption: vllm:num_preemptions moved",
    }
    assert checks["exactness v1"].startswith("24 of 24 equal")
    speeds = report["parts"]["overhead"]["speeds"]
    assert len(speeds) == 8, report["parts"]["overhead"]["notes"]
    assert all(value > 0 for speed in speeds for value in speed["tokens_per_s"])
    text = (tmp_path / "README.md").read_text()
    assert f"torch {report['versions']['torch']}" in text
    assert "vllm.LLM(" in text
