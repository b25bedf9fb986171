"""Recipes refuse what they do not know, with the field's name."""

from pathlib import Path

import pytest
import yaml

from training.recipe import RECIPES, RecipeError, load_recipe, recipe_names


def test_every_committed_recipe_loads() -> None:
    names = recipe_names("train")
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
        ("sft", "epochs", 0, r"sft\.epochs: .*greater than or equal to 1 \(given: 0\)"),
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
