"""Parallel scaling: the server's `parallel` field in one request (docs/parallel.md)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from training.evaluate.benchmarks import Item
from training.evaluate.methods.base import Answer, Ask, as_answer
from training.evaluate.methods.conditional import MAXIMUM, check_count, check_temperature

_TOTAL = "total_thinking_tokens"


@dataclass(frozen=True, slots=True)
class Parallel:
    """Named as the server's method is."""

    name: str
    is_parallel: bool = True

    @property
    def parameters(self) -> Mapping[str, str]:
        waits = {} if self.name == "rebase" else {"num_waits": "of every branch"}
        return {"width": "branches", _TOTAL: "of all branches together", **waits}

    def check(self, fields: Mapping[str, Any]) -> None:
        check_count(self.name, "width", fields)
        check_count(self.name, _TOTAL, fields)
        check_temperature(self.name, fields)

    def budget(self, fields: Mapping[str, Any]) -> Mapping[str, Any]:
        return {MAXIMUM: fields[_TOTAL] // fields["width"]}

    def bounds(self, fields: Mapping[str, Any]) -> tuple[float | None, float | None]:
        return None, fields[_TOTAL]

    async def answer(self, ask: Ask, item: Item, fields: Mapping[str, Any]) -> Answer:
        parallel = {"method": self.name, "width": fields["width"], _TOTAL: fields[_TOTAL]}
        waits = {"num_waits": fields["num_waits"]} if "num_waits" in fields else {}
        return as_answer(await ask(item.prompt, {"parallel": parallel, **waits}))


PARALLEL_METHODS = tuple(map(Parallel, ("majority_vote", "weighted_vote", "best_of", "rebase")))
