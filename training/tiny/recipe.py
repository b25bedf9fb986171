"""What ``s1 train`` does for ``kind: tiny``: every hyperparameter, from the base model to the evaluation."""

from pathlib import Path
from typing import Literal

from pydantic import ValidationError

from training.curate.lengths import LengthOf
from training.curate.selection import Selector
from training.recipe import Count, Rate, RecipeError, RecipeFile, Section, Share, readable
from training.sft.recipe import (
    Attention,
    BaseModelRecipe,
    DataRecipe,
    OptimizationRecipe,
    OutputRecipe,
    SftRunRecipe,
)

_CHECKPOINT_EVERY_STEPS = 50


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


class SolverRecipe(Section):
    """The model whose right answers make a question too easy: the base, fine-tuned on a few traces."""

    num_examples: Count
    draws: Count
    effective_batch_size: Count
    max_thinking_tokens: Count


class CurateRecipe(Section):
    ngram_words: Count
    solver: SolverRecipe | None = None
    select: Selector
    length: LengthOf
    size: Count


class SamplesRecipe(Section):
    """How traces become samples: each is drawn ``draws`` times, in the place of that many epochs."""

    draws: Count
    cut_share: Share
    empty_cut_share: Share
    system_prompt_share: Share
    earlier_turn_share: Share


class SftSection(Section):
    attention: Attention
    max_length: Count
    packing: bool
    optimization: OptimizationRecipe


class EvaluateRecipe(Section):
    num_questions: Count
    concurrency: Count


class Recipe(Section):
    kind: Literal["tiny"]
    name: str
    seed: int
    threads: Count
    model: ModelRecipe
    base: BaseRecipe
    pool: PoolRecipe
    curate: CurateRecipe
    samples: SamplesRecipe
    sft: SftSection
    evaluate: EvaluateRecipe

    def sft_recipe(self, base: Path, rows: Path) -> SftRunRecipe:
        """What ``s1 sft`` is told."""
        return SftRunRecipe(
            kind="sft",
            name=self.name,
            seed=self.seed,
            threads=self.threads,
            precision="fp32",
            model=BaseModelRecipe(path=str(base), attention=self.sft.attention),
            data=DataRecipe(
                files=[str(rows)],
                format="s1",
                max_length=self.sft.max_length,
                packing=self.sft.packing,
            ),
            optimization=self.sft.optimization,
            output=OutputRecipe(weights="bfloat16", checkpoint_every_steps=_CHECKPOINT_EVERY_STEPS),
        )


def parse_recipe(file: RecipeFile) -> Recipe:
    """Raises RecipeError: a field is missing, unknown or not what it must be; names it."""
    try:
        return Recipe.model_validate(file.fields)
    except ValidationError as error:
        raise RecipeError(f"{file.path.name}: {readable(error)}") from error
