"""Recipes: every hyperparameter of a training run, read from ``recipes/*.yaml`` and then frozen."""

from pathlib import Path
from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field, ValidationError

RECIPES = Path(__file__).with_name("recipes")

Share = Annotated[float, Field(ge=0.0, le=1.0)]
Count = Annotated[int, Field(ge=1)]
Rate = Annotated[float, Field(gt=0.0)]


class RecipeError(ValueError):
    """The recipe does not exist or does not say what a recipe must say."""


class _Section(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)


class ModelRecipe(_Section):
    hidden_size: Count
    intermediate_size: Count
    num_layers: Count
    num_heads: Count
    rope_theta: Rate
    initializer_range: Rate


class MixtureRecipe(_Section):
    drill_share: Share
    step_drill_share: Share
    quick_share: Share
    long_share: Share
    cut_share: Share
    empty_cut_share: Share
    slip_rate: Share
    max_reviews: Count


class BaseRecipe(_Section):
    steps: Count
    tokens_per_step: Count
    documents_per_epoch: Count
    muon_learning_rate: Rate
    adamw_learning_rate: Rate
    weight_decay: Share
    warmup_steps: Count
    mixture: MixtureRecipe


class PoolRecipe(_Section):
    size: Count
    slip_rate: Share
    wait_rate: Share
    max_waits: Count
    past_checked_share: Share
    unfinished_share: Share
    shuffled_share: Share
    wrong_answer_share: Share


class SftRecipe(_Section):
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


class Recipe(_Section):
    name: str
    seed: int
    threads: Count
    model: ModelRecipe
    base: BaseRecipe
    pool: PoolRecipe
    sft: SftRecipe


def load_recipe(name: str) -> Recipe:
    """``name`` is a file of ``recipes/`` without its ending, or a path to a YAML file."""
    import yaml

    path = Path(name) if name.endswith((".yaml", ".yml")) else RECIPES / f"{name}.yaml"
    if not path.is_file():
        known = ", ".join(sorted(recipe.stem for recipe in RECIPES.glob("*.yaml")))
        raise RecipeError(f"no recipe {name!r}; known recipes: {known}; or give the path of a .yaml file")
    try:
        return Recipe.model_validate(yaml.safe_load(path.read_text()))
    except yaml.YAMLError as error:
        raise RecipeError(f"{path.name} is not YAML: {error}") from error
    except ValidationError as error:
        raise RecipeError(f"{path.name}: {_readable(error)}") from error


def _readable(error: ValidationError) -> str:
    return "; ".join(
        f"{'.'.join(map(str, problem['loc'])) or 'recipe'}: {problem['msg']} (given: {problem['input']!r})"
        for problem in error.errors()
    )
