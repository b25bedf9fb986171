"""REBASE's arithmetic: a tree of steps, and how many branches go on from each node. Pure.

Source: "Inference scaling laws", arXiv 2408.00724, section 3.1.2, and its code, whose greedy allocation this
is (the paper rounds, which need not add up). The code's token counter knows only a node's own step; here a
node knows its path's, and the tree counts every step once.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

State = Literal["open", "expanded", "pruned", "leaf"]
_ROUNDED = 9


def allocate(scores: Sequence[float], width: int, temperature: float) -> list[int]:
    """How many of `width` branches go on from each node; they add up to `width`.

    Node j's share is exp(R_j / T); nodes are served from the best on, each with its share of what is left,
    rounded up. The last may get nothing.

    Args:
        scores: R, from 0 to 1, of the nodes that can go on.
        temperature: T, above 0: low for the best only, high for all alike.
    """
    best = max(scores)
    weights = [math.exp((score - best) / temperature) for score in scores]
    left, weight_left = width, sum(weights)
    allocated = [0] * len(scores)
    for at in sorted(range(len(scores)), key=lambda at: (-scores[at], at)):
        share = left * weights[at] / weight_left if weight_left > 0 else left
        # Not one more for the last binary digit.
        allocated[at] = min(left, math.ceil(round(share, _ROUNDED)))
        left -= allocated[at]
        weight_left -= weights[at]
    return allocated


@dataclass(slots=True)
class Node:
    index: int
    parent: Node | None
    depth: int
    """Of the root 0."""
    token_ids: list[int] = field(default_factory=list)
    """Of this step alone, as they were sampled."""
    text: str = ""
    score: float | None = None
    state: State = "open"
    children: int = 0
    """Branches that were to go on from here."""
    answer: str | None = None
    """Of a leaf."""

    @property
    def path(self) -> list[Node]:
        """From the first step to this one, the root left out."""
        nodes: list[Node] = []
        node: Node | None = self
        while node is not None and node.parent is not None:
            nodes.append(node)
            node = node.parent
        return nodes[::-1]

    @property
    def path_ids(self) -> list[int]:
        return [token for node in self.path for token in node.token_ids]

    @property
    def steps(self) -> list[str]:
        return [node.text.strip() for node in self.path if node.text.strip()]

    def told(self) -> dict[str, Any]:
        told: dict[str, Any] = {
            "id": self.index,
            "parent": None if self.parent is None else self.parent.index,
            "depth": self.depth,
            "state": self.state,
            "tokens": len(self.token_ids),
            "text": self.text,
        }
        if self.score is not None:
            told["score"] = round(self.score, 6)
        if self.children:
            told["children"] = self.children
        if self.state == "leaf":
            told["answer"] = self.answer
        return told


class Tree:
    def __init__(self) -> None:
        self.root = Node(0, None, 0)
        self.nodes = [self.root]

    def grow(self, parent: Node) -> Node:
        node = Node(len(self.nodes), parent, parent.depth + 1)
        self.nodes.append(node)
        return node

    @property
    def thinking_tokens(self) -> int:
        """Every step once, however many branches lead through it."""
        return sum(len(node.token_ids) for node in self.nodes)
