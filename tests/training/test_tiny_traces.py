"""Traces end with the answer they state, and reviews repair slips."""

import random

import pytest

from training.tiny.documents import plain_document
from training.tiny.tasks import FAMILIES, Family, letters_question, make_training_question
from training.tiny.tokenizer import build_tokenizer, encode, token_id
from training.tiny.traces import TraceWriter, write_trace, wrong_state


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("num_reviews", [0, 1, 3, 8])
def test_thinking_ends_with_the_stated_answer(family: Family, num_reviews: int) -> None:
    rng = random.Random(num_reviews)
    for _ in range(100):
        trace = write_trace(make_training_question(rng, family), rng, 0.3, num_reviews)
        assert trace.thinking.endswith(f"\nSo {trace.answer}.\n")
        assert trace.thinking.count("Wait,") == trace.num_waits == num_reviews


@pytest.mark.parametrize("family", FAMILIES)
def test_without_slips_the_answer_is_the_truth(family: Family) -> None:
    rng = random.Random(1)
    for _ in range(100):
        trace = write_trace(make_training_question(rng, family), rng, 0.0, rng.randint(0, 6))
        assert trace.answer == trace.question.truth


@pytest.mark.parametrize("family", FAMILIES)
def test_once_every_chunk_is_checked_the_answer_is_the_truth_whatever_slipped(family: Family) -> None:
    rng = random.Random(2)
    for _ in range(100):
        question = make_training_question(rng, family)
        writer = TraceWriter(question, rng, slip_rate=1.0)
        writer.quick_pass()
        for _ in question.chunks:
            assert not writer.all_checked
            writer.review()
        assert writer.all_checked
        assert writer.answer == question.truth


def test_a_check_spells_the_word() -> None:
    trace = write_trace(letters_question("r", ["arrow"]), random.Random(0), 0.0, 2)
    assert trace.thinking == (
        "a 0 arrow = 2\nSo 2.\nWait, check at a 0 a 0 r 1 r 2 o 2 w 2\nSo 2.\nWait, all checked.\nSo 2.\n"
    )


def test_wrong_states_are_wrong() -> None:
    rng = random.Random(3)
    for family, states in (("chain", "0123456789"), ("cups", "PQRS"), ("letters", "0123456")):
        for state in states:
            assert all(wrong_state(rng, family, state) != state for _ in range(50))  # type: ignore[arg-type]


def test_a_finished_document_counts_everything_after_the_prompt() -> None:
    trace = write_trace(letters_question("r", ["arrow"]), random.Random(0), 0.0, 0)
    document = plain_document(trace, cut_at=None)
    prompt = "Question: How many r in arrow?\n"
    completion = f"{trace.thinking}answer\n2<|endoftext|>"
    assert document.ids == encode(prompt + completion)
    assert document.counts == [False] * len(encode(prompt)) + [True] * len(encode(completion))


def test_the_model_is_not_taught_to_go_on_by_itself_once_all_is_checked() -> None:
    trace = write_trace(letters_question("r", ["arrow"]), random.Random(0), 0.0, 3)
    document = plain_document(trace, cut_at=None)
    waits = [i for i, token in enumerate(document.ids) if token == token_id("Wait")]
    assert [document.counts[i] for i in waits] == [True, False, False]
    begin = document.counts.index(True)
    skipped = [document.ids[i] for i in range(begin, len(document.ids)) if not document.counts[i]]
    assert skipped == [token_id("Wait")] * 2


@pytest.mark.parametrize(
    ("cut_at", "thinking"),
    [(0, ""), (3, "a 0 \n"), (len(encode("a 0 arrow = 2\n")), "a 0 arrow = 2\n\n")],
)
def test_a_cut_document_is_what_a_server_forces_in_plain_text(cut_at: int, thinking: str) -> None:
    trace = write_trace(letters_question("r", ["arrow"]), random.Random(0), 0.0, 0)
    document = plain_document(trace, cut_at)
    prompt = "Question: How many r in arrow?\n"
    expected = f"{prompt}{thinking}answer\nFinal Answer: 2<|endoftext|>"
    assert build_tokenizer().decode(document.ids, skip_special_tokens=False) == expected
    assert document.ids == encode(expected)
    counted = [token for token, counts in zip(document.ids, document.counts, strict=True) if counts]
    assert counted == encode(trace.thinking)[:cut_at] + encode(" 2<|endoftext|>")
