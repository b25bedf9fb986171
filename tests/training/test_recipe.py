"""Recipes refuse what they do not know, with the field's name."""

from importlib import import_module
from pathlib import Path

import pytest
import yaml

from training.recipe import RECIPES, SFT_KIND, TRAIN_KINDS, RecipeError, read_recipe_file, recipe_names
from training.tiny.recipe import Recipe, parse_recipe


def load_recipe(name: str) -> Recipe:
    return parse_recipe(read_recipe_file(name, kinds=TRAIN_KINDS))


def test_every_committed_recipe_loads() -> None:
    names = recipe_names(["tiny"])
    assert "tiny-cpu" in names
    for name in names:
        assert load_recipe(name).name == name


def test_unknown_recipe_names_the_known_ones() -> None:
    with pytest.raises(RecipeError, match="known recipes: .*tiny-cpu"):
        load_recipe("tiny-gpu")


@pytest.mark.parametrize(
    ("section", "key", "value", "message"),
    [
        ("sft", "epoch", 6, r"sft\.epoch: Extra inputs are not permitted \(given: 6\)"),
        ("sft", "max_length", 0, r"sft\.max_length: .*greater than or equal to 1 \(given: 0\)"),
        ("base", "steps", "2000", r"base\.steps: .*integer \(given: '2000'\)"),
        ("pool", "wait_rate", 1.5, r"pool\.wait_rate: .*less than or equal to 1 \(given: 1\.5\)"),
    ],
)
def test_bad_fields_are_named(tmp_path: Path, section: str, key: str, value: object, message: str) -> None:
    recipe = yaml.safe_load((RECIPES / "tiny-cpu.yaml").read_text())
    recipe[section][key] = value
    path = tmp_path / "bad.yaml"
    path.write_text(yaml.safe_dump(recipe))
    with pytest.raises(RecipeError, match=message):
        load_recipe(str(path))


def test_what_is_not_yaml_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "bad.yaml"
    path.write_text("name: [")
    with pytest.raises(RecipeError, match="is not YAML"):
        load_recipe(str(path))


def test_every_kind_is_run_by_some_code() -> None:
    for kind, module in TRAIN_KINDS.items():
        assert callable(import_module(module).run), kind


@pytest.mark.parametrize("text", ["name: x", "kind: other\nname: x", "- 1"])
def test_a_recipe_of_no_kind_is_refused_with_the_kinds_there_are(tmp_path: Path, text: str) -> None:
    path = tmp_path / "odd.yaml"
    path.write_text(text)
    with pytest.raises(RecipeError, match="odd.yaml: kind must be one of sft, tiny"):
        read_recipe_file(str(path), kinds=TRAIN_KINDS)


def test_a_recipe_of_the_other_command_is_refused() -> None:
    with pytest.raises(RecipeError, match="is a recipe of `s1 sft`, not of `s1 train`"):
        load_recipe("s1-32b")
    with pytest.raises(RecipeError, match="is a recipe of `s1 train`, not of `s1 sft`"):
        read_recipe_file("tiny-cpu", kinds=[SFT_KIND])


def test_fine_tuning_of_a_chain_is_saved_along_the_way() -> None:
    """Its samples are drawn for one epoch, so that an epoch's end would be the end."""
    recipe = load_recipe("tiny-cpu").sft_recipe(Path("base"), Path("samples.jsonl"))
    assert recipe.optimization.epochs == 1
    assert 0 < recipe.output.checkpoint_every_steps <= 50
