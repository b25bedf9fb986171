"""Control by instruction: the prompt asks for a length, with or without a budget that enforces it.

Source: "s1: Simple test-time scaling", section 5.2 and tables 12 to 14. The paper's models are trained for it
(`training/conditional.py` makes such data); any model can be asked.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from training.conditional import LONG_PROMPT, SHORT_PROMPT, with_condition
from training.curate.errors import CurationError
from training.evaluate.benchmarks import Item
from training.evaluate.methods.base import Answer, Ask, as_answer

MAXIMUM = "max_thinking_tokens"
TOKENS_PER_STEP = 100
"""What the paper allows a step, to judge whether a number of steps was kept."""
_CLASSES = {"short": SHORT_PROMPT, "long": LONG_PROMPT}


@dataclass(frozen=True, slots=True)
class TokenConditional:
    """`Think for up to N tokens.`"""

    forced: bool
    is_parallel: bool = False

    @property
    def name(self) -> str:
        return _named("token_conditional", self.forced)

    @property
    def parameters(self) -> Mapping[str, str]:
        return {"tokens": "what the prompt allows; forced, also the maximum"}

    def check(self, fields: Mapping[str, Any]) -> None:
        check_count(self.name, "tokens", fields)

    def budget(self, fields: Mapping[str, Any]) -> Mapping[str, Any]:
        return {MAXIMUM: fields["tokens"]} if self.forced else {}

    def bounds(self, fields: Mapping[str, Any]) -> tuple[float | None, float | None]:
        return None, fields["tokens"]

    async def answer(self, ask: Ask, item: Item, fields: Mapping[str, Any]) -> Answer:
        prompt = with_condition(item.prompt, f"Think for up to {fields['tokens']} tokens.")
        return as_answer(await ask(prompt, self.budget(fields)))


@dataclass(frozen=True, slots=True)
class StepConditional:
    """`Think for up to N steps.` A budget knows no steps: forced, each may have so many tokens on average."""

    forced: bool
    is_parallel: bool = False

    @property
    def name(self) -> str:
        return _named("step_conditional", self.forced)

    @property
    def parameters(self) -> Mapping[str, str]:
        return {
            "steps": "what the prompt allows",
            "tokens_per_step": f"to judge and to force; {TOKENS_PER_STEP} if absent",
        }

    def check(self, fields: Mapping[str, Any]) -> None:
        check_count(self.name, "steps", fields)
        if "tokens_per_step" in fields:
            check_count(self.name, "tokens_per_step", fields)

    def budget(self, fields: Mapping[str, Any]) -> Mapping[str, Any]:
        return {MAXIMUM: self._maximum(fields)} if self.forced else {}

    def bounds(self, fields: Mapping[str, Any]) -> tuple[float | None, float | None]:
        return None, self._maximum(fields)

    async def answer(self, ask: Ask, item: Item, fields: Mapping[str, Any]) -> Answer:
        prompt = with_condition(item.prompt, f"Think for up to {fields['steps']} steps.")
        return as_answer(await ask(prompt, self.budget(fields)))

    def _maximum(self, fields: Mapping[str, Any]) -> int:
        return int(fields["steps"] * fields.get("tokens_per_step", TOKENS_PER_STEP))


@dataclass(frozen=True, slots=True)
class ClassConditional:
    """A short or a long thought is asked for in words; forced, with a maximum of the sweep's."""

    forced: bool
    is_parallel: bool = False

    @property
    def name(self) -> str:
        return _named("class_conditional", self.forced)

    @property
    def parameters(self) -> Mapping[str, str]:
        maximum = {MAXIMUM: "enforced"} if self.forced else {}
        return {"length": " or ".join(_CLASSES), **maximum}

    def check(self, fields: Mapping[str, Any]) -> None:
        if fields.get("length") not in _CLASSES:
            raise CurationError(
                f"method {self.name}: length must be {' or '.join(_CLASSES)}. Given: {fields.get('length')!r}"
            )
        if self.forced:
            check_count(self.name, MAXIMUM, fields)

    def budget(self, fields: Mapping[str, Any]) -> Mapping[str, Any]:
        return {MAXIMUM: fields[MAXIMUM]} if self.forced else {}

    def bounds(self, fields: Mapping[str, Any]) -> tuple[float | None, float | None]:
        return None, fields.get(MAXIMUM)

    async def answer(self, ask: Ask, item: Item, fields: Mapping[str, Any]) -> Answer:
        prompt = with_condition(item.prompt, _CLASSES[fields["length"]])
        return as_answer(await ask(prompt, self.budget(fields)))


def check_count(method: str, name: str, fields: Mapping[str, Any]) -> int:
    """Raises CurationError: the parameter is missing or not a whole number above 0."""
    value = fields.get(name)
    if not isinstance(value, int) or isinstance(value, bool) or value < 1:
        raise CurationError(f"method {method}: {name} must be a whole number above 0. Given: {value!r}")
    return value


def check_temperature(method: str, fields: Mapping[str, Any]) -> None:
    """Raises CurationError: all samples of a greedy model are the same."""
    if not fields.get("temperature"):
        raise CurationError(
            f"method {method}: temperature must be above 0, or all samples are the same. "
            f"Given: {fields.get('temperature')!r}"
        )


def _named(name: str, forced: bool) -> str:
    return f"{name}_forced" if forced else name
