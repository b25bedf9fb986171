"""`s1 train` without its servers: reproducible, resumed by stage, and every failure is one line."""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.support.commands import file_size_limit, rows, s1_fails, s1_ok
from training.recipe import RECIPES
from training.tiny.documents import Document
from training.tiny.loop import Schedule, batches
from training.tiny.stages import random_stream

pytest.importorskip("torch")
pytest.importorskip("transformers")
pytest.importorskip("trl")

STAGES = [
    "base",
    "pool",
    "curate/collect",
    "curate/quality",
    "curate/decontaminate",
    "curate/diversity",
    "samples",
    "sft",
]


def write_recipe(path: Path, **changes: dict[str, Any]) -> Path:
    recipe = yaml.safe_load((RECIPES / "tiny-smoke.yaml").read_text())
    recipe["model"] |= {"hidden_size": 32, "intermediate_size": 64, "num_layers": 1, "num_heads": 1}
    recipe["base"] |= {"steps": 3, "tokens_per_step": 256, "documents_per_epoch": 16, "warmup_steps": 2}
    recipe["pool"]["size"] = 60
    recipe["curate"] |= {"solver": None, "size": 6}
    recipe["samples"]["draws"] = 1
    recipe["sft"] |= {"packing": False}
    for section, fields in changes.items():
        recipe[section] |= fields
    path.write_text(yaml.safe_dump(recipe))
    return path


