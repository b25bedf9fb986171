"""Recipes: every hyperparameter of a training run, read from ``recipes/*.yaml`` and then frozen.

A recipe says ``kind: sft`` if it is one of ``s1 sft`` (``training/sft/recipe.py``); the others are of
``s1 train`` and described here.
"""

from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

RECIPES = Path(__file__).with_name("recipes")

Share = Annotated[float, Field(ge=0.0, le=1.0)]
Count = Annotated[int, Field(ge=1)]
Rate = Annotated[float, Field(gt=0.0)]


class RecipeError(ValueError):
    """The recipe does not exist or does not say what a recipe must say."""


class Section(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)


class ModelRecipe(Section):
    hidden_size: Count
    intermediate_size: Count
    num_layers: Count
    num_heads: Count
    rope_theta: Rate
    initializer_range: Rate


class MixtureRecipe(Section):
    drill_share: Share
    step_drill_share: Share
    quick_share: Share
    long_share: Share
    cut_share: Share
    empty_cut_share: Share
    slip_rate: Share
    max_reviews: Count


class BaseRecipe(Section):
    steps: Count
    tokens_per_step: Count
    documents_per_epoch: Count
    muon_learning_rate: Rate
    adamw_learning_rate: Rate
    weight_decay: Share
    warmup_steps: Count
    mixture: MixtureRecipe


class PoolRecipe(Section):
    size: Count
    slip_rate: Share
    wait_rate: Share
    max_waits: Count
    past_checked_share: Share
    unfinished_share: Share
    shuffled_share: Share
    wrong_answer_share: Share


class SftRecipe(Section):
    num_examples: Count
    epochs: Count
    tokens_per_step: Count
    learning_rate: Rate
    weight_decay: Share
    warmup_steps: Count
    cut_share: Share
    empty_cut_share: Share
    system_prompt_share: Share
    earlier_turn_share: Share


class Recipe(Section):
    name: str
    seed: int
    threads: Count
    model: ModelRecipe
    base: BaseRecipe
    pool: PoolRecipe
    sft: SftRecipe


Kind = Literal["train", "sft"]


def load_recipe(name: str) -> Recipe:
    """``name`` is a file of ``recipes/`` without its ending, or a path to a YAML file."""
    path, fields = read_recipe_file(name, kind="train")
    try:
        return Recipe.model_validate(fields)
    except ValidationError as error:
        raise RecipeError(f"{path.name}: {readable(error)}") from error


def read_recipe_file(name: str, *, kind: Kind) -> tuple[Path, Any]:
    """The file and its content, not yet validated.

    Raises:
        RecipeError: no such file, not YAML, or a recipe of the other command.
    """
    import yaml

    path = Path(name) if name.endswith((".yaml", ".yml")) else RECIPES / f"{name}.yaml"
    if not path.is_file():
        known = ", ".join(recipe_names(kind))
        raise RecipeError(f"no recipe {name!r}; known recipes: {known}; or give the path of a .yaml file")
    try:
        fields = yaml.safe_load(path.read_text())
    except yaml.YAMLError as error:
        raise RecipeError(f"{path.name} is not YAML: {error}") from error
    if _kind_of(fields) != kind:
        raise RecipeError(f"{path.name} is a recipe of `s1 {_kind_of(fields)}`, not of `s1 {kind}`")
    return path, fields


def recipe_names(kind: Kind) -> list[str]:
    import yaml

    return sorted(
        path.stem for path in RECIPES.glob("*.yaml") if _kind_of(yaml.safe_load(path.read_text())) == kind
    )


def _kind_of(fields: Any) -> str:
    return "sft" if isinstance(fields, dict) and fields.get("kind") == "sft" else "train"


def readable(error: ValidationError) -> str:
    return "; ".join(
        f"{'.'.join(map(str, problem['loc'])) or 'recipe'}: {problem['msg']} (given: {problem['input']!r})"
        for problem in error.errors()
    )
