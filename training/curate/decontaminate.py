"""Questions that share words with a benchmark are dropped: s1's rule, any common word 8-gram (paper C.5)."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence, Set
from dataclasses import dataclass, field

from training.curate.choices import without_choices
from training.curate.dedup import normalized
from training.curate.schema import Drop, Question, drop

DEFAULT_NGRAM_WORDS = 8
_ANCHOR_CHARS = 20
_MAX_DETAIL_CHARS = 160


@dataclass(slots=True)
class Benchmarks:
    """All word n-grams of the benchmarks' questions.

    Compared twice: as words, and as text without any white space, so that `$x+1$` and `$ x + 1 $` are alike.
    Benchmark questions with fewer than n words count as a whole. Else their options do not count: many
    questions have `A) 0 B) 1 C) 2 D) 3`.
    """

    ngram_words: int = DEFAULT_NGRAM_WORDS
    _owners: dict[str, str] = field(default_factory=dict)
    """By n-gram, words joined by one blank: the benchmark question it is first found in."""
    _short: dict[str, str] = field(default_factory=dict)
    _anchored: dict[str, list[str]] = field(default_factory=dict)
    """By its first 20 characters without white space: the n-grams that long."""

    def add(self, name: str, questions: Sequence[Question]) -> None:
        for number, question in enumerate(questions, start=1):
            owner = f"{name}, row {number}"
            words = normalized(without_choices(question.question)).split()
            if len(words) < self.ngram_words:
                self._short.setdefault("".join(normalized(question.question).split()), owner)
            for gram in _ngrams(words, self.ngram_words):
                if gram in self._owners:
                    continue
                self._owners[gram] = owner
                dense = gram.replace(" ", "")
                if len(dense) >= _ANCHOR_CHARS:
                    self._anchored.setdefault(dense[:_ANCHOR_CHARS], []).append(gram)

    def shared(self, text: str) -> tuple[str, str] | None:
        """The first n-gram that `text` has in common with a benchmark, and that benchmark's question."""
        words = normalized(text).split()
        for gram in _ngrams(words, self.ngram_words):
            if gram in self._owners:
                return gram, self._owners[gram]
        dense = "".join(words)
        if dense in self._short:
            return " ".join(words), self._short[dense]
        # Not from within a word, nor into one: "…is a" is not in "…is anything".
        borders = {0, *itertools.accumulate(map(len, words))}
        for at in range(len(dense) - _ANCHOR_CHARS + 1):
            for gram in self._anchored.get(dense[at : at + _ANCHOR_CHARS], ()):
                joined = gram.replace(" ", "")
                ends = (at, at + len(joined))
                if dense.startswith(joined, at) and all(_splits(dense, end, borders) for end in ends):
                    return gram, self._owners[gram]
        return None


def drop_contaminated(
    questions: Sequence[Question], benchmarks: Benchmarks, stage: str, advance: Iterator[None]
) -> tuple[list[Question], list[Drop]]:
    kept, drops = [], []
    for question in questions:
        next(advance, None)
        found = benchmarks.shared(question.question)
        if found is None:
            kept.append(question)
        else:
            gram, owner = found
            drops.append(drop(question, stage, "contaminated", f"{owner}: {gram[:_MAX_DETAIL_CHARS]!r}"))
    return kept, drops


def _splits(dense: str, at: int, borders: Set[int]) -> bool:
    """Whether a word ends or begins at this place: by white space that was there, or by punctuation."""
    return at in borders or not (dense[at - 1].isalnum() and dense[at].isalnum())


def _ngrams(words: Sequence[str], length: int) -> Iterator[str]:
    for at in range(len(words) - length + 1):
        yield " ".join(words[at : at + length])
