"""A model that judges what no program can compare."""

from __future__ import annotations

import re
from dataclasses import dataclass

from training.endpoints.client import Caller, Endpoint
from training.endpoints.wire import Sampling
from training.grading.program import Verdict
from training.grading.stated import stated

GRADER_SAMPLING = Sampling(max_tokens=8192)
"""The API's own temperature: asked again, a grader should not repeat itself. s1: 8,192 tokens at most."""

_GRADER_ATTEMPTS = 3
_LAST_WORD = re.compile(r"\A\W*(yes|no)\W*\Z", re.IGNORECASE)
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

    async def grade(self, caller: Caller, problem: str, reference: str, answer: str) -> Verdict:
        """Raises UnparsableVerdict, and what `Caller.ask` raises."""
        prompt = _PROMPT.format(problem=problem, attempt=answer, reference=reference)
        said = ""
        for attempt in range(_GRADER_ATTEMPTS):
            said = (await caller.ask(self.endpoint, prompt, self.sampling, attempt=attempt)).answer
            correct = parse_verdict(said)
            if correct is not None:
                said_by_attempt = stated(answer)
                by = f"model:{self.endpoint.model}"
                return Verdict(correct, by, said_by_attempt.text, said_by_attempt.how)
        raise UnparsableVerdict(
            f"{_GRADER_ATTEMPTS} verdicts without a last line of Yes or No: {said.strip()[-80:]!r}"
        )
