"""Recipes: every hyperparameter of a training run, read from ``recipes/*.yaml`` and then frozen.

A recipe's ``kind`` says which code runs it: ``sft`` is of ``s1 sft``, all others are of ``s1 train``, which
looks them up in ``TRAIN_KINDS``.
"""

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError

RECIPES = Path(__file__).with_name("recipes")
SFT_KIND = "sft"
TRAIN_KINDS: Mapping[str, str] = {"tiny": "training.tiny.run", "prm": "training.prm.run"}
"""By kind, the module that runs it: ``run(file: RecipeFile, options: TrainOptions, terminal: Terminal)``."""

Share = Annotated[float, Field(ge=0.0, le=1.0)]
Count = Annotated[int, Field(ge=1)]
Rate = Annotated[float, Field(gt=0.0)]


class RecipeError(ValueError):
    """The recipe does not exist or does not say what a recipe must say."""


class Section(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)


@dataclass(frozen=True, slots=True)
class RecipeFile:
    """A recipe's content before its kind's own checks."""

    path: Path
    kind: str
    fields: dict[str, Any]


def read_recipe_file(name: str, *, kinds: Collection[str]) -> RecipeFile:
    """``name`` is a file of ``recipes/`` without its ending, or a path to a YAML file.

    Raises:
        RecipeError: no such file, not YAML, or a recipe of no or another kind.
    """
    import yaml

    path = Path(name) if name.endswith((".yaml", ".yml")) else RECIPES / f"{name}.yaml"
    if not path.is_file():
        known = ", ".join(recipe_names(kinds))
        raise RecipeError(f"no recipe {name!r}; known recipes: {known}; or give the path of a .yaml file")
    try:
        fields = yaml.safe_load(path.read_text())
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise RecipeError(f"{path.name} is not YAML: {' '.join(str(error).split())}") from error
    kind = _kind_of(fields)
    if not isinstance(fields, dict) or kind not in (SFT_KIND, *TRAIN_KINDS):
        known = ", ".join((SFT_KIND, *TRAIN_KINDS))
        raise RecipeError(f"{path.name}: kind must be one of {known}. Given: {kind!r}")
    if kind not in kinds:
        wanted, given = _command_of(next(iter(kinds))), _command_of(kind)
        raise RecipeError(f"{path.name} is a recipe of `{given}`, not of `{wanted}`")
    return RecipeFile(path, kind, fields)


def recipe_names(kinds: Collection[str]) -> list[str]:
    import yaml

    return sorted(
        path.stem for path in RECIPES.glob("*.yaml") if _kind_of(yaml.safe_load(path.read_text())) in kinds
    )


def _command_of(kind: str) -> str:
    return "s1 sft" if kind == SFT_KIND else "s1 train"


def _kind_of(fields: Any) -> Any:
    return fields.get("kind") if isinstance(fields, dict) else None


def readable(error: ValidationError) -> str:
    return "; ".join(
        f"{'.'.join(map(str, problem['loc'])) or 'recipe'}: {problem['msg']} (given: {problem['input']!r})"
        for problem in error.errors()
    )
