"""Chosen traces as samples of `s1 sft`: whole, cut as the server cuts, and masked as they must be."""

from __future__ import annotations

import random
from typing import Any

import pytest

from server.budget.families import FAMILIES
from server.budget.machine import BudgetMachine
from server.budget.markers import marker_ids
from server.budget.spec import ThinkingBudget, resolve
from tests.support.engines import DEMO
from training.sft.rendering import IGNORED, TRACE_FORMATS, render_messages, tokenize
from training.tiny.examples import pool_row, sample_rows
from training.tiny.recipe import SamplesRecipe
from training.tiny.tasks import letters_question
from training.tiny.tokenizer import decode, encode
from training.tiny.traces import write_trace

pytest.importorskip("transformers")

QUESTIONS = [
    pool_row(write_trace(letters_question(letter, ["arrow", "carry"]), random.Random(0), 0.0, waits))
    for letter in "acorwy"
    for waits in (0, 2)
]


def rows(**shares: Any) -> list[list[dict[str, str]]]:
    defaults = {
        "draws": 3,
        "cut_share": 0.0,
        "empty_cut_share": 0.0,
        "system_prompt_share": 0.0,
        "earlier_turn_share": 0.0,
    }
    recipe = SamplesRecipe.model_validate({**defaults, **shares})
    return [row["messages"] for row in sample_rows(random.Random(1), QUESTIONS, recipe)]


@pytest.fixture(scope="module")
def tokenizer() -> Any:
    from transformers import AutoTokenizer

    return AutoTokenizer.from_pretrained(DEMO)


def test_every_trace_is_drawn_as_often_as_the_recipe_says() -> None:
    drawn = [messages[-2]["content"] for messages in rows()]
    assert drawn == [question.question for question in QUESTIONS] * 3
    assert all(len(messages) == 2 and "ended_by" not in messages[-1] for messages in rows())


def test_surroundings_are_drawn_anew_each_time() -> None:
    drawn = rows(
        draws=20, cut_share=0.5, empty_cut_share=0.2, system_prompt_share=0.3, earlier_turn_share=0.3
    )
    roles = [tuple(message["role"] for message in messages) for messages in drawn]
    assert set(roles) == {
        ("user", "assistant"),
        ("system", "user", "assistant"),
        ("user", "assistant", "user", "assistant"),
        ("system", "user", "assistant", "user", "assistant"),
    }
    cut = [messages[-1] for messages in drawn if "ended_by" in messages[-1]]
    assert 0.4 < len(cut) / len(drawn) < 0.6
    assert any(not message["reasoning"] for message in cut)
    assert len({message["reasoning"] for message in cut}) > 20


def test_a_cut_sample_is_token_by_token_what_the_server_forces(tokenizer: Any) -> None:
    """The budget machine, the oracle of the engine, is fed the trace under a maximum that cuts it there."""
    ids = marker_ids(FAMILIES["s1"], tokenizer, vocab_size=448)
    drawn = rows(draws=8, cut_share=1.0, empty_cut_share=0.2)
    for messages, question in zip(drawn, QUESTIONS * 8, strict=True):
        thinking = encode(messages[-1]["reasoning"])
        newline = bool(thinking) and thinking[-1] not in ids.line_end
        budget = resolve(
            ThinkingBudget.from_fields({"max_thinking_tokens": len(thinking) + newline}),
            room=1024,
            limited_by="max_completion_tokens",
            opening_tokens=0,
            exit_tokens=ids.exit_tokens(),
        )
        machine = BudgetMachine(ids, budget, opened=True)
        would_say = encode(question.thinking or "")
        written: list[int] = []
        while machine.answer_begin is None or len(written) < machine.answer_begin:
            written.append(machine.commit(would_say[min(len(written), len(would_say) - 1)]))
        example = tokenize(tokenizer, render_messages(tokenizer, TRACE_FORMATS["s1"], messages))
        opening = encode("<|im_start|>think\n")
        start = next(at for at, label in enumerate(example.labels) if label != IGNORED)
        assert example.input_ids[start : start + len(opening)] == opening
        body = example.input_ids[start + len(opening) :]
        assert body[: len(written)] == written
        assert decode(body[len(written) :]) == f" {question.answer}<|im_end|>\n"
        learned = [label for label in example.labels if label != IGNORED]
        assert learned == opening + thinking + encode(f" {question.answer}<|im_end|>\n")
