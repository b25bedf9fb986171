"""REBASE before an engine: steps are sampled over completions, a reward model says where to go on.

The engine's prefix cache makes a branch cost its own step only. The tree never costs more thinking tokens
than the budget: what the children of one depth may write together is at most what is left, and a branch for
which nothing is left is made to answer.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Awaitable, Callable, Mapping
from contextlib import aclosing
from dataclasses import dataclass, field
from typing import Any

from server.budget.spec import DEFAULT_ANSWER_RESERVE_TOKENS
from server.gateway.chat.chat_call import EngineCall
from server.gateway.chat.gather import run_all
from server.gateway.engines.engine import Engine
from server.gateway.errors import EngineMisbehaved
from server.gateway.parallel.answer_text import extract_answer
from server.gateway.parallel.equivalence import answer_key
from server.gateway.parallel.fields import ParallelSpec
from server.gateway.parallel.markers import ThinkingMarkers
from server.gateway.parallel.rebase import Node, Tree, allocate
from server.gateway.parallel.reward import RewardModel
from server.gateway.parallel.vote import Ballot, is_decided
from server.gateway.rounds.completions import Ask, Part
from server.gateway.rounds.completions_vllm import VllmCompletions
from server.gateway.rounds.fields import prompt_fields

_SEED_STRIDE = 1_000_003
_INT64 = 2**63

OnDepth = Callable[["RebaseSearch"], Awaitable[None]]


@dataclass(frozen=True, slots=True)
class Limits:
    """Units: tokens."""

    total: int
    """Thinking of the whole tree."""
    path: int
    """Thinking of one branch."""
    room: int
    """Thinking, markers and answer of one branch."""


@dataclass(slots=True)
class Leaf:
    """A branch that has answered."""

    node: Node
    content: str
    finish_reason: str
    ended_by: str
    marker_tokens: int
    answer_tokens: int
    index: int = 0

    @property
    def ballot(self) -> Ballot:
        answer = self.node.answer
        return Ballot(self.index, None if answer is None else answer_key(answer))

    def receipt(self, limits: Limits) -> dict[str, Any]:
        """The branch's `thinking_budget`."""
        return {
            "effective": {"min": 0, "max": limits.path, "num_waits": 0},
            "thinking_tokens": len(self.node.path_ids),
            "answer_tokens": self.answer_tokens,
            "marker_tokens": self.marker_tokens,
            "waits": 0,
            "ended_by": self.ended_by,
        }


