"""The pool of the demo model, and that `s1 curate` drops the faults planted in it."""

from __future__ import annotations

import random
from collections.abc import Iterator
from dataclasses import replace
from itertools import repeat

import pytest

from training.curate.quality import QualityOptions, load_rules, quality
from training.recipe import read_recipe_file
from training.tiny.chain import QUALITY_RULES
from training.tiny.examples import pool_row
from training.tiny.pool import make_pool
from training.tiny.recipe import parse_recipe
from training.tiny.tasks import is_held_out, letters_question
from training.tiny.tokenizer import encode
from training.tiny.traces import Trace, write_trace

GOOD = write_trace(letters_question("r", ["arrow", "carry"]), random.Random(0), 0.0, 1)
OPTIONS = QualityOptions(require_trace=True, require_correct=True)


def reason_of(trace: Trace) -> str | None:
    advance: Iterator[None] = repeat(None)
    outcome = quality([pool_row(trace)], load_rules(QUALITY_RULES), OPTIONS, advance)
    return outcome.drops[0].reason if outcome.drops else None


@pytest.mark.parametrize(
    ("trace", "reason"),
    [
        (GOOD, None),
        (replace(GOOD, answer="3"), "not_correct"),
        (replace(GOOD, thinking=GOOD.thinking[:-1]), "unfinished_trace"),
        (replace(GOOD, thinking=GOOD.thinking[:-8]), "unfinished_trace"),
        (replace(GOOD, thinking=GOOD.thinking.removeprefix("a ")), "unfinished_trace"),
        (
            replace(GOOD, thinking="".join(reversed(GOOD.thinking.splitlines(keepends=True)))),
            "unfinished_trace",
        ),
        (replace(GOOD, thinking=""), "empty_trace"),
    ],
)
def test_quality_drops_what_the_pool_plants(trace: Trace, reason: str | None) -> None:
    assert reason_of(trace) == reason


def test_the_pool_of_the_committed_recipe_has_faults_and_no_held_out_question() -> None:
    recipe = parse_recipe(read_recipe_file("tiny-cpu", kinds=["tiny"]))
    pool = make_pool(random.Random(2), recipe.pool)
    assert len({trace.question.text for trace in pool}) == recipe.pool.size
    assert not any(is_held_out(trace.question) for trace in pool)
    reasons = [reason_of(trace) for trace in pool[:400]]
    assert {"not_correct", "unfinished_trace", None} <= set(reasons)
    assert 0.6 < reasons.count(None) / len(reasons) < 0.9
    rows = [pool_row(trace) for trace in pool]
    assert {row.domain for row in rows} >= {"chain 5", "cups 1", "letters 3"}
    assert all(row.thinking_tokens == len(encode(row.thinking or "")) for row in rows[:50])


def test_quality_drops_a_trace_that_repeats_that_all_is_checked() -> None:
    question = letters_question("r", ["arrow"])
    traces = [write_trace(question, random.Random(0), 0.0, waits) for waits in range(5)]
    assert [reason_of(trace) for trace in traces] == [None] * 3 + ["goes_on_for_nothing"] * 2
