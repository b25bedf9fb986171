"""The selection drops the faults that the pool plants."""

import random
from collections import Counter
from dataclasses import replace

import pytest

from training.recipe import read_recipe_file
from training.tiny.pool import diverse, is_good, is_hard, make_pool, select
from training.tiny.recipe import parse_recipe
from training.tiny.tasks import is_held_out, letters_question, make_training_question
from training.tiny.traces import Trace, write_trace

GOOD = write_trace(letters_question("r", ["arrow", "carry"]), random.Random(0), 0.0, 1)


@pytest.mark.parametrize(
    "faulty",
    [
        replace(GOOD, answer="3"),
        replace(GOOD, thinking=GOOD.thinking[:-1]),
        replace(GOOD, thinking=GOOD.thinking[:-8]),
        replace(GOOD, thinking=GOOD.thinking.removeprefix("a ")),
        replace(GOOD, thinking=GOOD.thinking.removesuffix("So 4.\n") + "So 5.\n", answer="5"),
        replace(GOOD, thinking="".join(reversed(GOOD.thinking.splitlines(keepends=True)))),
        replace(GOOD, thinking=""),
    ],
)
def test_quality_refuses(faulty: Trace) -> None:
    assert is_good(GOOD)
    assert not is_good(faulty)


def test_difficulty_refuses_only_what_one_line_solves() -> None:
    rng = random.Random(1)
    one_chunk = make_training_question(rng, "chain", 1)
    two_chunks = make_training_question(rng, "chain", 2)
    assert not is_hard(write_trace(one_chunk, rng, 0.0, 0))
    assert is_hard(write_trace(one_chunk, rng, 0.0, 1))
    assert is_hard(write_trace(two_chunks, rng, 0.0, 0))


def test_selection_of_the_committed_recipe() -> None:
    recipe = parse_recipe(read_recipe_file("tiny-cpu", kinds=["tiny"]))
    pool = make_pool(random.Random(2), recipe.pool)
    assert len({trace.question.text for trace in pool}) == recipe.pool.size
    assert not any(is_held_out(trace.question) for trace in pool)
    selection = select(random.Random(3), pool, recipe.sft.num_examples)
    assert selection.pool > selection.after_quality > selection.after_difficulty
    assert len(selection.examples) == recipe.sft.num_examples
    assert all(is_good(trace) and is_hard(trace) for trace in selection.examples)
    families = Counter(trace.question.family for trace in selection.examples)
    assert max(families.values()) - min(families.values()) <= 1


def test_diversity_takes_what_there_is_and_no_trace_twice() -> None:
    rng = random.Random(4)
    traces = [write_trace(make_training_question(rng, "cups", 2), rng, 0.0, 0) for _ in range(5)]
    chosen = diverse(rng, traces, 9)
    assert len(chosen) == 5
    assert {trace.question for trace in chosen} == {trace.question for trace in traces}
