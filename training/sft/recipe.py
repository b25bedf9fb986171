"""What ``s1 sft`` does, in full: read from ``recipes/*.yaml`` (``kind: sft``), overridden, then frozen."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import Field, ValidationError, model_validator

from training.conditional import Control
from training.recipe import SFT_KIND, Count, Rate, RecipeError, Section, Share, read_recipe_file, readable

DEMO_MODEL = "demo"
"""The model path that stands for the committed demo checkpoint."""

Precision = Literal["auto", "bf16", "fp32"]
Attention = Literal["eager", "sdpa", "flash_attention_2", "flash_attention_3"]
LossAverage = Literal["token", "sample"]
Policy = Literal["error", "drop"]
InputForm = Literal["auto", "columns", "messages", "text"]
FormatName = Literal["s1", "s1_steps", "qwen3", "deepseek_r1"]


class ColumnNames(Section):
    question: str = "question"
    thinking: str = "thinking"
    answer: str | None = None
    """None: ``trace_answer`` in rows that have it, as those of ``s1 traces`` do, else ``answer``."""
    messages: str = "messages"
    text: str = "text"

    def answer_of(self, fields: Mapping[str, Any]) -> str:
        """The column that the thinking of a row with these fields leads to."""
        return self.answer or ("trace_answer" if "trace_answer" in fields else "answer")


class DataRecipe(Section):
    files: list[str] = []
    """JSONL or Parquet; relative to the recipe's own file. ``--data`` replaces them."""
    form: InputForm = "auto"
    columns: ColumnNames = ColumnNames()
    format: FormatName
    system_prompt: str | None = None
    answer_prefix: str = ""
    control: Control = "none"
    max_length: Count
    packing: bool = False
    pad_token: str | None = None
    on_too_long: Policy = "error"
    on_invalid: Policy = "error"


class BaseModelRecipe(Section):
    path: str
    revision: str | None = None
    weights: Literal["float32", "bfloat16"] = "float32"
    """What the weights are kept and updated in; ``precision`` is what they are multiplied in."""
    attention: Attention = "sdpa"
    liger: bool = False
    gradient_checkpointing: bool = False


class OptimizationRecipe(Section):
    epochs: Count
    effective_batch_size: Count
    micro_batch_size: Count = 1
    learning_rate: Rate
    schedule: Literal["cosine", "linear", "constant_with_warmup"] = "cosine"
    warmup_share: Share = 0.05
    beta1: Share = 0.9
    beta2: Share = 0.95
    epsilon: Rate = 1e-8
    weight_decay: Share = 1e-4
    max_grad_norm: Rate = 1.0
    loss_average: LossAverage = "token"
    """``token``: all learned tokens of an effective batch weigh the same. ``sample``: all samples do."""


class LoraRecipe(Section):
    rank: Count
    alpha: Count
    dropout: Share = 0.0
    target_modules: str | list[str] = "all-linear"
    quantize: Literal["none", "nf4"] = "none"


class OutputRecipe(Section):
    checkpoint_every_steps: Annotated[int, Field(ge=0)] = 0
    """0: at the end of every epoch."""
    keep_checkpoints: Count = 2
    log_every_steps: Count = 1
    log_to: Literal["tensorboard", "wandb", "none"] = "none"
    weights: Literal["float32", "bfloat16"] = "bfloat16"


class SftRunRecipe(Section):
    kind: Literal["sft"]
    name: str
    seed: Annotated[int, Field(ge=0)] = 42
    threads: Count | None = None
    precision: Precision = "auto"
    sharding: Literal["none", "fsdp2"] = "none"
    model: BaseModelRecipe
    data: DataRecipe
    optimization: OptimizationRecipe
    lora: LoraRecipe | None = None
    output: OutputRecipe = OutputRecipe()

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        if self.optimization.loss_average == "sample":
            if self.data.packing:
                raise ValueError("optimization.loss_average: sample can't be combined with data.packing")
            if self.optimization.micro_batch_size != 1:
                raise ValueError("optimization.loss_average: sample needs optimization.micro_batch_size: 1")
        if self.data.packing and self.optimization.micro_batch_size != 1:
            raise ValueError(
                "data.packing needs optimization.micro_batch_size: 1 (a micro batch is one pack of "
                f"data.max_length tokens). Given: {self.optimization.micro_batch_size}"
            )
        if (self.data.control == "steps") != (self.data.format == "s1_steps"):
            raise ValueError("data.control: steps and data.format: s1_steps go together")
        if self.lora and self.lora.quantize != "none" and self.sharding != "none":
            raise ValueError(
                "lora.quantize can't be combined with sharding: use one process per GPU (torchrun)"
            )
        return self


def load_sft_recipe(
    name: str, overrides: Sequence[str] = (), *, data_files: Sequence[str] = ()
) -> SftRunRecipe:
    """``name`` as in :func:`training.recipe.read_recipe_file`; ``overrides`` are ``section.field=value``.

    ``data_files`` replace those of the recipe.

    Raises:
        RecipeError: the recipe or an override is not what it must be; the message names the field.
    """
    file = read_recipe_file(name, kinds=(SFT_KIND,))
    path, fields = file.path, file.fields
    for override in overrides:
        _override(fields, override)
    try:
        recipe = SftRunRecipe.model_validate(fields)
    except ValidationError as error:
        raise RecipeError(f"{path.name}: {readable(error)}") from error
    files = list(data_files) or [str(path.parent / file) for file in recipe.data.files]
    return with_changes(recipe, data={"files": files})


def with_changes(recipe: SftRunRecipe, **sections: Any) -> SftRunRecipe:
    """A copy with fields of its sections, or plain fields, replaced; validated again."""
    fields = recipe.model_dump()
    for name, change in sections.items():
        fields[name] = {**fields[name], **change} if isinstance(change, dict) else change
    try:
        return SftRunRecipe.model_validate(fields)
    except ValidationError as error:
        raise RecipeError(f"{recipe.name}: {readable(error)}") from error


def model_path(recipe: SftRunRecipe) -> str:
    if recipe.model.path == DEMO_MODEL:
        return str(Path(__file__).parents[1] / "checkpoints" / "tiny-reasoner")
    return recipe.model.path


def _override(fields: Any, override: str) -> None:
    name, equals, value = override.partition("=")
    if not equals or not name:
        raise RecipeError(f"--set must be SECTION.FIELD=VALUE. Given: {override}")
    *sections, field = name.split(".")
    for section in sections:
        if fields.get(section) is None:
            fields[section] = {}
        fields = fields[section]
        if not isinstance(fields, dict):
            raise RecipeError(f"--set {name}: {section} is not a section of the recipe")
    fields[field] = _parsed(value)


def _parsed(text: str) -> Any:
    """As YAML reads it, except that ``1e-5`` is a number too."""
    import yaml

    value = yaml.safe_load(text)
    if isinstance(value, str):
        try:
            return float(value)
        except ValueError:
            return value
    return value