@pytest.fixture(scope="module")
def recipe(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_recipe(tmp_path_factory.mktemp("recipe") / "small.yaml")


OUT = Path("run")
"""Every test has a folder of its own to be in, so that a copied run is the same run."""


@pytest.fixture(autouse=True)
def own_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def arguments(recipe: Path, *options: str) -> list[str]:
    return ["train", "--recipe", str(recipe), "--out", str(OUT), "--seed", "5", "--no-evaluate", *options]


@pytest.fixture(scope="module")
def finished(recipe: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("finished")
    with contextlib.chdir(folder):
        s1_ok(*arguments(recipe))
    return folder / OUT


def weights(out: Path) -> bytes:
    return (out / "model" / "model.safetensors").read_bytes()


def copy_without(finished: Path, stage: str) -> None:
    """A run in which `stage`, and what comes after it, was never begun."""
    shutil.copytree(finished, OUT)
    for name in [*STAGES[STAGES.index(stage) :], "model"]:
        shutil.rmtree(OUT / name)


def manifest_of(stage: str) -> dict[str, Any]:
    content: dict[str, Any] = json.loads((OUT / stage / "stage.json").read_text())
    return content


def test_the_checkpoint_loads_and_says_what_it_is(finished: Path) -> None:
    from transformers import AutoModelForCausalLM, AutoTokenizer

    model = AutoModelForCausalLM.from_pretrained(finished / "model")
    assert str(model.dtype) == "torch.bfloat16"
    assert AutoTokenizer.from_pretrained(finished / "model").encode("Wait") != []
    said = json.loads((finished / "model" / "training_manifest.json").read_text())
    assert said["seed"] == said["recipe"]["seed"] == 5
    assert list(said["stages"]) == STAGES
    assert said["stages"]["base"]["notes"]["steps"] == 3
    assert said["stages"]["curate/diversity"]["notes"]["funnel"]["kept"] == 6
    assert said["stages"]["base"]["seconds"].keys() == {"wall", "cpu"}
    card = (finished / "model" / "README.md").read_text()
    assert "--seed 5" in card and "Not measured yet" in card and "$" not in card


def test_same_seed_same_weights_whatever_process(finished: Path, recipe: Path) -> None:
    argv = [sys.executable, "-m", "server.cli", *arguments(recipe)]
    environment = {**os.environ, "PYTHONHASHSEED": "7", "OMP_NUM_THREADS": "1"}
    environment["PYTHONPATH"] = str(Path(__file__).parents[2])
    done = subprocess.run(argv, capture_output=True, text=True, env=environment)
    assert done.returncode == 0, done.stderr
    assert weights(OUT) == weights(finished)


def test_what_is_done_is_not_done_again(finished: Path, recipe: Path) -> None:
    copy_without(finished, "samples")
    made = {name: (OUT / name / "stage.json").stat().st_mtime_ns for name in STAGES[:-2]}
    s1_ok(*arguments(recipe))
    assert {name: (OUT / name / "stage.json").stat().st_mtime_ns for name in made} == made
    assert weights(OUT) == weights(finished)


def test_an_interrupted_export_is_made_again_from_the_last_checkpoint(finished: Path, recipe: Path) -> None:
    shutil.copytree(finished, OUT)
    (OUT / "sft" / "stage.json").unlink()
    (OUT / "sft" / "model" / "model.safetensors").write_bytes(b"half")
    s1_ok(*arguments(recipe))
    assert weights(OUT) == weights(finished)
    resumed = json.loads((OUT / "sft" / "run.json").read_text())["resumed_from_steps"]
    assert resumed == [manifest_of("sft")["notes"]["plan"]["total_steps"]]


@pytest.mark.parametrize("stage", STAGES)
def test_a_full_disk_is_one_line_in_every_stage_and_the_next_run_goes_on(
    finished: Path, recipe: Path, stage: str
) -> None:
    copy_without(finished, stage)
    with file_size_limit(400):
        line = s1_fails(1, *arguments(recipe))
    assert "File too large" in line or "writ" in line
    assert line.endswith("Run the same command to go on.") and stage in line
    assert not (OUT / stage / "stage.json").exists()
    s1_ok(*arguments(recipe))
    assert weights(OUT) == weights(finished)


def test_another_recipe_is_refused_until_told_to_overwrite(finished: Path, tmp_path: Path) -> None:
    shutil.copytree(finished, OUT)
    other = write_recipe(tmp_path / "other.yaml", curate={"size": 5})
    line = s1_fails(2, *arguments(other))
    assert f"{OUT / 'curate' / 'diversity'} holds another result (size was 6, now 5)" in line
    made = (OUT / "base" / "stage.json").stat().st_mtime_ns
    s1_ok(*arguments(other, "--overwrite"))
    assert len(rows(OUT / "curate" / "diversity")) == 5
    assert (OUT / "base" / "stage.json").stat().st_mtime_ns == made
    assert weights(OUT) != weights(finished)


def test_a_changed_result_is_noticed(finished: Path, recipe: Path) -> None:
    shutil.copytree(finished, OUT)
    (OUT / "samples" / "samples.jsonl").write_text("{}\n")
    assert "samples.jsonl is not what its manifest says" in s1_fails(2, *arguments(recipe))


def test_a_run_that_began_otherwise_says_what_changed(finished: Path, recipe: Path, tmp_path: Path) -> None:
    shutil.copytree(finished, OUT)
    (OUT / "sft" / "stage.json").unlink()
    other = write_recipe(tmp_path / "other.yaml", sft={"max_length": 700})
    line = s1_fails(2, *arguments(other))
    assert "(data.max_length was 768, now 700); pass another --out, or --overwrite" in line
    s1_ok(*arguments(other, "--overwrite"))


def test_checkpoints_of_another_base_are_not_gone_on_with(finished: Path, tmp_path: Path) -> None:
    shutil.copytree(finished, OUT)
    (OUT / "sft" / "stage.json").unlink()
    other = write_recipe(tmp_path / "other.yaml", base={"steps": 4})
    s1_ok(*arguments(other, "--overwrite"))
    assert json.loads((OUT / "sft" / "run.json").read_text())["resumed_from_steps"] == []


def test_a_folder_of_something_else_is_left_alone(recipe: Path) -> None:
    OUT.mkdir()
    (OUT / "mine.txt").write_text("mine")
    line = s1_fails(2, *arguments(recipe, "--overwrite"))
    assert "is not empty and no run of `s1 train`" in line
    assert [path.name for path in OUT.iterdir()] == ["mine.txt"]


def test_two_runs_do_not_share_a_folder(recipe: Path) -> None:
    OUT.mkdir()
    with (OUT / "run.json").open("w") as taken:
        fcntl.flock(taken, fcntl.LOCK_EX)
        assert "is in use" in s1_fails(2, *arguments(recipe))


def test_a_set_larger_than_what_is_left_is_refused_in_the_words_of_its_stage(
    finished: Path, tmp_path: Path
) -> None:
    copy_without(finished, "curate/diversity")
    greedy = write_recipe(tmp_path / "greedy.yaml", curate={"size": 1000})
    assert "--size must be <= the " in s1_fails(2, *arguments(greedy))


def test_samples_over_the_limit_are_refused_in_the_words_of_sft(finished: Path, tmp_path: Path) -> None:
    copy_without(finished, "sft")
    short = write_recipe(tmp_path / "short.yaml", sft={"max_length": 16})
    line = s1_fails(2, *arguments(short))
    assert "samples.jsonl row 1: has " in line and "more than data.max_length 16" in line


def test_a_server_that_does_not_start_is_one_line_and_names_its_log(finished: Path, tmp_path: Path) -> None:
    """The engine finds no weights that it can load."""
    from training.chain.served import served
    from training.train import TrainStopped

    log, wanted = tmp_path / "serve.log", r"`s1 serve` ended before it was ready: .* \(log: .*serve\.log\)"
    with pytest.raises(TrainStopped, match=wanted), served(tmp_path / "gone", "gone", log):
        raise AssertionError("it is ready")


def test_an_unknown_recipe_is_refused() -> None:
    assert "known recipes: " in s1_fails(2, "train", "--recipe", "no-such")


def test_schedule_warms_up_stays_and_decays() -> None:
    schedule = Schedule(steps=100, warmup_steps=10)
    assert schedule.factor(0) == pytest.approx(0.1)
    assert schedule.factor(15) == 1.0
    assert schedule.factor(60) == pytest.approx(0.525)
    assert schedule.factor(99) < 0.07


def test_batches_hold_every_document_once_within_the_limit() -> None:
    rng = random_stream(0, "test")
    documents = [Document([1] * rng.randint(1, 50), []) for _ in range(200)]
    grouped = batches(rng, documents, tokens_per_step=100)
    assert sorted(id(d) for batch in grouped for d in batch) == sorted(map(id, documents))
    assert all(max(len(d.ids) for d in batch) * len(batch) <= 100 for batch in grouped)
