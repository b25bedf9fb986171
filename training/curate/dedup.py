"""Exact and near duplicates. The first of equal questions stays, so the order of the sources matters."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence

from training.curate.schema import Drop, Question, drop
from training.grading.program import FORCED_PREFIX, check

_SHINGLE_WORDS = 5
_PERMUTATIONS = 128
_MINHASH_SEED = 1
_WORD = re.compile(r"\w+")
_MATH = re.compile(r"\$\$.*?\$\$|\$[^$]*\$|\\\[.*?\\\]|\\\(.*?\\\)", re.DOTALL)
_LAYOUT = re.compile(r"\\(?:q?quad|left|right|displaystyle|[,;:!\[\]()])|[\s${},.;&~]")
_NUMBER = re.compile(r"[-+]?\d+(?:[.,]\d+)*|[=^<>]")


def normalized(text: str) -> str:
    """Case and white space do not make a question another one."""
    return " ".join(text.casefold().split())


def drop_exact(questions: Sequence[Question], stage: str) -> tuple[list[Question], list[Drop]]:
    """Another answer to the same text is its own reason: one of the two is wrong, or something is missing."""
    first: dict[str, Question] = {}
    kept, drops = [], []
    for question in questions:
        twin = first.setdefault(normalized(question.question), question)
        if twin is question:
            kept.append(question)
        elif _answered_otherwise(twin, question):
            detail = f"of {twin.id}, whose answer is {twin.answer!r}; here {question.answer!r}"
            drops.append(drop(question, stage, "duplicate_with_another_answer", detail))
        else:
            drops.append(drop(question, stage, "duplicate", f"of {twin.id}"))
    return kept, drops


def drop_near(
    questions: Sequence[Question], threshold: float, stage: str, advance: Iterator[None]
) -> tuple[list[Question], list[Drop], int]:
    """Drop questions whose word 5-grams overlap with an earlier one's by `threshold` (Jaccard) or more.

    MinHash finds the candidates; the overlap itself is computed. Questions with other numbers or formulas are
    other questions, however alike their words: "3 apples" is not "4 apples", `x+1` is not `x-1`. So are those
    with another answer: one may ask for the largest, the other for the smallest.

    Returns:
        What is kept, what is dropped, and how many were kept only because their answer is another.
    """
    from datasketch import MinHash, MinHashLSH

    index = MinHashLSH(threshold=threshold, num_perm=_PERMUTATIONS)
    indexed: dict[str, tuple[frozenset[str], str, Question]] = {}
    kept, drops = [], []
    num_otherwise = 0
    for question in questions:
        next(advance, None)
        shingles, mathematics = _shingles(question.question), _mathematics(question.question)
        sketch = MinHash(num_perm=_PERMUTATIONS, seed=_MINHASH_SEED)
        sketch.update_batch([shingle.encode() for shingle in sorted(shingles)])
        twins = [
            (candidate, overlap)
            for candidate in sorted(index.query(sketch))
            if (overlap := _jaccard(shingles, indexed[candidate][0])) >= threshold
            and mathematics == indexed[candidate][1]
        ]
        twin = next((twin for twin in twins if not _answered_otherwise(indexed[twin[0]][2], question)), None)
        if twin is not None:
            drops.append(drop(question, stage, "near_duplicate", f"of {twin[0]}, overlap {twin[1]:.2f}"))
            continue
        num_otherwise += bool(twins)
        index.insert(question.id, sketch)
        indexed[question.id] = (shingles, mathematics, question)
        kept.append(question)
    return kept, drops, num_otherwise


def _answered_otherwise(one: Question, other: Question) -> bool:
    """Whether both have an answer, and these are not known to be the same: `1/2` is `0.5`, as in grading."""
    if not one.answer or not other.answer or normalized(one.answer) == normalized(other.answer):
        return False
    return not any(
        verdict.correct
        for reference, answer in ((one.answer, other.answer), (other.answer, one.answer))
        for verdict in check(reference, [f"{FORCED_PREFIX} {answer}"]) or ()
    )


def _shingles(text: str) -> frozenset[str]:
    words = _WORD.findall(text.casefold())
    if len(words) < _SHINGLE_WORDS:
        return frozenset([" ".join(words) or text])
    return frozenset(
        " ".join(words[at : at + _SHINGLE_WORDS]) for at in range(len(words) - _SHINGLE_WORDS + 1)
    )


def _mathematics(text: str) -> str:
    """Formulas without their layout, then the numbers between them."""
    formulas = "".join(_LAYOUT.sub("", formula) for formula in _MATH.findall(text))
    return formulas + " " + " ".join(_NUMBER.findall(_MATH.sub(" ", text)))


def _jaccard(left: frozenset[str], right: frozenset[str]) -> float:
    return len(left & right) / len(left | right)
