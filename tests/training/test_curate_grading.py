"""Is an answer right? Adversarial answers for the program, unclear verdicts of the grader model."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.support.fake_models import Json, fake_models, openai_reply
from training.curate.schema import Question, reference_of
from training.endpoints.cache import CallCache
from training.endpoints.client import Endpoint, Patience, calling
from training.grading.model import GRADER_SAMPLING, Grader, UnparsableVerdict, parse_verdict
from training.grading.program import check

QUESTION = Question("q", "Prove it.", "own", solution="By induction.", answer="all of them")


def graded(reference: str, answer: str) -> bool | None:
    verdicts = check(reference, [answer])
    return None if verdicts is None else verdicts[0].correct


@pytest.mark.parametrize(
    ("reference", "answer", "correct"),
    [
        ("42", "The answer is 42.", True),
        ("42", "So \\boxed{42}", True),
        ("42", "**Final Answer:** $42$", True),
        ("42", "Final Answer: 42", True),
        ("42", "First 42, no: the answer is 43.", False),
        ("42", "\\boxed{42} is wrong, so \\boxed{7}", False),
        ("25", "5", False),
        ("5", "25", False),
        ("25", "2 5", False),
        ("025", "25", True),
        ("1,234", "\\boxed{1234}", True),
        ("1/2", "0.5", True),
        ("\\frac{1}{2}", "\\boxed{\\frac{2}{4}}", True),
        ("0.5", "5", False),
        ("-3", "3", False),
        ("4.5e33", "$\\boxed{4.5 \\times 10^{33}}$", True),
        ("4.5e33", "\\boxed{4.5e32}", False),
        ("$10-4 n$", "\\boxed{-4n+10}", True),
        ("$10-4 n$", "\\boxed{10+4n}", False),
        ("$(45,2),(-10,-9)$", "$(-10,-9), (45,2)$", True),
        ("$35,36,37$", "35, 36, 37", True),
        ("$35,36,37$", "37", False),
        ("C", "The answer is (C).", True),
        ("C", "The answer is B.", False),
        ("C", "I can't tell.", False),
        ("42", "", False),
    ],
)
def test_mathematics_is_compared_as_such(reference: str, answer: str, correct: bool) -> None:
    assert graded(reference, answer) is correct


@pytest.mark.parametrize(
    "reference", ["all real numbers", "Yes", "No", "\\text{even}", "J: 4 hours, S: 14 hours"]
)
def test_what_can_not_be_compared_is_no_verdict(reference: str) -> None:
    assert graded(reference, reference) is None


@pytest.mark.parametrize(
    ("text", "verdict"),
    [
        ("It matches.\nYes", True),
        ("It matches.\n\n**No**\n", False),
        ("yes.", True),
        ("Yes, because it matches", None),
        ("No\nmore words", None),
        ("The answer is Yes", None),
        ("Yes/No", None),
        ("", None),
    ],
)
def test_only_a_last_line_of_yes_or_no_is_a_verdict(text: str, verdict: bool | None) -> None:
    assert parse_verdict(text) is verdict


async def grade(folder: Path, said: list[str]) -> tuple[bool, list[Json]]:
    texts = list(said)
    with (
        fake_models(lambda _: openai_reply(texts.pop(0))) as models,
        CallCache(folder / "calls.jsonl") as cache,
    ):
        async with calling(cache, Patience(5, 5), concurrency=1) as caller:
            grader = Grader(Endpoint("judge", models.url), GRADER_SAMPLING)
            verdict = await grader.grade(caller, QUESTION.question, reference_of(QUESTION) or "", "Trust me.")
    assert verdict.graded_by == "model:judge"
    return verdict.correct, models.requests


async def test_the_grader_sees_problem_attempt_and_reference(tmp_path: Path) -> None:
    correct, requests = await grade(tmp_path, ["It holds.\nYes"])
    prompt = requests[0]["messages"][0]["content"]
    assert correct and "## Problem\nProve it.\n" in prompt and "## Attempt\nTrust me.\n" in prompt
    assert "## Correct answer\nBy induction.\n\nall of them\n" in prompt


async def test_an_unclear_verdict_is_asked_again_and_never_guessed(tmp_path: Path) -> None:
    correct, requests = await grade(tmp_path / "1", ["Well…", "It depends.", "Wrong.\nNo"])
    assert correct is False and len(requests) == 3
    with pytest.raises(UnparsableVerdict, match="3 verdicts without a last line of Yes or No: 'Maybe'"):
        await grade(tmp_path / "2", ["Maybe"] * 3)
