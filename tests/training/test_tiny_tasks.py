"""The questions' truth against a computation that shares no code with it, and what is held out."""

import random
import re

import pytest

from training.evaluate.suite import fingerprint, held_out_questions
from training.tiny.documents import BaseMixture, base_documents
from training.tiny.tasks import (
    FAMILIES,
    MAX_CHUNKS,
    Family,
    is_held_out,
    letters_question,
    make_question,
    make_training_question,
)
from training.tiny.tokenizer import build_tokenizer
from training.tiny.words import HELD_OUT_WORDS, training_words

MIXTURE = BaseMixture(
    drill_share=0.1,
    step_drill_share=0.05,
    quick_share=0.2,
    long_share=0.02,
    cut_share=0.3,
    empty_cut_share=0.1,
    slip_rate=0.25,
    max_reviews=6,
)


def independent_answer(text: str) -> str:
    """Reads the question as a person would."""
    if text.startswith("How many"):
        match = re.fullmatch(r"How many (\w)(?:'s)? (?:are )?in (.*)\?", text)
        assert match is not None
        return str(match[2].count(match[1]))
    if text.startswith("The ball"):
        ball = text.removeprefix("The ball is under ")[0]
        for left, right in re.findall(r"\b([PQRS])([PQRS])\b", text):
            ball = right if ball == left else left if ball == right else ball
        return ball
    number = int(re.findall(r"Start at (\d)", text)[0])
    for symbol, operand in re.findall(r" ([-+*])(\d)", text):
        number = {"+": number.__add__, "-": number.__sub__, "*": number.__mul__}[symbol](int(operand))
    return str(number % 10)


@pytest.mark.parametrize("family", FAMILIES)
def test_truth_agrees_with_an_independent_reading_of_the_text(family: Family) -> None:
    rng = random.Random(3)
    for _ in range(500):
        question = make_question(rng, family)
        assert question.truth == independent_answer(question.text), question.text


def test_readme_question() -> None:
    question = letters_question("r", ["raspberry"])
    assert (question.text, question.truth) == ("How many r in raspberry?", "3")
    assert is_held_out(question)


def test_another_phrasing_of_a_held_out_question_is_held_out_too() -> None:
    rng = random.Random(4)
    questions = [make_question(rng, "letters") for _ in range(3000)]
    rephrased = [question for question in questions if question.text != question.key]
    assert any(is_held_out(question) for question in rephrased)
    for question in rephrased:
        plain = letters_question(question.key.split()[2], question.key[:-1].split()[4:])
        assert is_held_out(plain) == is_held_out(question)


def test_about_one_question_in_twenty_is_held_out() -> None:
    rng = random.Random(5)
    held_out = sum(is_held_out(make_question(rng, "chain", 3)) for _ in range(4000))
    assert 150 < held_out < 250


def test_no_training_word_is_held_out() -> None:
    assert len(training_words()) > 200
    assert not HELD_OUT_WORDS.intersection(training_words())


def test_base_documents_hold_no_suite_question_and_no_held_out_word() -> None:
    suite = {question.text for question in held_out_questions()}
    tokenizer = build_tokenizer()
    seen = 0
    for document in base_documents(random.Random(6), 3000, MIXTURE):
        text = tokenizer.decode(document.ids, skip_special_tokens=False)
        assert not any(word in text for word in HELD_OUT_WORDS)
        if text.startswith("Question: "):
            seen += 1
            assert text.removeprefix("Question: ").partition("\n")[0] not in suite
    assert seen > 2000


def test_training_questions_are_never_held_out() -> None:
    rng = random.Random(7)
    assert not any(is_held_out(make_training_question(rng, "cups", 1)) for _ in range(2000))


def test_suite_is_fixed_distinct_held_out_and_balanced() -> None:
    questions = held_out_questions()
    assert len({question.text for question in questions}) == len(questions) == 400
    assert all(is_held_out(question) for question in questions)
    for family in FAMILIES:
        of_family = [question for question in questions if question.family == family]
        assert len(of_family) in (133, 134)
        assert {len(question.chunks) for question in of_family} == set(range(1, MAX_CHUNKS[family] + 1))
    assert held_out_questions(30) == questions[:30]
    assert fingerprint(questions) == fingerprint(held_out_questions())
