"""A REBASE search as what answers chat requests, so that it is metered and watched like any other."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from contextlib import AbstractContextManager
from typing import Any

from server.budget.forms import ALIAS_ROOTS
from server.budget.receipt import EngineReceipt
from server.budget.shown import show
from server.gateway.chat.chat_call import ChatCall, EngineCall
from server.gateway.engines.engine import Engine
from server.gateway.errors import InvalidRequest, ReceiptMissing
from server.gateway.parallel.fields import ParallelSpec, is_neutral
from server.gateway.parallel.rebase_search import RebaseSearch
from server.gateway.parallel.reward import RewardModel
from server.gateway.parallel.vote import verdict
from server.gateway.rounds.completions_vllm import VllmCompletions

OnProgress = Callable[[dict[str, Any]], Awaitable[None]]


_UNSUPPORTED_BUDGET = (
    "min_thinking_tokens",
    "num_waits",
    "wait_text",
    "landing_tokens",
    "loop_guard_tokens",
    "max_thinking_ms",
)
_HONOURED = (
    VllmCompletions.prompt_fields
    | VllmCompletions.sampling_fields
    | ALIAS_ROOTS
    | {
        "answer_reserve_tokens",
        "include_reasoning",
        "max_completion_tokens",
        "max_thinking_tokens",
        "max_tokens",
        "model",
        "reasoning_effort",
        "request_id",
        "seed",
        "stream",
        "stream_options",
        "user",
    }
)


def check_rebase(call: ChatCall) -> None:
    """Refuse what a search step by step can't honour; `check_combination` has let through what votes can.

    Raises:
        InvalidRequest: `param` names the field.
    """
    where = "can't be honoured by `parallel.method` rebase, which samples step by step"
    for name, value in call.budget.requested().items():
        if name in _UNSUPPORTED_BUDGET and value:
            raise InvalidRequest(f"`{name}` {where}. Given: {show(value)}", param=name)
    for name, value in call.fields.items():
        if name not in _HONOURED and name not in _UNSUPPORTED_BUDGET and not is_neutral(name, value):
            raise InvalidRequest(f"`{name}` {where}. Given: {show(value)}", param=name)


class RebaseEngine:
    """A `ChatEngine` for one request: its one call's completion is the tree's chosen leaf."""

    def __init__(self, engine: Engine, spec: ParallelSpec, reward: RewardModel, boundary: str) -> None:
        self._engine = engine
        self._spec = spec
        self._reward = reward
        self._boundary = boundary
        self._search: RebaseSearch | None = None
        self.on_progress: OnProgress | None = None

    def occupied(self, generations: int) -> AbstractContextManager[None]:
        return self._engine.occupied(generations)

    async def complete(self, call: EngineCall) -> dict[str, Any]:
        search = self._search = RebaseSearch(
            self._spec, call, self._engine, self._reward, self._boundary, self._tell
        )
        await search.run()
        return _completion(search)

    async def stream(self, call: EngineCall, on_event: Callable[[dict[str, Any]], Awaitable[None]]) -> None:
        raise NotImplementedError("a search is streamed as progress, not as tokens")

    async def receipt(self, call: EngineCall, output_tokens: int) -> EngineReceipt:
        """All that the search has cost so far, as one output: thinking, then markers, then answers."""
        search = self._search
        if search is None or search.call.receipt_id != call.receipt_id:
            raise ReceiptMissing("receipt missing: the search has not begun")
        thinking = search.tree.thinking_tokens
        return EngineReceipt(
            receipt_id=str(call.receipt_id),
            effective_min=0,
            effective_max=search.limits.total,
            effective_num_waits=0,
            clamped_by=(),
            output_tokens=search.completion_tokens,
            thinking_begin=0,
            thinking_end=thinking,
            answer_begin=thinking + search.marker_tokens,
            wait_positions=(),
            ended_by="model",
        )

    async def end_thinking(self, receipt_id: str, ended_by: str) -> str:
        """Make every branch answer instead of taking a further step; the steps under way are finished."""
        search = self._search
        if search is None or search.call.receipt_id != receipt_id:
            return "absent"
        search.ended_by = ended_by
        return "thinking"

    async def _tell(self, search: RebaseSearch) -> None:
        if self.on_progress is not None:
            await self.on_progress(
                {
                    "depth": max(node.depth for node in search.tree.nodes),
                    "finished": len(search.leaves),
                    "width": self._spec.width,
                    "nodes": len(search.tree.nodes) - 1,
                    "thinking_tokens": search.tree.thinking_tokens,
                }
            )


def _completion(search: RebaseSearch) -> dict[str, Any]:
    chosen = verdict(search.ballots)
    leaf = search.leaves[chosen.index]
    thinking = "".join(step.text for step in leaf.node.path)
    message = {
        "role": "assistant",
        "content": leaf.content or None,
        "refusal": None,
        "reasoning": thinking or None,
    }
    told = search.call.origin.told
    receipts = [told({"clamped_by": []} | leaf.receipt(search.limits)) for leaf in search.leaves]
    prompt_tokens, completion_tokens = len(search.prompt), search.completion_tokens
    return {
        "id": search.call.request_id,
        "object": "chat.completion",
        "created": 0,
        "model": search.model,
        "choices": [
            {
                "index": 0,
                "message": message,
                "logprobs": None,
                "finish_reason": leaf.finish_reason,
                "stop_reason": None,
                "thinking_budget": receipts[leaf.index],
                "parallel": {
                    "method": search.spec.method,
                    "width": search.spec.width,
                    "total_thinking_tokens": search.spec.total_thinking_tokens,
                    "thinking_tokens": search.tree.thinking_tokens,
                    "chosen": chosen.index,
                    "answer": leaf.node.answer,
                    "votes": chosen.votes,
                    "decided_by": chosen.decided_by,
                    "finished": len(search.leaves),
                    "branches": [
                        {
                            "index": one.index,
                            "node": one.node.index,
                            "status": "finished",
                            "answer": one.node.answer,
                            "finish_reason": one.finish_reason,
                            "thinking_budget": receipt,
                        }
                        for one, receipt in zip(search.leaves, receipts, strict=True)
                    ],
                    "tree": [node.told() for node in search.tree.nodes],
                    "reward": {"calls": search.reward_calls, "tokens": search.reward_tokens},
                },
            }
        ],
        "usage": {
            "prompt_tokens": prompt_tokens,
            "completion_tokens": completion_tokens,
            "total_tokens": prompt_tokens + completion_tokens,
            "completion_tokens_details": {"reasoning_tokens": search.tree.thinking_tokens},
        },
    }
