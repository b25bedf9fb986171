"""Which steps of a demo trace are right. Pure: the question's own arithmetic says so.

A step is a line of thinking, and the answer is the last one. It is right if what it arrives at is the true
state at its place: after a mistake lines are wrong, whatever their own arithmetic, until a check repairs it.
"""

import re
from dataclasses import dataclass

from training.tiny.tasks import CHUNK_LABELS, Question, apply_chunk

_CHECK = re.compile(rf"(?:Wait,|Review:) check at (?P<label>[{CHUNK_LABELS}]) .*?(?P<result>\S+)")
_QUICK = re.compile(rf"(?P<label>[{CHUNK_LABELS}]) \S+ .* = (?P<result>\S+)")
_CONCLUSION = re.compile(r"So (?P<result>\S+)\.")
_NOTHING_LEFT = "all checked."


@dataclass(frozen=True, slots=True)
class LabelledStep:
    text: str
    right: bool


def labelled_steps(question: Question, thinking: str, answer: str | None = None) -> list[LabelledStep]:
    """Every line, then the answer if there is one. A line that no trace has is wrong."""
    after = states_after(question)
    steps: list[LabelledStep] = []
    for line in thinking.splitlines():
        if line.strip():
            before = steps[-1].right if steps else True
            steps.append(LabelledStep(line.strip(), _is_right(line.strip(), after, question.truth, before)))
    if answer is not None:
        steps.append(LabelledStep(answer, answer == question.truth))
    return steps


def states_after(question: Question) -> dict[str, str]:
    """The true state after each chunk, by its label."""
    states, state = {}, question.start
    for label, chunk in zip(CHUNK_LABELS, question.chunks, strict=False):
        state = apply_chunk(question.family, state, chunk)
        states[label] = state
    return states


def _is_right(line: str, after: dict[str, str], truth: str, before: bool) -> bool:
    if line.endswith(_NOTHING_LEFT):
        return before
    if found := _CONCLUSION.fullmatch(line):
        return found["result"] == truth
    found = _CHECK.fullmatch(line) or _QUICK.fullmatch(line)
    return found is not None and after.get(found["label"]) == found["result"]
