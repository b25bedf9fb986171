"""What the demo model learns to think: a quick pass, then reviews.

The quick pass takes each chunk in one line, several steps at once, and that is where a small model errs.
A review recomputes the next unchecked chunk step by step, where it hardly errs, and redoes what follows
quickly. So waiting repairs mistakes that are the model's own.
"""

import random
from collections.abc import Sequence
from dataclasses import dataclass, field

from training.tiny.tasks import (
    CHUNK_LABELS,
    CUPS,
    Family,
    Question,
    apply_chunk,
    apply_step,
    chunk_text,
    step_text,
)

WAIT = "Wait,"


@dataclass(frozen=True, slots=True)
class Trace:
    """``answer`` is the one the thinking arrives at: with slips it may differ from the question's truth."""

    question: Question
    thinking: str
    answer: str
    num_waits: int


@dataclass(slots=True)
class TraceWriter:
    """Writes one trace; ``slip_rate`` is the share of quick lines that get a wrong result on purpose."""

    question: Question
    rng: random.Random
    slip_rate: float = 0.0
    text: str = ""
    num_checked: int = 0
    states_before: list[str] = field(default_factory=list)
    answer: str = ""

    def quick_pass(self) -> None:
        self._quick_lines(0, self.question.start)

    def review(self, connective: str = WAIT) -> None:
        if self.all_checked:
            self.text += f"{connective} all checked.\nSo {self.answer}.\n"
            return
        label, state = CHUNK_LABELS[self.num_checked], self.states_before[self.num_checked]
        self.text += f"{connective} check at {label} {state}"
        for step in self.question.chunks[self.num_checked]:
            state = apply_step(self.question.family, state, step)
            equals = "" if self.question.family == "letters" else " ="
            self.text += f"{step_text(self.question.family, step)}{equals} {state}"
        self.text += "\n"
        self.num_checked += 1
        self._quick_lines(self.num_checked, state)

    @property
    def all_checked(self) -> bool:
        return self.num_checked == len(self.question.chunks)

    def _quick_lines(self, first_chunk: int, state: str) -> None:
        del self.states_before[first_chunk:]
        family = self.question.family
        for index in range(first_chunk, len(self.question.chunks)):
            chunk = self.question.chunks[index]
            result = apply_chunk(family, state, chunk)
            if self.rng.random() < self.slip_rate:
                result = wrong_state(self.rng, family, result)
            self.states_before.append(state)
            self.text += f"{CHUNK_LABELS[index]} {state}{chunk_text(family, chunk)} = {result}\n"
            state = result
        self.answer = state
        self.text += f"So {state}.\n"


def write_trace(
    question: Question,
    rng: random.Random,
    slip_rate: float,
    num_reviews: int,
    connectives: Sequence[str] = (WAIT,),
    past_all_checked: bool = True,
) -> Trace:
    """A quick pass and up to ``num_reviews`` reviews; without ``past_all_checked`` it may say so once."""
    writer = TraceWriter(question, rng, slip_rate)
    writer.quick_pass()
    connective = rng.choice(connectives)
    num_waits = 0
    for _ in range(num_reviews):
        if writer.all_checked and not past_all_checked:
            break
        writer.review(connective)
        num_waits += 1
    return Trace(question, writer.text, writer.answer, num_waits)


def wrong_state(rng: random.Random, family: Family, right: str) -> str:
    """A plausible wrong result: another cup, another digit, or a count that is off by a little."""
    if family == "cups":
        return rng.choice([cup for cup in CUPS if cup != right])
    if family == "chain":
        return rng.choice([digit for digit in "0123456789" if digit != right])
    count = int(right)
    return str(max(0, count + rng.choice([-1, 1, 1, -1, 2]))) if count else "1"
