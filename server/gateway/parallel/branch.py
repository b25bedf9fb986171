"""One branch of a parallel request, and several of them run side by side until enough is known."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from server.budget.receipt import receipt
from server.gateway.chat.chat_call import EngineCall
from server.gateway.chat.completion import answer_call
from server.gateway.engines.engine import ChatEngine
from server.gateway.errors import GatewayError
from server.gateway.parallel.answer_text import extract_answer
from server.gateway.parallel.equivalence import Key, answer_key

Status = Literal["running", "finished", "cancelled"]


@dataclass(slots=True)
class Branch:
    index: int
    call: EngineCall
    status: Status = "running"
    completion: dict[str, Any] | None = None
    """The engine's, with its receipt on the choice."""
    answer: str | None = None
    key: Key | None = None
    score: float | None = None
    """A reward model's, from 0 to 1."""
    budget_receipt: dict[str, Any] | None = None
    """None where not even the engine knows, of a branch that was cancelled before it began."""

    @property
    def choice(self) -> dict[str, Any]:
        """Of a finished branch."""
        if self.completion is None:
            raise RuntimeError(f"branch {self.index} has not finished")
        found: dict[str, Any] = self.completion["choices"][0]
        return found

    @property
    def thinking_tokens(self) -> int:
        return self.budget_receipt["thinking_tokens"] if self.budget_receipt else 0

    @property
    def completion_tokens(self) -> int:
        counted = self.budget_receipt
        if counted is None:
            return 0
        return int(counted["thinking_tokens"] + counted["marker_tokens"] + counted["answer_tokens"])

    def finish(self, completion: dict[str, Any]) -> None:
        self.completion, self.status = completion, "finished"
        self.budget_receipt = self.choice["thinking_budget"]
        self.answer = extract_answer(self.choice["message"].get("content"))
        self.key = None if self.answer is None else answer_key(self.answer)

    def told(self) -> dict[str, Any]:
        """Its part of the request's receipt."""
        told: dict[str, Any] = {"index": self.index, "status": self.status, "answer": self.answer}
        if self.score is not None:
            told["score"] = round(self.score, 6)
        if self.completion is not None:
            told["finish_reason"] = self.choice["finish_reason"]
        return told | {"thinking_budget": self.budget_receipt}


Judge = Callable[[Branch], Awaitable[None]]
"""Called for each branch as it ends, at the same time as others; sets its score."""
OnFinished = Callable[[Branch], Awaitable[bool]]
"""Called for one finished branch after another; True means that no further one is needed."""


async def run_branches(
    engine: ChatEngine, calls: Sequence[EngineCall], on_finished: OnFinished, judge: Judge | None = None
) -> list[Branch]:
    """All branches, those that weren't needed any more cancelled and accounted for.

    The first failure of a branch cancels the others, and so does cancelling this.

    Raises:
        EngineRefused, EngineDied, EngineMisbehaved, ReceiptMissing; and what `on_finished` and
            `judge` raise.
    """
    branches = [Branch(index, call) for index, call in enumerate(calls)]
    with engine.occupied(len(calls)):
        tasks = {asyncio.create_task(_answer(engine, branch, judge)): branch for branch in branches}
        try:
            await _until_decided(tasks, on_finished)
        finally:
            await _cancelled(tasks)
    await asyncio.gather(*(_account(engine, branch) for branch in branches if branch.status == "cancelled"))
    return branches


async def _answer(engine: ChatEngine, branch: Branch, judge: Judge | None) -> None:
    branch.finish(await answer_call(engine, branch.call))
    if judge is not None:
        await judge(branch)


async def _until_decided(tasks: dict[asyncio.Task[None], Branch], on_finished: OnFinished) -> None:
    waiting = set(tasks)
    while waiting:
        done, waiting = await asyncio.wait(waiting, return_when=asyncio.FIRST_COMPLETED)
        # Those that end in the same moment in their own order, so that it doesn't hang on a set's.
        for task in sorted(done, key=lambda task: tasks[task].index):
            task.result()
        for task in sorted(done, key=lambda task: tasks[task].index):
            if await on_finished(tasks[task]):
                return


async def _cancelled(tasks: dict[asyncio.Task[None], Branch]) -> None:
    """Cancel what still runs; return when the engine's connections are closed."""
    for task, branch in tasks.items():
        task.cancel()
        if branch.status == "running":
            branch.status = "cancelled"
    await asyncio.gather(*tasks, return_exceptions=True)


async def _account(engine: ChatEngine, branch: Branch) -> None:
    """What a cancelled branch has cost, by the engine's own record. One that never began has none."""
    if branch.call.receipt_id is None:
        return
    try:
        recorded = await engine.receipt(branch.call, 0)
    except GatewayError:
        return
    told = receipt(branch.call.budget, recorded, delivered_tokens=recorded.output_tokens, finish_reason=None)
    branch.budget_receipt = branch.call.origin.told(told)
