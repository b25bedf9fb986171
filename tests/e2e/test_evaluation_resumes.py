"""`s1 evaluate run` against `s1 serve`, killed in mid-run: no finished sample is lost, none asked twice."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from tests.e2e.test_curation_resumes import counting_proxy
from tests.support.engines import DEMO, EXACT, serving
from training.evaluate.samples import read_samples

pytestmark = pytest.mark.engine

NUM_QUESTIONS = 6
MAXIMA = (24, 96)
ANSWERED_BEFORE_THE_KILL = 5


def start_run(folder: Path, url: str, *options: str) -> subprocess.Popen[str]:
    arguments = ["evaluate", "run", "--url", f"{url}/v1", "--model", DEMO.name, "--out", str(folder)]
    arguments += ["--benchmark", "demo", "--limit", str(NUM_QUESTIONS), "--waits", "4"]
    arguments += ["--max", ",".join(map(str, MAXIMA)), "--concurrency", "2", "--retry-for", "0", *options]
    return subprocess.Popen(
        [sys.executable, "-m", "server.cli", *arguments],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "NO_COLOR": "1"},
    )


def test_a_killed_server_costs_no_sample(tmp_path: Path) -> None:
    out = tmp_path / "run"
    with (
        serving(tmp_path, *EXACT, name="first") as server,
        counting_proxy(server.url, ANSWERED_BEFORE_THE_KILL) as proxy,
    ):
        run = start_run(out, proxy.url)
        assert proxy.holding.wait(120)
        os.killpg(server.process.pid, signal.SIGKILL)
        server.process.wait()
        proxy.release.set()
        _, errors = run.communicate(timeout=120)
        assert run.returncode == 1, errors
        assert errors.splitlines()[-1].endswith("Run the same command to go on.")
    before = dict(proxy.answered)
    total = NUM_QUESTIONS * len(MAXIMA)
    assert ANSWERED_BEFORE_THE_KILL <= len(before) < total
    assert len((out / "calls.jsonl").read_text().splitlines()) == len(before), "a finished sample was lost"

    with (
        serving(tmp_path, *EXACT, name="second") as server,
        counting_proxy(server.url, hold_after=sys.maxsize) as proxy,
    ):
        run = start_run(out, proxy.url, "--moved")
        output, errors = run.communicate(timeout=240)
        assert run.returncode == 0, output + errors
    assert set(proxy.answered.values()) == {1}
    assert not before.keys() & proxy.answered.keys(), "asked again"
    assert len(before) + len(proxy.answered) == total

    samples = read_samples(out / "samples.parquet")
    assert len(samples) == total and not any(sample.error for sample in samples)
    for sample in samples:
        (receipt,) = json.loads(sample.receipts)
        maximum = sample.setting.fields["max_thinking_tokens"]
        assert receipt["thinking_tokens"] == sample.thinking_tokens <= maximum
    assert json.loads((out / "run.json").read_text())["calls"]["known_before"] == len(before)
