"""A run can be stopped at any moment, also while it writes, and goes on to bitwise the same weights."""

import json
import os
import resource
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("torch")
pytest.importorskip("trl")

from transformers import TrainerCallback

from tests.support.sft import sample_rows, save_tiny_model, write_jsonl, write_recipe
from training.sft.checkpoints import (
    discard_incomplete,
    is_complete,
    keep_latest,
    latest_complete,
    mark_complete,
)
from training.sft.machine import this_machine
from training.sft.recipe import load_sft_recipe
from training.sft.run import RunError, run_sft


class Stop(Exception):
    """What a test throws into a run."""


class StopAt(TrainerCallback):  # type: ignore[misc]
    def __init__(self, step: int) -> None:
        self.step = step

    def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        if state.global_step == self.step:
            raise Stop


class Steps(TrainerCallback):  # type: ignore[misc]
    """Which steps a run really made."""

    def __init__(self) -> None:
        self.made: list[int] = []

    def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        self.made.append(state.global_step)


@pytest.fixture(scope="module")
def recipe_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two epochs of five steps; chance is in the order of the samples."""
    folder = tmp_path_factory.mktemp("run")
    base = save_tiny_model(folder / "tiny")
    data = write_jsonl(folder / "d.jsonl", sample_rows(19))
    output = {"checkpoint_every_steps": 2, "keep_checkpoints": 2, "weights": "float32"}
    return write_recipe(folder / "r.yaml", base, data, output=output)


@pytest.fixture(scope="module")
def uninterrupted(recipe_file: Path, tmp_path_factory: pytest.TempPathFactory) -> bytes:
    return weights(go(recipe_file, tmp_path_factory.mktemp("whole") / "out"))


def go(recipe_file: Path, out: Path, *overrides: str, **options: Any) -> Path:
    return run_sft(load_sft_recipe(str(recipe_file), overrides), out, this_machine({}), **options)


def weights(model: Path) -> bytes:
    return (model / "model.safetensors").read_bytes()


@pytest.mark.parametrize("step", [1, 5, 7])
def test_stopped_and_resumed_gives_the_same_bytes(
    recipe_file: Path, uninterrupted: bytes, tmp_path: Path, step: int
) -> None:
    """Before the first checkpoint, between epochs, and in the middle of one."""
    out = tmp_path / "out"
    with pytest.raises(Stop):
        go(recipe_file, out, callbacks=[StopAt(step)])
    assert not (out / "model").exists()
    steps = Steps()
    model = go(recipe_file, out, resume=True, callbacks=[steps])
    assert weights(model) == uninterrupted
    manifest = json.loads((model / "training_manifest.json").read_text())
    resumed = [step - step % 2] if step > 1 else []
    assert steps.made == list(range(sum(resumed) + 1, 11))
    assert manifest["training"]["resumed_from_steps"] == resumed
    assert ("never" in (model / "README.md").read_text()) == (not resumed)


def test_adapters_are_resumed_to_the_same_bytes(recipe_file: Path, tmp_path: Path) -> None:
    lora = ("lora.rank=4", "lora.alpha=8", "lora.dropout=0.2")
    whole = weights(go(recipe_file, tmp_path / "whole", *lora))
    with pytest.raises(Stop):
        go(recipe_file, tmp_path / "out", *lora, callbacks=[StopAt(7)])
    assert weights(go(recipe_file, tmp_path / "out", *lora, resume=True)) == whole


def test_another_seed_gives_other_bytes(recipe_file: Path, uninterrupted: bytes, tmp_path: Path) -> None:
    assert weights(go(recipe_file, tmp_path / "out", "seed=8")) != uninterrupted


def test_a_run_killed_at_once_is_resumed(recipe_file: Path, uninterrupted: bytes, tmp_path: Path) -> None:
    out = tmp_path / "out"
    argv = [sys.executable, "-m", "training.sft", "--recipe", str(recipe_file), "--out", str(out)]
    with subprocess.Popen(
        argv, stderr=subprocess.PIPE, env={**os.environ, "OMP_NUM_THREADS": "1"}
    ) as process:
        try:
            await_checkpoint(process, out / "checkpoints")
        finally:
            process.send_signal(signal.SIGKILL)
    # It may have ended in the meantime on a fast machine; then the folder says so, and is left alone.
    if (out / "model").exists():
        assert weights(out / "model") == uninterrupted
        return
    assert weights(go(recipe_file, out, resume=True)) == uninterrupted


def await_checkpoint(process: subprocess.Popen[bytes], folder: Path) -> None:
    deadline = time.monotonic() + 120
    while latest_complete(folder) is None:
        assert process.poll() is None, process.stderr and process.stderr.read()
        assert time.monotonic() < deadline
        time.sleep(0.002)


def test_half_a_checkpoint_is_thrown_away(recipe_file: Path, uninterrupted: bytes, tmp_path: Path) -> None:
    """What a kill while writing leaves: one without its mark, one whose file is shorter than marked."""
    out = tmp_path / "out"
    with pytest.raises(Stop):
        go(recipe_file, out, callbacks=[StopAt(7)])
    folder = out / "checkpoints"
    assert sorted(path.name for path in folder.iterdir()) == ["checkpoint-4", "checkpoint-6"]
    (folder / "checkpoint-8").mkdir()
    (folder / "checkpoint-8" / "model.safetensors").write_bytes(b"half")
    state = folder / "checkpoint-6" / "optimizer.pt"
    state.write_bytes(state.read_bytes()[:100])
    model = go(recipe_file, out, resume=True)
    assert json.loads((out / "run.json").read_text())["resumed_from_steps"] == [4]
    assert weights(model) == uninterrupted


def test_a_disk_that_is_full_ends_in_one_line_and_is_resumed(
    recipe_file: Path, uninterrupted: bytes, tmp_path: Path
) -> None:
    """Files over a size can't be written, as when the disk is full: the optimizer's state is the largest."""
    out = tmp_path / "out"
    argv = [sys.executable, "-m", "training.sft", "--recipe", str(recipe_file), "--out", str(out)]

    def limit() -> None:
        size = 150_000
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (size, size))

    done = subprocess.run(argv, capture_output=True, text=True, preexec_fn=limit)
    last = done.stderr.strip().splitlines()[-1]
    assert done.returncode == 1 and last.startswith("s1 sft: stopped"), done.stderr
    assert "--resume goes on" in last and "Traceback" not in done.stderr
    assert weights(go(recipe_file, out, resume=True)) == uninterrupted


def test_only_the_same_run_is_resumed(recipe_file: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    with pytest.raises(Stop):
        go(recipe_file, out, callbacks=[StopAt(3)])
    with pytest.raises(RunError, match="began already; pass --resume"):
        go(recipe_file, out)
    with pytest.raises(RunError, match=r"recipe\.optimization\.learning_rate: 0\.003 -> 0\.1"):
        go(recipe_file, out, "optimization.learning_rate=0.1", resume=True)
    other = write_jsonl(tmp_path / "other.jsonl", sample_rows(19, seed=1))
    with pytest.raises(RunError, match="data_sha256"):
        go(recipe_file, out, f"data.files=[{other}]", resume=True)
    assert latest_complete(out / "checkpoints") is not None


def test_a_taken_folder_is_left_alone(recipe_file: Path, tmp_path: Path) -> None:
    (tmp_path / "mine.txt").write_text("mine")
    with pytest.raises(RunError, match="is not empty"):
        go(recipe_file, tmp_path)
    (tmp_path / "out" / "model").mkdir(parents=True)
    with pytest.raises(RunError, match="holds a finished model"):
        go(recipe_file, tmp_path / "out", resume=True)
    assert (tmp_path / "mine.txt").read_text() == "mine"


def checkpoint(folder: Path, step: int) -> Path:
    path = folder / f"checkpoint-{step}"
    (path / "inner").mkdir(parents=True)
    (path / "inner" / "weights").write_bytes(b"0123456789")
    return path


def test_marks_tell_whole_checkpoints_from_halves(tmp_path: Path) -> None:
    first, second, tenth = (checkpoint(tmp_path, step) for step in (1, 2, 10))
    assert latest_complete(tmp_path) is None
    for path in (first, second, tenth):
        mark_complete(path)
    assert latest_complete(tmp_path) == tenth
    (tenth / "inner" / "weights").write_bytes(b"01234")
    assert not is_complete(tenth) and latest_complete(tmp_path) == second
    assert discard_incomplete(tmp_path) == ["checkpoint-10"] and not tenth.exists()
    keep_latest(tmp_path, 1)
    assert [path.name for path in tmp_path.iterdir()] == ["checkpoint-2"]
