"""The fine-tuning pool, and its selection by quality, difficulty and diversity, as in s1 (section 2.2)."""

import random
import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from training.tiny.tasks import FAMILIES, Family, Question, make_training_question
from training.tiny.traces import Trace, write_trace, wrong_state

if TYPE_CHECKING:
    from training.tiny.recipe import PoolRecipe

_FINISHED = re.compile(r"a .*\nSo (?P<answer>\S+)\.\n", re.DOTALL)


@dataclass(frozen=True, slots=True)
class Selection:
    """What each filter left."""

    pool: int
    after_quality: int
    after_difficulty: int
    examples: list[Trace]


def make_pool(rng: random.Random, recipe: "PoolRecipe") -> list[Trace]:
    """Raw traces of distinct questions: too many easy ones, some faulty, some with wrong answers."""
    pool: dict[str, Trace] = {}
    while len(pool) < recipe.size:
        family = rng.choices(FAMILIES, [15, 15, 70])[0]
        num_chunks = rng.choices([1, 2, 3, 4, 5], [40, 25, 15, 10, 10])[0]
        question = make_training_question(rng, family, num_chunks)
        if question.text not in pool:
            pool[question.text] = _with_fault(rng, _pool_trace(rng, question, recipe), recipe)
    return list(pool.values())


def select(rng: random.Random, pool: Sequence[Trace], num_examples: int) -> Selection:
    good = [trace for trace in pool if is_good(trace)]
    hard = [trace for trace in good if is_hard(trace)]
    return Selection(len(pool), len(good), len(hard), diverse(rng, hard, num_examples))


def is_good(trace: Trace) -> bool:
    """Quality: the thinking is finished, and what it concludes is the answer given and the truth."""
    finished = _FINISHED.fullmatch(trace.thinking)
    return finished is not None and finished["answer"] == trace.answer == trace.question.truth


def is_hard(trace: Trace) -> bool:
    """Difficulty: one line of thinking was not enough."""
    return len(trace.question.chunks) > 1 or trace.num_waits > 0


def diverse(rng: random.Random, traces: Sequence[Trace], num_examples: int) -> list[Trace]:
    """Diversity: the families take turns; inside a family questions with more chunks are preferred."""
    left: dict[Family, list[Trace]] = {
        family: [trace for trace in traces if trace.question.family == family] for family in FAMILIES
    }
    chosen: list[Trace] = []
    while len(chosen) < num_examples and any(left.values()):
        for family in FAMILIES:
            if left[family] and len(chosen) < num_examples:
                chosen.append(_draw(rng, left[family]))
    return chosen


def _draw(rng: random.Random, traces: list[Trace]) -> Trace:
    weights = [len(trace.question.chunks) for trace in traces]
    return traces.pop(rng.choices(range(len(traces)), weights)[0])


def _pool_trace(rng: random.Random, question: Question, recipe: "PoolRecipe") -> Trace:
    past_checked = rng.random() < recipe.past_checked_share
    if past_checked:
        num_reviews = len(question.chunks) + rng.randint(1, 3)
    else:
        num_reviews = 0
        while num_reviews < recipe.max_waits and rng.random() < recipe.wait_rate:
            num_reviews += 1
    return write_trace(question, rng, recipe.slip_rate, num_reviews, past_all_checked=past_checked)


def _with_fault(rng: random.Random, trace: Trace, recipe: "PoolRecipe") -> Trace:
    faults = ["unfinished", "shuffled", "wrong answer", "none"]
    shares = [recipe.unfinished_share, recipe.shuffled_share, recipe.wrong_answer_share]
    fault = rng.choices(faults, [*shares, 1 - sum(shares)])[0]
    if fault == "unfinished":
        return replace(trace, thinking=trace.thinking[: rng.randint(1, len(trace.thinking) - 1)])
    if fault == "shuffled":
        lines = trace.thinking.splitlines(keepends=True)
        return replace(trace, thinking="".join(rng.sample(lines, len(lines))))
    if fault == "wrong answer":
        return replace(trace, answer=wrong_state(rng, trace.question.family, trace.answer))
    return trace
