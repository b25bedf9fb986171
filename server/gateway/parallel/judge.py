"""Scores of finished branches, by a process-reward model."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from server.gateway.parallel.branch import Branch
from server.gateway.parallel.reward import RewardModel, split_steps


@dataclass(slots=True)
class RewardJudge:
    """A branch's score is that of its last step, its answer: given all steps before it."""

    reward: RewardModel
    boundary: str
    messages: Sequence[Mapping[str, Any]]
    calls: int = 0
    tokens: int = 0

    async def __call__(self, branch: Branch) -> None:
        """Raises: as `RewardModel.rate`."""
        message = branch.choice["message"]
        content = (message.get("content") or "").strip()
        steps = split_steps(message.get("reasoning"), self.boundary) + ([content] if content else [])
        if not steps:
            branch.score = 0.0
            return
        rated = await self.reward.rate(self.messages, steps)
        branch.score = rated.scores[-1]
        self.calls += 1
        self.tokens += rated.tokens

    def told(self) -> dict[str, int]:
        return {"calls": self.calls, "tokens": self.tokens}
