"""Choosing the set: s1's Algorithm 1 as in the paper and as in the notebook, and the sets of its ablations.

Pure: candidates in, ids out. The same candidates in any order, and the same seed, give the same ids.
"""

from __future__ import annotations

import math
import random
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal

from training.curate.errors import CurationError

Selector = Literal["s1", "s1-notebook", "random", "diverse", "longest", "full"]


@dataclass(frozen=True, slots=True)
class Candidate:
    id: str
    source: str
    domain: str
    length: int
    """Of the trace, in tokens (or of what stands in for it)."""
    trace_correct: bool


@dataclass(frozen=True, slots=True)
class Preference:
    """Candidates that are taken before any draw: right ones of these sources, of this length or more.

    The paper takes right AIME and GPQA questions, and right MATH questions of more than 5,600 tokens.
    """

    longer_than_tokens: Mapping[str, int] = field(
        default_factory=lambda: {"aime": -1, "gpqa": -1, "math": 5600}
    )

    def takes(self, candidate: Candidate) -> bool:
        shortest = self.longer_than_tokens.get(candidate.source)
        return shortest is not None and candidate.trace_correct and candidate.length > shortest


@dataclass(slots=True)
class Selection:
    ids: set[str]
    counts: dict[str, int]
    """How many were taken in which way."""


def select(
    candidates: Sequence[Candidate],
    selector: Selector,
    size: int,
    seed: int,
    *,
    preference: Preference | None = None,
    uniform_share: float = 0.7,
    benchmark_weights: Mapping[str, float] | None = None,
) -> Selection:
    """`size` of the candidates; all of them for `full`.

    `s1-notebook` draws the domain uniformly for the first `uniform_share` of the set and by
    `benchmark_weights` after that (data/filter.ipynb: 700 of 1,000).

    Raises:
        CurationError: there are fewer candidates than `size`, or more preferred ones.
    """
    ordered = sorted(candidates, key=lambda candidate: (-candidate.length, candidate.id))
    if selector == "full":
        return Selection({candidate.id for candidate in ordered}, {"all": len(ordered)})
    if len(ordered) < size:
        raise CurationError(f"--size must be <= the {len(ordered)} questions that are left. Given: {size}")
    stream = random.Random(f"{seed}:{selector}")  # noqa: S311
    if selector == "longest":
        return Selection({candidate.id for candidate in ordered[:size]}, {"longest": size})
    if selector == "random":
        ids = stream.sample(sorted(candidate.id for candidate in ordered), size)
        return Selection(set(ids), {"random": size})
    draw = _Draw(ordered, stream, by_length=selector != "diverse")
    if selector == "diverse":
        draw.until(size, None, "uniform")
        return Selection(draw.taken, draw.counts)
    draw.take_preferred(preference or Preference(), size)
    if selector == "s1-notebook":
        if not benchmark_weights:
            raise CurationError("--select s1-notebook needs --benchmark: a file of labelled questions")
        draw.until(math.floor(size * uniform_share), None, "uniform")
        draw.until(size, benchmark_weights, "by_benchmark")
    draw.until(size, None, "uniform")
    return Selection(draw.taken, draw.counts)


class _Draw:
    """Domains and what is left in them, longest first. A domain that is empty is out."""

    def __init__(self, ordered: Sequence[Candidate], stream: random.Random, *, by_length: bool) -> None:
        self._stream = stream
        self._by_length = by_length
        self._left: dict[str, list[Candidate]] = defaultdict(list)
        for candidate in ordered:
            self._left[candidate.domain].append(candidate)
        self.taken: set[str] = set()
        self.counts: dict[str, int] = {}

    def take_preferred(self, preference: Preference, size: int) -> None:
        preferred = {c.id for group in self._left.values() for c in group if preference.takes(c)}
        if len(preferred) > size:
            raise CurationError(
                f"{len(preferred)} questions are preferred, more than --size {size}; narrow --prefer"
            )
        self.taken |= preferred
        self.counts["preferred"] = len(preferred)
        for domain, group in list(self._left.items()):
            self._left[domain] = [candidate for candidate in group if candidate.id not in preferred]
            if not self._left[domain]:
                del self._left[domain]

    def until(self, size: int, weights: Mapping[str, float] | None, label: str) -> None:
        """Draw until `size` are taken, or no domain with a weight is left."""
        while len(self.taken) < size:
            domains = sorted(self._left)
            if weights is None:
                domain = self._stream.choice(domains)
            else:
                domains = [domain for domain in domains if weights.get(domain, 0) > 0]
                if not domains:
                    return
                domain = self._stream.choices(domains, [weights[domain] for domain in domains])[0]
            group = self._left[domain]
            at = self._rank(len(group)) if self._by_length else self._stream.randrange(len(group))
            self.taken.add(group.pop(at).id)
            self.counts[label] = self.counts.get(label, 0) + 1
            if not group:
                del self._left[domain]

    def _rank(self, num_left: int) -> int:
        """Rank r with weight 2^-r: one uniform number through the inverse of the cut-off geometric sum."""
        share = self._stream.random() * (1 - 2.0**-num_left)
        return min(num_left - 1, math.floor(-math.log2(1 - share)))


def benchmark_weights(counts: Sequence[Mapping[str, int]]) -> dict[str, float]:
    """Domain weights from benchmarks' domain counts: the first as it is, others scaled to half its total.

    s1's notebook: AIME counts + GPQA counts x 0.5 x (sum of AIME / sum of GPQA).
    """
    weights: dict[str, float] = defaultdict(float)
    first_total = sum(counts[0].values())
    for number, benchmark in enumerate(counts):
        scale = 1.0 if number == 0 else 0.5 * first_total / sum(benchmark.values())
        for domain, count in benchmark.items():
            weights[domain] += scale * count
    return dict(sorted(weights.items()))
