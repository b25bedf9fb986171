"""The fine-tuning pool: what `s1 curate` has to choose from."""

import random
from dataclasses import replace
from typing import TYPE_CHECKING

from training.tiny.tasks import FAMILIES, Question, make_training_question
from training.tiny.traces import Trace, write_trace, wrong_state

if TYPE_CHECKING:
    from training.tiny.recipe import PoolRecipe


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
