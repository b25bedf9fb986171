"""What is asked: classes of requests, each with its own prompts, budgets and shape. Seeded."""

from __future__ import annotations

import random
from collections.abc import Mapping
from importlib import resources
from pathlib import Path
from typing import Annotated, Any, Literal

import yaml
from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    PlainSerializer,
    ValidationError,
    field_validator,
)

from loadtest.client.draws import Draw, DrawError

BudgetFields = Literal["ours", "vllm", "none"]
"""How a budget is said: our fields; vLLM's `thinking_token_budget`, a maximum only; not at all."""
_WORDS = (
    "the of and a number line point set sum angle value model test water light energy cell force rate time "
    "prove find show how many which least greatest between after each first second train river apple code"
)


class WorkloadError(ValueError):
    """A workload that can't be read; the message names the field."""


def _read_draw(given: object) -> Draw:
    try:
        return given if isinstance(given, Draw) else Draw.read(given)
    except DrawError as error:
        raise ValueError(str(error)) from None


Length = Annotated[Draw, BeforeValidator(_read_draw), PlainSerializer(str)]


class RequestClass(BaseModel):
    """Lengths are numbers or distributions (`draws.py`)."""

    model_config = ConfigDict(frozen=True, extra="forbid", arbitrary_types_allowed=True)

    name: str = "all"
    weight: Annotated[float, Field(gt=0)] = 1.0
    prompt_words: Length = Draw("fixed", (32,))
    max_thinking_tokens: Length | None = None
    min_thinking_tokens: Length | None = None
    num_waits: Length | None = None
    max_completion_tokens: Length | None = None
    stream: bool = True
    extra: dict[str, Any] = {}
    """Sent as it is, for example a temperature."""

    @field_validator("extra")
    @classmethod
    def _one_answer_as_the_class_says(cls, extra: dict[str, Any]) -> dict[str, Any]:
        """Counts are of one answer: the ids of several can't be told from thinking too long."""
        if extra.get("n", 1) != 1:
            raise ValueError("`n` in extra must be 1: a request has one answer")
        for name in ("parallel", "stream"):
            if name in extra:
                why = (
                    "a request has one answer" if name == "parallel" else "`stream` is the class's own field"
                )
                raise ValueError(f"`{name}` in extra is not taken: {why}")
        return extra


class Workload(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")

    classes: Annotated[tuple[RequestClass, ...], Field(min_length=1)]

    @field_validator("classes")
    @classmethod
    def _told_apart(cls, classes: tuple[RequestClass, ...]) -> tuple[RequestClass, ...]:
        names = [kind.name for kind in classes]
        if len(names) > 1 and ("all" in names or len(set(names)) < len(names)):
            raise ValueError(
                f"several classes need names of their own, none of them `all`: {', '.join(names)}"
            )
        return classes

    def request(self, index: int, *, seed: int, overrides: Mapping[str, Any]) -> Asked:
        """The request number `index`; the same whoever asks, and in whichever order.

        Args:
            overrides: fields of the class that a trace gives for this one request; `class` names the class.
        """
        rng = random.Random(f"{seed}:{index}")  # noqa: S311 - reproducible, not secret
        drawn = rng.choices(range(len(self.classes)), [c.weight for c in self.classes])[0]
        number = self._number(overrides["class"]) if "class" in overrides else drawn
        kind = self.classes[number]
        budget = {
            name: int(overrides[name]) if name in overrides else draw(rng)
            for name in ("max_thinking_tokens", "min_thinking_tokens", "num_waits")
            if (draw := getattr(kind, name)) is not None or name in overrides
        }
        if "min_thinking_tokens" in budget and "max_thinking_tokens" in budget:
            budget["min_thinking_tokens"] = min(budget["min_thinking_tokens"], budget["max_thinking_tokens"])
        words = int(overrides["prompt_words"]) if "prompt_words" in overrides else kind.prompt_words(rng)
        prompt = " ".join(rng.choices(_WORDS.split(), k=max(1, words)))
        room = kind.max_completion_tokens(rng) if kind.max_completion_tokens is not None else None
        if "max_completion_tokens" in overrides:
            room = int(overrides["max_completion_tokens"])
        return Asked(kind_number=number, prompt=prompt, budget=budget, room=room, kind=kind)

    def _number(self, name: object) -> int:
        names = [kind.name for kind in self.classes]
        if name not in names:
            raise WorkloadError(f"a trace's class is one of {', '.join(names)}. Given: {name!r}")
        return names.index(str(name))


class Asked(BaseModel):
    """One request, before it is said in a server's dialect."""

    model_config = ConfigDict(frozen=True)

    kind_number: int
    prompt: str
    budget: dict[str, int]
    room: int | None
    kind: RequestClass

    def body(self, model: str, *, fields: BudgetFields, with_ids: bool) -> dict[str, Any]:
        body: dict[str, Any] = {
            "model": model,
            "messages": [{"role": "user", "content": self.prompt}],
            **self.kind.extra,
        }
        if self.room is not None:
            body["max_completion_tokens"] = self.room
        if with_ids:
            body["return_token_ids"] = True
        if self.kind.stream:
            body |= {"stream": True, "stream_options": {"include_usage": True}}
        if fields == "ours":
            body |= self.budget
        elif fields == "vllm" and "max_thinking_tokens" in self.budget:
            body["thinking_token_budget"] = self.budget["max_thinking_tokens"]
        return body

    def enforced(self, fields: BudgetFields) -> dict[str, int]:
        """The part of the budget that the server was told of."""
        if fields == "ours":
            return self.budget
        maximum = {name: value for name, value in self.budget.items() if name == "max_thinking_tokens"}
        return maximum if fields == "vllm" else {}


def built_in() -> list[str]:
    folder = resources.files("loadtest") / "workloads"
    return sorted(
        entry.name.removesuffix(".yaml") for entry in folder.iterdir() if entry.name.endswith(".yaml")
    )


def read_workload(name: str) -> Workload:
    """A built-in workload by its name, or a YAML file.

    Raises:
        WorkloadError
    """
    if name in built_in():
        text = (resources.files("loadtest") / "workloads" / f"{name}.yaml").read_text()
    elif Path(name).is_file():
        text = Path(name).read_text()
    else:
        raise WorkloadError(f"a workload is a YAML file or one of {', '.join(built_in())}. Given: {name}")
    try:
        return Workload.model_validate(yaml.safe_load(text))
    except yaml.YAMLError as error:
        raise WorkloadError(f"{name} is not YAML: {error}") from None
    except ValidationError as error:
        detail = error.errors(include_url=False)[0]
        where = ".".join(str(part) for part in detail["loc"])
        raise WorkloadError(f"{name}: {where}: {detail['msg']}. Given: {detail['input']!r}") from None
