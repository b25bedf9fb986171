"""REBASE's arithmetic against examples worked by hand, and what a tree counts."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from server.gateway.parallel.rebase import Tree, allocate


@pytest.mark.parametrize(
    ("scores", "width", "temperature", "expected"),
    [
        # Equal shares of 5/3: 2 of 5; then 3/2 of what is left: 2; then 1.
        ([0.5, 0.5, 0.5], 5, 0.2, [2, 2, 1]),
        # Equal shares of 1, not one more for a rounding of the last digit.
        ([0.3] * 16, 16, 0.2, [1] * 16),
        # e^0 and e^-4: 4 * 0.982 = 3.93, so 4; nothing is left.
        ([0.9, 0.1], 4, 0.2, [4, 0]),
        # e^0, e^-2, e^-4 (1, 0.1353, 0.0183): 8 * 0.867 = 6.9: 7; 1 * 0.881: 1; 0.
        ([0.9, 0.5, 0.1], 8, 0.2, [7, 1, 0]),
        # The same, served from the best on wherever that stands.
        ([0.1, 0.9, 0.5], 8, 0.2, [0, 7, 1]),
        # Temperature 1 (1, 0.670, 0.449): 8 * 0.472 = 3.8: 4; 4 * 0.599 = 2.4: 3; 1.
        ([0.9, 0.5, 0.1], 8, 1.0, [4, 3, 1]),
        # Fewer branches than nodes: the best come first, of equal ones the lowest.
        ([0.2, 0.9, 0.9], 2, 10.0, [0, 1, 1]),
        ([0.9, 0.9], 1, 0.2, [1, 0]),
        # ln 2 apart: weights 2 to 1. 3 * 2/3 = 2; 1.
        ([0.2 * math.log(2), 0.0], 3, 0.2, [2, 1]),
        # Weights 3, 1, 1: 5 * 3/5 = 3 and not a little more, then 2 * 1/2 = 1, then 1.
        ([0.2 * math.log(3), 0.0, 0.0], 5, 0.2, [3, 1, 1]),
        ([1.0, 0.0, 0.0], 16, 0.01, [16, 0, 0]),
        ([0.7], 8, 0.2, [8]),
    ],
)
def test_the_greedy_allocation(
    scores: list[float], width: int, temperature: float, expected: list[int]
) -> None:
    assert allocate(scores, width, temperature) == expected


@given(st.lists(st.floats(0, 1), min_size=1, max_size=64), st.integers(1, 64), st.floats(0.001, 10))
def test_the_allocation_adds_up(scores: list[float], width: int, temperature: float) -> None:
    counts = allocate(scores, width, temperature)
    assert sum(counts) == width and min(counts) >= 0
    ranked = sorted(zip(scores, counts, strict=True), key=lambda pair: -pair[0])
    assert ranked[0][1] == max(counts[at] for at, score in enumerate(scores) if score == ranked[0][0])
    # Nobody who is worse goes on more often than somebody who is better, but for what rounding up takes.
    assert all(worse[1] <= better[1] + 1 for better, worse in zip(ranked, ranked[1:], strict=False))


def test_a_path_knows_its_tokens_and_the_tree_counts_each_step_once() -> None:
    tree = Tree()
    trunk = tree.grow(tree.root)
    trunk.token_ids, trunk.text = [1, 2, 3], "a\n"
    left, right = tree.grow(trunk), tree.grow(trunk)
    left.token_ids, left.text = [4], "\n"
    right.token_ids, right.text = [5, 6], "b\n"
    assert left.path_ids == [1, 2, 3, 4] and right.path_ids == [1, 2, 3, 5, 6]
    assert tree.thinking_tokens == 6
    assert left.steps == ["a"] and right.steps == ["a", "b"]
    assert [(node["id"], node["parent"], node["depth"]) for node in (n.told() for n in tree.nodes)] == [
        (0, None, 0),
        (1, 0, 1),
        (2, 1, 2),
        (3, 1, 2),
    ]
