"""Is an answer right? math-verify where the reference is mathematics, a grader model where it is not."""

from __future__ import annotations

import logging
import re
from collections.abc import Sequence
from dataclasses import dataclass

from training.curate.answers import is_bare_formula, last_boxed, looks_checkable
from training.curate.schema import Question
from training.endpoints.client import Caller, Endpoint
from training.endpoints.wire import Sampling

GRADER_SAMPLING = Sampling(max_tokens=8192)
"""The API's own temperature: asked again, a grader should not repeat itself. s1: 8,192 tokens at most."""

_GRADER_ATTEMPTS = 3
_LAST_WORD = re.compile(r"\A\W*(yes|no)\W*\Z", re.IGNORECASE)
_FINAL_ANSWER = re.compile(r"(?:final\s+)?answer\s*(?:is\s*:?|:)\s*(.+)", re.IGNORECASE)
_E_NOTATION = re.compile(r"(?<![\w.])(\d+(?:\.\d+)?)[eE]\+?(-?\d+)(?!\w)")
_PROMPT = """\
You check an attempt at a problem against the correct answer.

- A number, an expression or a choice is right only if it equals the correct answer; its form does not matter.
- A proof or an explanation is right only if its reasoning holds from start to end.
- An attempt that gives no answer, or several that contradict each other, is not right.

## Problem
{problem}

## Attempt
{attempt}

## Correct answer
{reference}

Explain in short what decides. Then write Yes if the attempt is right, or No, alone on the last line."""


class UnparsableVerdict(ValueError):
    """The grader never ended with Yes or No."""


@dataclass(frozen=True, slots=True)
class Verdict:
    correct: bool
    graded_by: str


def reference_of(question: Question) -> str | None:
    """What the grader model compares with: the whole solution, with the short answer after it."""
    parts = dict.fromkeys(part for part in (question.solution, question.answer) if part)
    return "\n\n".join(parts) or None


def check(question: Question, answers: Sequence[str]) -> list[Verdict] | None:
    """Verdicts by math-verify, or None where the question has no answer that it can compare.

    Must run in the main thread: math-verify limits its time with an alarm signal.
    """
    if question.answer is None or not looks_checkable(question.answer):
        return None
    from math_verify import parse, verify

    # It reports each expression that it can't read; that is an answer that is not right, not an event.
    logging.getLogger("math_verify").setLevel(logging.CRITICAL)
    reference = question.answer if "$" in question.answer else f"${question.answer}$"
    target = parse(_with_powers(reference))
    boxed = question.answer.replace("$", "")
    if not target or not verify(target, parse(_with_powers(f"$\\boxed{{{boxed}}}$"))):
        # What isn't equal to itself was not understood.
        return None
    parsed = [parse(_with_powers(_stated(answer))) for answer in answers]
    return [Verdict(bool(verify(target, result)), "math-verify") for result in parsed]


def _with_powers(text: str) -> str:
    """`4.5e33` is a number, not 4.5 times Euler's number times 33."""
    return _E_NOTATION.sub(r"\1 \\times 10^{\2}", text)


def _stated(answer: str) -> str:
    """The part of an answer that states the result, boxed, so that no number before it is taken for it."""
    boxed = last_boxed(answer)
    if boxed is None:
        lines = [line for line in answer.splitlines() if line.strip()]
        found = [match[1] for line in lines if (match := _FINAL_ANSWER.search(line))]
        if not found:
            return f"$\\boxed{{{answer.strip()}}}$" if is_bare_formula(answer) else answer
        boxed = found[-1].strip().strip("*").strip().rstrip(".").strip("$").strip()
    return f"$\\boxed{{{boxed}}}$"


def parse_verdict(text: str) -> bool | None:
    """The last line's Yes or No; None for anything else."""
    lines = [line for line in text.splitlines() if line.strip()]
    found = _LAST_WORD.match(lines[-1]) if lines else None
    return None if found is None else found[1].lower() == "yes"


@dataclass(frozen=True, slots=True)
class Grader:
    """A model that grades; what it says unclearly it is asked again, as often as _GRADER_ATTEMPTS."""

    endpoint: Endpoint
    sampling: Sampling

    async def grade(self, caller: Caller, question: Question, reference: str, answer: str) -> Verdict:
        """Raises UnparsableVerdict, and what `Caller.ask` raises."""
        prompt = _PROMPT.format(problem=question.question, attempt=answer, reference=reference)
        said = ""
        for attempt in range(_GRADER_ATTEMPTS):
            said = (await caller.ask(self.endpoint, prompt, self.sampling, attempt=attempt)).answer
            correct = parse_verdict(said)
            if correct is not None:
                return Verdict(correct, f"model:{self.endpoint.model}")
        raise UnparsableVerdict(
            f"{_GRADER_ATTEMPTS} verdicts without a last line of Yes or No: {said.strip()[-80:]!r}"
        )
