"""A very small training run, from the command line to a checkpoint that loads."""

import json
from pathlib import Path

import pytest
import yaml
from typer.testing import CliRunner

from training.recipe import RECIPES
from training.tiny.documents import Document
from training.tiny.loop import Schedule, batches
from training.tiny.stages import random_stream
from training.train import app

pytest.importorskip("torch")
pytest.importorskip("transformers")


@pytest.fixture
def smoke_recipe(tmp_path: Path) -> Path:
    recipe = yaml.safe_load((RECIPES / "tiny-cpu.yaml").read_text())
    recipe["model"] |= {"hidden_size": 32, "intermediate_size": 64, "num_layers": 1, "num_heads": 1}
    recipe["base"] |= {"steps": 3, "tokens_per_step": 256, "documents_per_epoch": 16, "warmup_steps": 2}
    recipe["pool"]["size"] = 60
    recipe["sft"] |= {"num_examples": 4, "epochs": 1, "tokens_per_step": 1024}
    path = tmp_path / "smoke.yaml"
    path.write_text(yaml.safe_dump(recipe))
    return path


def train(recipe: Path, folder: Path, seed: int) -> bytes:
    arguments = ["--recipe", str(recipe), "--out", str(folder), "--seed", str(seed), "--no-evaluate"]
    result = CliRunner().invoke(app, arguments)
    assert result.exit_code == 0, result.output
    return (folder / "model.safetensors").read_bytes()


def test_same_seed_same_weights_and_a_loadable_checkpoint(smoke_recipe: Path, tmp_path: Path) -> None:
    from transformers import AutoModelForCausalLM, AutoTokenizer

    first = train(smoke_recipe, tmp_path / "first", seed=5)
    assert train(smoke_recipe, tmp_path / "again", seed=5) == first
    assert train(smoke_recipe, tmp_path / "other", seed=6) != first
    model = AutoModelForCausalLM.from_pretrained(tmp_path / "first")
    assert str(model.dtype) == "torch.bfloat16"
    assert AutoTokenizer.from_pretrained(tmp_path / "first").encode("Wait") != []
    manifest = json.loads((tmp_path / "first" / "training_manifest.json").read_text())
    assert manifest["seed"] == manifest["recipe"]["seed"] == 5
    assert manifest["base"]["steps"] == 3 and manifest["base"]["tokens"] > 0
    assert manifest["pool"]["traces"] == 60 and manifest["pool"]["selected"] == 4
    assert "--seed 5" in (tmp_path / "first" / "README.md").read_text()


def test_a_folder_that_is_not_empty_is_left_alone(smoke_recipe: Path, tmp_path: Path) -> None:
    result = CliRunner().invoke(app, ["--recipe", str(smoke_recipe), "--out", str(tmp_path)])
    assert result.exit_code == 2 and "--overwrite" in result.output


def test_an_unknown_recipe_is_refused() -> None:
    result = CliRunner().invoke(app, ["--recipe", "no-such"])
    assert result.exit_code == 2 and "known recipes" in result.output


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
