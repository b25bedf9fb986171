"""A parallel request, from its branches to one completion, whole or streamed."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

from server.budget.spec import BudgetError
from server.gateway.chat_call import ChatCall, EngineCall
from server.gateway.engine import ChatEngine
from server.gateway.parallel.branch import Branch, run_branches
from server.gateway.parallel.fields import TOTAL, ParallelSpec
from server.gateway.parallel.vote import Ballot, Verdict, is_decided, verdict
from server.gateway.receipts import merged_usage, reasoning_details
from server.gateway.streaming import EmitChunk, StreamShape

_ENDING = ("finish_reason", "stop_reason", "thinking_budget", "parallel")
OnProgress = Callable[[dict[str, Any]], Awaitable[None]]


def check_settled(call: ChatCall) -> None:
    """What can only be told of a parallel request once the policy's budget is known.

    Raises:
        BudgetError: nothing limits its thinking.
    """
    if call.parallel is not None and not call.budget.is_set:
        raise BudgetError(
            TOTAL,
            f"`{TOTAL}` is required: the branches share a thinking budget, and this request has none",
        )


async def _ignore(_: dict[str, Any]) -> None:
    return


@dataclass(slots=True)
class ParallelSearch:
    """One request's."""

    spec: ParallelSpec
    engine: ChatEngine
    calls: Sequence[EngineCall]
    shape: StreamShape
    model: str
    _finished: list[Branch] = field(default_factory=list)

    async def complete(self, on_progress: OnProgress = _ignore) -> dict[str, Any]:
        """The chat completion of the chosen branch, with the receipt of all.

        Args:
            on_progress: is told of every branch that ends.

        Raises: as `run_branches`.
        """

        async def on_finished(branch: Branch) -> bool:
            self._finished.append(branch)
            await on_progress(self._progress(branch))
            return self._decided()

        branches = await run_branches(self.engine, self.calls, on_finished)
        chosen = verdict(self._ballots())
        return self._completion(branches, chosen)

    async def stream(self, emit: EmitChunk) -> None:
        """Progress, then the chosen answer, as chunks of a stream."""
        head = {
            "id": self.shape.id,
            "object": "chat.completion.chunk",
            "created": self.shape.created,
            "model": self.model,
        }
        begun = False

        async def send(delta: dict[str, Any], **rest: Any) -> None:
            nonlocal begun
            if not begun:
                begun, delta = True, {"role": "assistant", "content": ""} | delta
            choice = {"index": 0, "delta": delta, "logprobs": None, "finish_reason": None}
            extra = {name: rest.pop(name) for name in ("parallel_progress",) if name in rest}
            await emit({**head, "choices": [choice | rest], **extra})

        completion = await self.complete(lambda event: send({}, parallel_progress=event))
        choice = completion["choices"][0]
        for delta in _deltas(choice["message"]):
            await send(delta)
        await send({}, **{name: choice.get(name) for name in _ENDING})
        if self.shape.wants_usage_chunk:
            await emit({**head, "choices": [], "usage": completion["usage"]})

    def _ballots(self) -> list[Ballot]:
        return [Ballot(branch.index, branch.key) for branch in self._finished]

    def _decided(self) -> bool:
        missing = set(range(len(self.calls))) - {branch.index for branch in self._finished}
        return is_decided(self._ballots(), missing)

    def _progress(self, branch: Branch) -> dict[str, Any]:
        return {
            "branch": branch.index,
            "answer": branch.answer,
            "thinking_tokens": branch.thinking_tokens,
            "finished": len(self._finished),
            "width": self.spec.width,
        }

    def _completion(self, branches: Sequence[Branch], chosen: Verdict) -> dict[str, Any]:
        speaks = branches[chosen.index]
        completion = dict(speaks.completion or {})
        choice = dict(speaks.choice) | {"index": 0, "parallel": self._receipt(branches, chosen)}
        self._shape_message(choice["message"])
        # An engine's timings are of one branch.
        completion.pop("metrics", None)
        return completion | {
            "id": self.shape.id,
            "created": self.shape.created,
            "choices": [choice],
            "usage": _usage(completion["usage"], branches),
        }

    def _shape_message(self, message: dict[str, Any]) -> None:
        if self.shape.hides_reasoning:
            message["reasoning"] = None
        message["reasoning_content"] = message.get("reasoning")
        if self.shape.reasoning_details:
            message["reasoning_details"] = reasoning_details(message["reasoning"])

    def _receipt(self, branches: Sequence[Branch], chosen: Verdict) -> dict[str, Any]:
        return {
            "method": self.spec.method,
            "width": self.spec.width,
            "total_thinking_tokens": self.spec.total_thinking_tokens,
            "thinking_tokens": sum(branch.thinking_tokens for branch in branches),
            "chosen": chosen.index,
            "answer": branches[chosen.index].answer,
            "votes": chosen.votes,
            "decided_by": chosen.decided_by,
            "finished": sum(branch.status == "finished" for branch in branches),
            "cancelled": sum(branch.status == "cancelled" for branch in branches),
            "branches": [branch.told() for branch in branches],
        }


def _usage(usage: dict[str, Any], branches: Sequence[Branch]) -> dict[str, Any]:
    """Of all branches, those that were cancelled included; the prompt, which they share, counts once."""
    counted = [usage | {"completion_tokens": branch.completion_tokens} for branch in branches]
    return merged_usage(counted, [{"thinking_tokens": branch.thinking_tokens} for branch in branches])


def _deltas(message: dict[str, Any]) -> list[dict[str, Any]]:
    deltas = []
    if message["reasoning"]:
        names = ("reasoning", "reasoning_content", "reasoning_details")
        deltas.append({name: message[name] for name in names if name in message})
    if message.get("content"):
        deltas.append({"content": message["content"]})
    return deltas
