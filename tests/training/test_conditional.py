"""Conditional control: what prompts ask for and what traces then look like."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from training.conditional import (
    LONG_PROMPT,
    SHORT_PROMPT,
    class_conditional,
    next_power_of_two,
    split_steps,
    step_conditional,
    token_conditional,
)


@pytest.mark.parametrize(
    ("count", "limit"), [(1, 1), (2, 2), (3, 4), (1024, 1024), (1025, 2048), (2048, 2048), (2049, 4096)]
)
def test_budgets_are_rounded_up_to_powers_of_two(count: int, limit: int) -> None:
    assert next_power_of_two(count) == limit


@given(st.integers(min_value=1, max_value=1 << 40))
def test_a_power_of_two_at_least_as_large_and_less_than_twice(count: int) -> None:
    limit = next_power_of_two(count)
    assert limit & (limit - 1) == 0 and count <= limit < 2 * count + (count == 1)


@pytest.mark.parametrize("count", [0, -3])
def test_nothing_has_no_power_of_two(count: int) -> None:
    with pytest.raises(ValueError, match=f"Given: {count}"):
        next_power_of_two(count)


def test_the_token_prompt_stands_after_a_blank_line_and_the_trace_is_untouched() -> None:
    sample = token_conditional("How many?\n", "One.\n\nTwo.", 1500)
    assert sample == ("How many?\n\nThink for up to 2048 tokens.", "One.\n\nTwo.", 2048)


def test_steps_count_down_to_one_and_the_prompt_rounds_them_up() -> None:
    sample = step_conditional("How many?", "One.\n\nTwo,\nstill two.\n \n\nThree.\n")
    assert sample.question == "How many?\n\nThink for up to 4 steps."
    assert sample.thinking == (
        "<|im_start|>3 steps left\nOne.\n<|im_start|>2 steps left\nTwo,\nstill two.\n"
        "<|im_start|>1 steps left\nThree."
    )
    assert sample.limit == 4


@given(st.lists(st.text("ab ", min_size=1).filter(str.strip), min_size=1, max_size=80))
def test_every_paragraph_is_a_step_in_its_place(paragraphs: list[str]) -> None:
    sample = step_conditional("q", "\n\n".join(paragraphs))
    steps = sample.thinking.split("<|im_start|>")[1:]
    assert [step.split(" steps left\n")[0] for step in steps] == [
        str(left) for left in range(len(paragraphs), 0, -1)
    ]
    assert [step.split("\n", 1)[1].strip() for step in steps] == [text.strip() for text in paragraphs]
    assert sample.limit is not None and sample.limit >= len(paragraphs)


def test_an_empty_trace_has_no_steps() -> None:
    with pytest.raises(ValueError, match="empty trace"):
        split_steps(" \n\n ")


@pytest.mark.parametrize(("tokens", "wish"), [(99, SHORT_PROMPT), (100, LONG_PROMPT), (101, LONG_PROMPT)])
def test_classes_divide_at_the_given_length(tokens: int, wish: str) -> None:
    sample = class_conditional("q", "t", tokens, long_from_tokens=100)
    assert sample == (f"q\n\n{wish}", "t", None)
