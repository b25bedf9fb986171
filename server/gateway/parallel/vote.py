"""Votes of branches on one answer: who leads, when it is decided, and how ties end. Pure.

Rules:
- A branch whose message states no answer doesn't vote.
- Answers with the same key are one candidate; its weight is the sum of its branches' weights (1 each in a
  majority vote).
- The heaviest candidate wins; of several that are equally heavy, the one with the lowest branch index.
- The candidate is represented by its branch of the greatest weight, of those by the lowest index.
- If nobody voted, the first branch speaks, whatever it says.
- A vote is decided as soon as no branch that is still under way could change the winner.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from server.gateway.parallel.equivalence import Key

_ROUNDED = 9
DecidedBy = Literal["majority", "tie_lowest_index", "no_answer", "weight", "score"]


@dataclass(frozen=True, slots=True)
class Ballot:
    """What a finished branch says; `key` is None if it states no answer."""

    index: int
    key: Key | None
    weight: float = 1.0


@dataclass(frozen=True, slots=True)
class Candidate:
    weight: float
    indices: tuple[int, ...]
    """Of its branches, lowest first."""
    spokesman: int


@dataclass(frozen=True, slots=True)
class Verdict:
    index: int
    """Of the branch that speaks for the winner."""
    weight: float
    votes: int
    decided_by: DecidedBy


def candidates(ballots: Sequence[Ballot]) -> list[Candidate]:
    """The heaviest first; equally heavy ones by their lowest index."""
    by_key: dict[Key, list[Ballot]] = {}
    for ballot in sorted(ballots, key=lambda ballot: ballot.index):
        if ballot.key is not None:
            by_key.setdefault(ballot.key, []).append(ballot)
    found = [
        Candidate(
            # Alike whatever the order of the sum.
            round(sum(ballot.weight for ballot in of_key), _ROUNDED),
            tuple(ballot.index for ballot in of_key),
            max(of_key, key=lambda ballot: (ballot.weight, -ballot.index)).index,
        )
        for of_key in by_key.values()
    ]
    return sorted(found, key=lambda candidate: (-candidate.weight, candidate.indices[0]))


def is_decided(ballots: Sequence[Ballot], missing: Collection[int]) -> bool:
    """Whether the winner is known although branches have yet to vote, each with a weight of 1 at most.

    Args:
        missing: their indices.
    """
    if not missing:
        return True
    ranked = candidates(ballots)
    if not ranked:
        return False
    leader, lowest_missing, gain = ranked[0], min(missing), len(missing)
    nobody = Candidate(0.0, (lowest_missing,), lowest_missing)
    return all(
        leader.weight > rival.weight + gain
        # Equally heavy in the end, but then the lowest index wins.
        or (
            leader.weight == round(rival.weight + gain, _ROUNDED)
            and leader.indices[0] < min(rival.indices[0], lowest_missing)
        )
        for rival in [*ranked[1:], nobody]
    )


def verdict(ballots: Sequence[Ballot], *, by: DecidedBy = "majority") -> Verdict:
    """
    Raises:
        ValueError: there is no ballot at all.
    """
    ranked = candidates(ballots)
    if not ranked:
        return Verdict(min(ballot.index for ballot in ballots), 0.0, 0, "no_answer")
    first = ranked[0]
    tied = len(ranked) > 1 and ranked[1].weight == first.weight
    return Verdict(first.spokesman, first.weight, len(first.indices), "tie_lowest_index" if tied else by)


def best_of(ballots: Sequence[Ballot], scores: Mapping[int, float]) -> Verdict:
    """The best score among branches with an answer, else among all; of equal ones the lowest index."""
    answering = [ballot for ballot in ballots if ballot.key is not None]
    best = max(answering or ballots, key=lambda ballot: (scores[ballot.index], -ballot.index))
    votes = sum(ballot.key == best.key for ballot in answering)
    return Verdict(best.index, scores[best.index], votes, "score" if answering else "no_answer")
