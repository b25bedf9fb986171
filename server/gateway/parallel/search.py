"""A parallel request, from its branches to one completion, whole or streamed."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

from server.budget.spec import BudgetError
from server.gateway.chat.chat_call import ChatCall, EngineCall
from server.gateway.chat.completion import answer_call
from server.gateway.chat.receipts import merged_usage, reasoning_details
from server.gateway.chat.streaming import EmitChunk, StreamShape
from server.gateway.engines.engine import ChatEngine, Engine
from server.gateway.errors import InvalidRequest
from server.gateway.parallel.branch import Branch, run_branches
from server.gateway.parallel.fields import PARALLEL, TOTAL, ParallelSpec
from server.gateway.parallel.judge import RewardJudge
from server.gateway.parallel.rebase_engine import RebaseEngine, check_rebase
from server.gateway.parallel.reward import RewardModel
from server.gateway.parallel.vote import Ballot, Verdict, best_of, is_decided, verdict
from server.gateway.settings import Settings

_ENDING = ("finish_reason", "stop_reason", "thinking_budget", "parallel")
OnProgress = Callable[[dict[str, Any]], Awaitable[None]]


def check_settled(call: ChatCall, reward: RewardModel | None) -> None:
    """What can only be told of a parallel request once the policy's budget is known.

    Raises:
        BudgetError: nothing limits its thinking.
        InvalidRequest: its method needs a reward model, or can't honour a field; `param` names it.
    """
    spec = call.parallel
    if spec is None:
        return
    if not call.budget.is_set:
        raise BudgetError(
            TOTAL,
            f"`{TOTAL}` is required: the branches share a thinking budget, and this request has none",
        )
    if spec.needs_reward and reward is None:
        raise InvalidRequest(
            f"`{PARALLEL}.method` {spec.method} needs a reward model, and this server was started without "
            "--reward-url",
            param=f"{PARALLEL}.method",
        )
    if spec.method == "rebase":
        check_rebase(call)


def rebase_before(
    engine: Engine, spec: ParallelSpec, reward: RewardModel, settings: Settings
) -> RebaseEngine:
    """A search that samples from `engine`.

    Raises:
        InvalidRequest: the engine is of a make whose API is not vLLM's.
    """
    support = engine.status.rounds
    if support is not None and support.ids.end_is_text:
        raise InvalidRequest(
            f"`{PARALLEL}.method` rebase needs an end marker that begins with a token of its own; that of "
            f"{support.description.family} is ordinary text",
            param=f"{PARALLEL}.method",
        )
    if support is not None and support.dialect.make != "vLLM":
        raise InvalidRequest(
            f"`{PARALLEL}.method` rebase needs vLLM's completions API; this engine has "
            f"{support.dialect.make}'s",
            param=f"{PARALLEL}.method",
        )
    return RebaseEngine(engine, spec, reward, settings.step_boundary)


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
    judge: RewardJudge | None = None
    rebase: RebaseEngine | None = None
    """What is behind `engine` if the method is rebase."""
    _finished: list[Branch] = field(default_factory=list)

    @classmethod
    def of(
        cls,
        call: ChatCall,
        engine: ChatEngine,
        calls: Sequence[EngineCall],
        shape: StreamShape,
        *,
        model: str,
        inner: ChatEngine,
        reward: RewardModel | None,
        settings: Settings,
    ) -> ParallelSearch | None:
        """None for a request that isn't parallel.

        Args:
            engine: what answers, metered and watched; `inner` is what is behind that.
        """
        if call.parallel is None:
            return None
        rebase = inner if isinstance(inner, RebaseEngine) else None
        judge = None
        if reward is not None and call.parallel.needs_reward and rebase is None:
            judge = RewardJudge(reward, settings.step_boundary, calls[0].fields["messages"])
        return cls(call.parallel, engine, calls, shape, model, judge, rebase)

    async def complete(self, on_progress: OnProgress = _ignore) -> dict[str, Any]:
        """The chat completion of the chosen branch, with the receipt of all.

        Args:
            on_progress: is told of every branch that ends.

        Raises: as `run_branches`.
        """
        if self.rebase is not None:
            return await self._searched(self.rebase, on_progress)

        async def on_finished(branch: Branch) -> bool:
            self._finished.append(branch)
            await on_progress(self._progress(branch))
            return self._decided()

        branches = await run_branches(self.engine, self.calls, on_finished, self.judge)
        return self._completion(branches, self._verdict())

    async def stream(self, emit: EmitChunk) -> None:
        """Progress, then the chosen answer, as chunks of a stream."""
        head = {"id": self.shape.id, "object": "chat.completion.chunk", "created": self.shape.created}
        head["model"] = self.model
        begun = False

        async def send(delta: dict[str, Any], progress: dict[str, Any] | None = None, **rest: Any) -> None:
            nonlocal begun
            if not begun:
                begun, delta = True, {"role": "assistant", "content": ""} | delta
            choice = {"index": 0, "delta": delta, "logprobs": None, "finish_reason": None, **rest}
            told = {} if progress is None else {"parallel_progress": progress}
            await emit({**head, "choices": [choice], **told})

        completion = await self.complete(lambda event: send({}, event))
        choice = completion["choices"][0]
        for delta in _deltas(choice["message"]):
            await send(delta)
        await send({}, **{name: choice.get(name) for name in _ENDING})
        if self.shape.wants_usage_chunk:
            await emit({**head, "choices": [], "usage": completion["usage"]})

    async def _searched(self, rebase: RebaseEngine, on_progress: OnProgress) -> dict[str, Any]:
        rebase.on_progress = on_progress
        with self.engine.occupied(self.spec.width):
            completion = await answer_call(self.engine, self.calls[0])
        choice = completion["choices"][0]
        told = choice["parallel"]
        # Not of the whole tree, as the engine call's own receipt is.
        choice["thinking_budget"] = told["branches"][told["chosen"]]["thinking_budget"]
        if self.shape.hides_reasoning:
            for node in told["tree"]:
                del node["text"]
        self._shape_message(choice["message"])
        return completion | {"id": self.shape.id, "created": self.shape.created}

    def _ballots(self) -> list[Ballot]:
        weighted = self.spec.method == "weighted_vote"
        return [
            Ballot(branch.index, branch.key, branch.score or 0.0 if weighted else 1.0)
            for branch in self._finished
        ]

    def _decided(self) -> bool:
        if self.spec.method == "best_of":
            # The last one may be the best.
            return False
        missing = set(range(len(self.calls))) - {branch.index for branch in self._finished}
        return is_decided(self._ballots(), missing)

    def _verdict(self) -> Verdict:
        if self.spec.method == "best_of":
            return best_of(self._ballots(), {branch.index: branch.score or 0.0 for branch in self._finished})
        return verdict(self._ballots(), by="weight" if self.spec.method == "weighted_vote" else "majority")

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
        scored = {} if self.judge is None else {"weight": chosen.weight, "reward": self.judge.told()}
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
            **scored,
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
