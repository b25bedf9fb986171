"""Data for conditional control: prompts that ask for a length, and traces that keep to it.

Pure functions from (question, thinking) to the same pair with a condition in it. Prompts and rules:
"s1: Simple test-time scaling", section 5.2, figure 10 and tables 12 to 14. The scripts that built the paper's
data were not published; where its text leaves a choice, the function says which one was made.
"""

import re
from typing import Literal, NamedTuple

Control = Literal["none", "tokens", "steps", "class"]

SHORT_PROMPT = (
    "Answer after a short amount of thinking. Do not spend excessive time double-checking your work."
)
LONG_PROMPT = (
    "Answer after a long amount of thinking. If you feel like you are finished early, spend the extra time "
    "trying to double-check your work until you are absolutely sure that you have the correct answer."
)
_STEP_BREAK = re.compile(r"\n[ \t]*\n\s*")


class Conditioned(NamedTuple):
    """A sample under a condition; ``limit`` is the number that stands in its prompt, if one does."""

    question: str
    thinking: str
    limit: int | None


def next_power_of_two(count: int) -> int:
    """The smallest power of two that is not less than ``count``: 1025 to 2048 give 2048.

    Raises:
        ValueError: ``count`` is less than 1.
    """
    if count < 1:
        raise ValueError(f"count must be >= 1. Given: {count}")
    return 1 << (count - 1).bit_length()


def token_conditional(question: str, thinking: str, num_thinking_tokens: int) -> Conditioned:
    """The prompt names the trace's length in tokens, rounded up to a power of two; the trace stays."""
    limit = next_power_of_two(num_thinking_tokens)
    return Conditioned(with_condition(question, f"Think for up to {limit} tokens."), thinking, limit)


def step_conditional(question: str, thinking: str) -> Conditioned:
    """Paragraphs become steps, each under a header that counts down; the prompt names their number.

    The number in the prompt is rounded up to a power of two. The headers count the steps that there are, so
    that the last one is always ``1 steps left``: the paper's reason for counting down. (Counting from the
    rounded number instead would end anywhere.)
    """
    steps = split_steps(thinking)
    limit = next_power_of_two(len(steps))
    headed = (f"<|im_start|>{len(steps) - at} steps left\n{step}" for at, step in enumerate(steps))
    return Conditioned(with_condition(question, f"Think for up to {limit} steps."), "\n".join(headed), limit)


def class_conditional(
    question: str, thinking: str, num_thinking_tokens: int, *, long_from_tokens: int
) -> Conditioned:
    """The prompt asks for short or for long thinking, by the trace's length; the trace stays.

    The paper uses these two prompts on its unconditioned model only. Training on them is ours;
    ``long_from_tokens``, usually the median of the data, divides the two classes.
    """
    wish = LONG_PROMPT if num_thinking_tokens >= long_from_tokens else SHORT_PROMPT
    return Conditioned(with_condition(question, wish), thinking, None)


def with_condition(question: str, condition: str) -> str:
    return f"{question.rstrip()}\n\n{condition}"


def split_steps(thinking: str) -> list[str]:
    """The paragraphs of a trace; blank ones do not count.

    Raises:
        ValueError: the trace is empty.
    """
    steps = [step.strip() for step in _STEP_BREAK.split(thinking.strip()) if step.strip()]
    if not steps:
        raise ValueError("thinking must hold at least one step. Given: an empty trace")
    return steps
