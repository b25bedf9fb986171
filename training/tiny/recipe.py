"""What ``s1 train`` does for ``kind: tiny``: every hyperparameter, from the base model to the evaluation."""

from typing import Literal

from pydantic import ValidationError

from training.recipe import Count, Rate, RecipeError, RecipeFile, Section, Share, readable


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
    kind: Literal["tiny"]
    name: str
    seed: int
    threads: Count
    model: ModelRecipe
    base: BaseRecipe
    pool: PoolRecipe
    sft: SftRecipe


def parse_recipe(file: RecipeFile) -> Recipe:
    """Raises RecipeError: a field is missing, unknown or not what it must be; names it."""
    try:
        return Recipe.model_validate(file.fields)
    except ValidationError as error:
        raise RecipeError(f"{file.path.name}: {readable(error)}") from error