@dataclass(slots=True)
class RebaseSearch:
    """One request's search."""

    spec: ParallelSpec
    call: EngineCall
    engine: Engine
    reward: RewardModel
    boundary: str
    on_depth: OnDepth
    tree: Tree = field(default_factory=Tree)
    leaves: list[Leaf] = field(default_factory=list)
    prompt: list[int] = field(default_factory=list)
    marker_tokens: int = 0
    answer_tokens: int = 0
    reward_calls: int = 0
    reward_tokens: int = 0
    limits: Limits = Limits(0, 0, 0)
    ended_by: str | None = None
    """Set: somebody has asked for answers now."""
    _fields: dict[str, Any] = field(default_factory=dict)
    _markers: ThinkingMarkers | None = None
    _opening: list[int] = field(default_factory=list)

    @property
    def model(self) -> str:
        return str(self._fields["model"])

    @property
    def completion_tokens(self) -> int:
        return self.tree.thinking_tokens + self.marker_tokens + self.answer_tokens

    @property
    def ballots(self) -> list[Ballot]:
        return [leaf.ballot for leaf in self.leaves]

    async def run(self) -> None:
        """Search until all branches have answered, or until no further one could change the vote.

        Raises:
            EngineRefused, EngineDied, EngineMisbehaved, EngineUnavailable
        """
        await self._begin()
        frontier = {self.tree.root.index: self.spec.width}
        while frontier:
            grown = await self._expand(frontier)
            await self.on_depth(self)
            going_on = [node for node in grown if node.state == "open"]
            if is_decided(self.ballots, range(len(self.leaves), self.spec.width)):
                going_on = self._prune(going_on)
            frontier = await self._spread(going_on) if going_on else {}

    async def _begin(self) -> None:
        self._fields = self.call.fields
        completions = self._completions()
        rendered = await completions.render(
            prompt_fields(self._fields, VllmCompletions.prompt_fields), self.call.request_id
        )
        self._markers = markers = await ThinkingMarkers.learn(completions, self.engine)
        self.prompt = rendered.token_ids
        if not markers.opened(self.prompt):
            self._opening = markers.start
            self.marker_tokens += len(markers.start)
        room = rendered.max_model_len - len(self.prompt)
        asked = self._fields.get("max_completion_tokens", self._fields.get("max_tokens", room))
        self.limits = limits_of(
            self.spec, self.call, min(room, asked), len(markers.forced_end) + len(self._opening)
        )

    async def _expand(self, frontier: Mapping[int, int]) -> list[Node]:
        """A child for every branch, all at once."""
        parents = [(self.tree.nodes[index], count) for index, count in frontier.items()]
        children = [self.tree.grow(parent) for parent, count in parents for _ in range(count)]
        for parent, count in parents:
            parent.children = count
            parent.state = "expanded"
        # Every branch may need a newline before it is made to answer.
        left = self.limits.total - self.tree.thinking_tokens - len(children) * len(self._learnt.newline)
        share = left // len(children)
        leaves = await run_all([self._child(child, share) for child in children])
        # In the order of the tree, not of arrival.
        for leaf in leaves:
            if leaf is not None:
                leaf.index = len(self.leaves)
                self.leaves.append(leaf)
        return children

    async def _spread(self, nodes: list[Node]) -> dict[int, int]:
        """How many branches go on from each node."""
        await run_all([self._score(node) for node in nodes])
        rated = [node.score for node in nodes if node.score is not None]
        # What has written nothing yet is as good as the others.
        usual = sum(rated) / len(rated) if rated else 0.0
        scores = [usual if node.score is None else node.score for node in nodes]
        counts = allocate(scores, len(nodes), self.spec.balance_temperature)
        self._prune([node for node, count in zip(nodes, counts, strict=True) if not count])
        return {node.index: count for node, count in zip(nodes, counts, strict=True) if count}

    async def _score(self, node: Node) -> None:
        if not node.steps:
            return
        rated = await self.reward.rate(self._fields["messages"], node.steps)
        node.score = rated.scores[-1]
        self.reward_calls += 1
        self.reward_tokens += rated.tokens

    def _prune(self, nodes: list[Node]) -> list[Node]:
        for node in nodes:
            node.state = "pruned"
        return []

    async def _child(self, node: Node, share: int) -> Leaf | None:
        """One step from the node's parent on; a leaf if the thinking ends there or has no room for a step."""
        so_far = node.path_ids
        limit = min(share, self.limits.path - len(so_far) - len(self._learnt.newline))
        if node.depth > self.spec.max_depth or limit < 1 or self.ended_by is not None:
            return await self._answer(node, forced=True)
        end = self._learnt.end[0]
        ask = Ask(limit, frozenset({end}), masked=False, banned=self._learnt.banned)
        stop = {"stop": [self.boundary], "include_stop_str_in_output": True}
        finish, stop_reason = None, None
        async with aclosing(self._generate(node, so_far, ask, stop)) as parts:
            async for part in parts:
                node.token_ids += part.token_ids
                node.text += part.text
                if part.finish_reason is not None:
                    finish, stop_reason = part.finish_reason, part.stop_reason
        if finish is None:
            raise EngineMisbehaved("the engine's completion has no finish reason")
        if finish != "stop" or stop_reason == self.boundary:
            return None
        # A sampled end: the marker's first token, or the model's own.
        if node.token_ids:
            node.token_ids.pop()
        return await self._answer(node, forced=False)

    async def _answer(self, node: Node, *, forced: bool) -> Leaf:
        markers = self._learnt
        thinking = "".join(step.text for step in node.path)
        if forced and thinking and not thinking.endswith("\n"):
            node.token_ids += markers.newline
            node.text += "\n"
        ending = markers.forced_end if forced else markers.end
        self.marker_tokens += len(ending)
        so_far = node.path_ids + ending
        room = max(1, self.limits.room - len(so_far) - len(self._opening))
        text, tokens, finish = "", 0, None
        ask = Ask(room, markers.answer_stops, masked=True, banned=markers.banned)
        async with aclosing(self._generate(node, so_far, ask, {}, answering=True)) as parts:
            async for part in parts:
                text += part.text
                tokens += len(part.token_ids)
                self.answer_tokens += len(part.token_ids)
                finish = part.finish_reason or finish
        if finish is None:
            raise EngineMisbehaved("the engine's completion has no finish reason")
        content = markers.answer_text(text)
        node.state, node.answer = "leaf", extract_answer(content)
        ended_by = (self.ended_by or "max_thinking_tokens") if forced else "model"
        return Leaf(node, content, finish, ended_by, marker_tokens=len(ending), answer_tokens=tokens)

    def _generate(
        self,
        node: Node,
        so_far: list[int],
        ask: Ask,
        extra: Mapping[str, Any],
        *,
        answering: bool = False,
    ) -> AsyncGenerator[Part, None]:
        names = VllmCompletions.sampling_fields
        sampling = {name: value for name, value in self._fields.items() if name in names}
        if "seed" in self._fields:
            seed = self._fields["seed"] + (2 * node.index + answering) * _SEED_STRIDE
            sampling["seed"] = (seed + _INT64) % (2 * _INT64) - _INT64
        request_id = f"{self.call.request_id}-{node.index}{'a' if answering else ''}"
        prompt = self.prompt + self._opening + so_far
        return self._completions().generate(prompt, ask, {**sampling, **extra}, request_id)

    def _completions(self) -> VllmCompletions:
        return VllmCompletions(self.engine, self._fields["model"])

    @property
    def _learnt(self) -> ThinkingMarkers:
        if self._markers is None:
            raise RuntimeError("the search has not begun")
        return self._markers


def limits_of(spec: ParallelSpec, call: EngineCall, room: int, marker_tokens: int) -> Limits:
    """What is left of the budget in the room.

    The whole tree may think `width` shares. One branch may use more than its own share, unless a policy, a
    quota or the request's own maximum says that a branch may not.

    Args:
        room: completion tokens of one branch.
        marker_tokens: of a forced exit, and of the opening.
    """
    reserve = call.budget.answer_reserve_tokens or max(1, min(DEFAULT_ANSWER_RESERVE_TOKENS, room // 4))
    fits = max(0, room - marker_tokens - reserve)
    branch = call.budget.max_thinking_tokens
    share = fits if branch is None else branch
    total = share * spec.width
    path = share
    if spec.total_thinking_tokens is not None and spec.share is not None and share >= spec.share:
        path = total = spec.total_thinking_tokens
    return Limits(total=total, path=min(path, fits), room=room)
