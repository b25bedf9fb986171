"""What ``s1 train`` does for ``kind: prm``: every hyperparameter of a process-reward model."""

from typing import Literal

from pydantic import ValidationError

from training.recipe import Count, Rate, RecipeError, RecipeFile, Section, Share, readable


class DataRecipe(Section):
    most_slips: Share
    """A trace's share of wrong quick lines is drawn from 0 to this."""
    max_reviews: Count
    wrong_check_share: Share
    answered_share: Share
    wrong_answer_share: Share
    cut_share: Share
    """Traces that are cut anywhere, as a maximum does it, and answered then."""


class FitRecipe(Section):
    steps: Count
    tokens_per_step: Count
    documents_per_epoch: Count
    muon_learning_rate: Rate
    adamw_learning_rate: Rate
    weight_decay: Share
    warmup_steps: Count


class MeasureRecipe(Section):
    questions: Count
    samples: Count
    temperature: Rate


class PrmRecipe(Section):
    kind: Literal["prm"]
    name: str
    seed: int
    threads: Count
    policy: str
    """The checkpoint whose thinking is rated, and whose weights training begins with: a folder of
    ``training/checkpoints``, or a path."""
    data: DataRecipe
    fit: FitRecipe
    measure: MeasureRecipe


def parse_prm_recipe(file: RecipeFile) -> PrmRecipe:
    """Raises RecipeError: a field is missing, unknown or not what it must be; names it."""
    try:
        return PrmRecipe.model_validate(file.fields)
    except ValidationError as error:
        raise RecipeError(f"{file.path.name}: {readable(error)}") from error
