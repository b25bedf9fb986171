"""Five sets, one base, one table: the bootstrap, and the command on a model that has learned nothing."""

from __future__ import annotations

import json
import random
from pathlib import Path

import pytest
import yaml

from tests.support.commands import s1_ok
from training.recipe import RECIPES
from training.tiny.bootstrap import paired_difference

pytest.importorskip("torch")
pytest.importorskip("trl")


def test_a_pair_is_compared_question_by_question() -> None:
    """The same answers differ by nothing for sure, though each alone is uncertain."""
    rng = random.Random(0)
    scores = [rng.randint(0, 1) for _ in range(200)]
    same = paired_difference(scores, scores, resamples=500)
    assert (same.mean, same.low, same.high) == (0, 0, 0)
    worse = [0 if at % 4 == 0 else score for at, score in enumerate(scores)]
    found = paired_difference(scores, worse, resamples=500)
    assert 0 < found.low < found.mean < found.high


def test_the_interval_is_that_of_the_normal_law_for_many_questions() -> None:
    """Of independent coins: standard error sqrt(2 x 0.25 / n)."""
    rng = random.Random(1)
    ones, others = ([rng.randint(0, 1) for _ in range(2000)] for _ in range(2))
    found = paired_difference(ones, others, resamples=4000)
    error = (2 * 0.25 / 2000) ** 0.5
    assert found.mean == pytest.approx(sum(ones) / 2000 - sum(others) / 2000)
    assert found.high - found.mean == pytest.approx(1.96 * error, rel=0.1)
    assert found.mean - found.low == pytest.approx(1.96 * error, rel=0.1)
    assert paired_difference(ones, others, resamples=4000) == found


@pytest.mark.parametrize(("scores", "others"), [([], []), ([1], [1, 0])])
def test_what_is_no_pair_is_refused(scores: list[float], others: list[float]) -> None:
    with pytest.raises(ValueError, match="pairs are needed"):
        paired_difference(scores, others, resamples=10)


def small_recipe(path: Path) -> Path:
    recipe = yaml.safe_load((RECIPES / "tiny-smoke.yaml").read_text())
    recipe["model"] |= {"hidden_size": 32, "intermediate_size": 64, "num_layers": 1, "num_heads": 1}
    recipe["base"] |= {"steps": 3, "tokens_per_step": 256, "documents_per_epoch": 16, "warmup_steps": 2}
    recipe["pool"]["size"] = 60
    recipe["curate"] |= {"solver": None, "size": 6}
    path.write_text(yaml.safe_dump(recipe))
    return path


def test_one_command_makes_the_table(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("training.evaluate.demo_curve.local.MAX_COMPLETION_TOKENS", 40)
    recipe = small_recipe(tmp_path / "small.yaml")
    out, results = tmp_path / "run", tmp_path / "results"
    options = ["--questions", "3", "--draws", "1", "--results", str(results)]
    command = ["ablate", "--recipe", str(recipe), "--out", str(out), *options]
    said = s1_ok(*command)

    raw = json.loads((results / "data-ablation.json").read_text())
    assert raw["command"] == "s1 ablate --recipe tiny-smoke --seed 0 --questions 3 --draws 1"
    traces = {row["set"]: row["traces"] for row in raw["sets"]}
    assert traces == {"s1": 6, "random": 6, "diverse": 6, "longest": 6, "full": 60}
    for row in raw["sets"]:
        assert [setting["num_waits"] for setting in row["settings"]] == [0, 1, 2, 4]
        low, high = row["settings"][0]["difference_interval_95"]
        assert low <= row["settings"][0]["difference"] <= high
    table = (results / "data-ablation.md").read_text()
    assert table.strip() in said
    named = [line.split("|")[1].strip() for line in table.splitlines() if line.startswith("| `")]
    assert named == [f"`{name}`" for name in traces]
    longest = json.loads((out / "curate" / "longest" / "stage.json").read_text())
    assert longest["settings"]["select"] == "longest"

    made = (out / "ablation" / "full" / "sft" / "stage.json").stat().st_mtime_ns
    assert table.strip() in s1_ok(*command)
    assert (out / "ablation" / "full" / "sft" / "stage.json").stat().st_mtime_ns == made
