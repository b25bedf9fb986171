"""The rules of a vote, against every order of arrival."""

from __future__ import annotations

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from server.gateway.parallel.vote import Ballot, best_of, candidates, is_decided, verdict

A, B, C = ("a",), ("b",), ("c",)


def ballots(*keys: tuple[str, ...] | None) -> list[Ballot]:
    return [Ballot(index, key) for index, key in enumerate(keys)]


def test_most_votes_win_and_the_first_of_them_speaks() -> None:
    found = verdict(ballots(A, B, B, C))
    assert (found.index, found.votes, found.decided_by) == (1, 2, "majority")


def test_a_tie_goes_to_the_lowest_index() -> None:
    found = verdict(ballots(C, B, A, A, B))
    assert (found.index, found.votes, found.decided_by) == (1, 2, "tie_lowest_index")


def test_who_states_no_answer_does_not_vote() -> None:
    found = verdict(ballots(None, None, None, B))
    assert (found.index, found.votes, found.decided_by) == (3, 1, "majority")


def test_if_nobody_votes_the_first_speaks() -> None:
    found = verdict(ballots(None, None))
    assert (found.index, found.votes, found.decided_by) == (0, 0, "no_answer")


def test_weights_outvote_numbers_and_the_heaviest_speaks() -> None:
    found = verdict([Ballot(0, A, 0.2), Ballot(1, A, 0.3), Ballot(2, B, 0.1), Ballot(3, B, 0.9)], by="weight")
    assert (found.index, found.weight, found.votes, found.decided_by) == (3, 1.0, 2, "weight")


def test_best_of_prefers_branches_with_an_answer() -> None:
    scores = {0: 0.3, 1: 0.9, 2: 0.8, 3: 0.8}
    assert best_of(ballots(A, None, B, B), scores).index == 2
    assert best_of(ballots(None, None), {0: 0.1, 1: 0.2}).decided_by == "no_answer"


@pytest.mark.parametrize(
    ("cast", "missing", "decided"),
    [
        ([(0, A), (1, A), (2, A)], {3, 4}, True),
        ([(0, A), (1, A)], {2, 3, 4}, False),
        ([(0, A), (1, A)], {2, 3}, True),  # at worst a tie, which the lowest index wins
        ([(1, A), (2, A)], {0, 3}, False),  # here the others would win it
        ([(0, A), (1, B)], {2}, False),
        ([(0, None), (1, None)], {2}, False),
        ([(0, None), (1, None)], set(), True),
        ([(0, A)], {1}, True),
        ([], {0}, False),
    ],
)
def test_when_a_vote_is_decided(cast, missing, decided) -> None:  # type: ignore[no-untyped-def]
    assert is_decided([Ballot(index, key) for index, key in cast], missing) is decided


@given(st.lists(st.sampled_from([A, B, C, None]), min_size=1, max_size=6), st.randoms())
def test_a_decided_vote_can_not_change(keys, rng) -> None:  # type: ignore[no-untyped-def]
    every = ballots(*keys)
    order = rng.sample(every, len(every))
    for count in range(1, len(every) + 1):
        cast, left = order[:count], order[count:]
        if not is_decided(cast, {ballot.index for ballot in left}):
            continue
        winner = candidates(cast)[0] if candidates(cast) else None
        for answers in itertools.product([A, B, C, None], repeat=len(left)):
            final = [*cast, *(Ballot(b.index, key) for b, key in zip(left, answers, strict=True))]
            ranked = candidates(final)
            assert winner is None or set(winner.indices) <= set(ranked[0].indices)
        break
    assert is_decided(every, set())
