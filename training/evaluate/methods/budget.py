"""Budget forcing: the point's budget fields in one request."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from server.budget.spec import BUDGET_LIMITS, WAIT_TEXT, BudgetError, ThinkingBudget
from training.curate.errors import CurationError
from training.evaluate.benchmarks import Item
from training.evaluate.methods.base import Answer, Ask, as_answer

_PARAMETERS: Mapping[str, str] = {
    **{name: f"from {low} to {high}" for name, (low, high) in BUDGET_LIMITS.items()},
    WAIT_TEXT: "a text, or a list of texts that are used in turn",
}


@dataclass(frozen=True, slots=True)
class BudgetForcing:
    name: str = "budget"
    is_parallel: bool = False

    @property
    def parameters(self) -> Mapping[str, str]:
        return _PARAMETERS

    def check(self, fields: Mapping[str, Any]) -> None:
        try:
            ThinkingBudget.from_fields(self.budget(fields))
        except BudgetError as error:
            raise CurationError(f"method {self.name}: {error}") from error

    def budget(self, fields: Mapping[str, Any]) -> dict[str, Any]:
        return {name: fields[name] for name in _PARAMETERS if name in fields}

    def bounds(self, fields: Mapping[str, Any]) -> tuple[float | None, float | None]:
        return fields.get("min_thinking_tokens"), fields.get("max_thinking_tokens")

    async def answer(self, ask: Ask, item: Item, fields: Mapping[str, Any]) -> Answer:
        return as_answer(await ask(item.prompt, self.budget(fields)))
