from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from server.budget.spec import (
    BUDGET_LIMITS,
    BudgetError,
    ThinkingBudget,
    minimum_room,
    resolve,
)


@pytest.mark.parametrize("field", BUDGET_LIMITS)
@pytest.mark.parametrize("value", [-1, 1.0, 1.5, "5", True, [3], {"a": 1}, 10**18])
def test_bad_values_name_field_limit_and_value(field: str, value: Any) -> None:
    with pytest.raises(BudgetError) as caught:
        ThinkingBudget.from_fields({field: value})
    assert caught.value.param == field
    assert f"`{field}`" in str(caught.value)
    assert repr(value) in str(caught.value)
    assert any(str(number) in str(caught.value) for number in BUDGET_LIMITS[field])


@pytest.mark.parametrize(
    ("value", "limit"),
    [
        ("", "non-empty"),
        ([], "non-empty"),
        (["Wait", ""], "non-empty"),
        (["Wait", 3], "array"),
        (3, "string"),
        ({"a": "b"}, "string"),
        (["x"] * 9, "at most 8"),
        ("x" * 201, "at most 200"),
    ],
)
def test_bad_wait_texts(value: Any, limit: str) -> None:
    with pytest.raises(BudgetError, match=limit) as caught:
        ThinkingBudget.from_fields({"wait_text": value, "num_waits": 1})
    assert caught.value.param == "wait_text"
    assert "Given" in str(caught.value)


@pytest.mark.parametrize(
    "fields", [{}, {"num_waits": 0}, {"min_thinking_tokens": 0, "max_thinking_tokens": 9}]
)
def test_a_wait_text_without_waits_is_refused(fields: dict[str, int]) -> None:
    with pytest.raises(BudgetError, match="num_waits") as caught:
        ThinkingBudget.from_fields({"wait_text": "Hmm", **fields})
    assert caught.value.param == "wait_text"


@pytest.mark.parametrize("value", [1, 7])
def test_a_loop_guard_too_short_to_hold_a_loop_is_refused(value: int) -> None:
    with pytest.raises(BudgetError, match=f">= 8. Given: {value}"):
        ThinkingBudget.from_fields({"loop_guard_tokens": value})


def test_wait_texts_travel_as_they_came() -> None:
    one = ThinkingBudget.from_fields({"wait_text": "Hmm", "num_waits": 1})
    two = ThinkingBudget.from_fields({"wait_text": ["Wait", "Hmm"], "min_thinking_tokens": 1})
    assert one.requested()["wait_text"] == "Hmm"
    assert two.requested()["wait_text"] == ["Wait", "Hmm"]


@pytest.mark.parametrize("field", ["min_thinking_tokens", "landing_tokens"])
def test_more_than_the_maximum_is_refused(field: str) -> None:
    with pytest.raises(BudgetError, match=rf"`{field}` must be <= max_thinking_tokens \(64\). Given: 65"):
        ThinkingBudget.from_fields({"max_thinking_tokens": 64, field: 65})


def test_absent_and_null_fields_are_no_budget() -> None:
    assert not ThinkingBudget.from_fields({"temperature": 1, "num_waits": None}).is_set


def test_requested_holds_what_was_given() -> None:
    given_fields = {"max_thinking_tokens": 0, "num_waits": 2}
    assert ThinkingBudget.from_fields({**given_fields, "model": "m"}).requested() == given_fields


@pytest.mark.parametrize(
    ("room", "asked", "effective", "clamped"),
    [
        (4000, 1000, 1000, ()),
        (4000, 4000, 4000 - 6 - 512, ("max_completion_tokens",)),
        (400, 400, 400 - 6 - 100, ("max_completion_tokens",)),
        (7, 5, 0, ("max_completion_tokens",)),
    ],
)
def test_the_answer_reserve_lowers_the_maximum(
    room: int, asked: int, effective: int, clamped: tuple[str, ...]
) -> None:
    fitted = resolve(
        ThinkingBudget(max_thinking_tokens=asked),
        room=room,
        limited_by="max_completion_tokens",
        opening_tokens=0,
        exit_tokens=6,
    )
    assert (fitted.max, fitted.clamped_by) == (effective, clamped)


@pytest.mark.parametrize(("minimum", "landing"), [(0, 50), (50, 50), (90, 10), (100, 0)])
def test_a_landing_keeps_the_minimum(minimum: int, landing: int) -> None:
    fitted = resolve(
        ThinkingBudget(max_thinking_tokens=100, min_thinking_tokens=minimum, landing_tokens=50),
        room=4000,
        limited_by="context",
        opening_tokens=0,
        exit_tokens=6,
    )
    assert (fitted.max, fitted.min, fitted.landing) == (100, minimum, landing)


def test_a_reserve_that_cannot_fit_is_refused() -> None:
    with pytest.raises(BudgetError, match="`answer_reserve_tokens` must be <= 94.*Given: 95"):
        resolve(
            ThinkingBudget(answer_reserve_tokens=95),
            room=100,
            limited_by="max_completion_tokens",
            opening_tokens=0,
            exit_tokens=6,
        )


@given(
    st.integers(0, 5000),
    st.none() | st.integers(0, 6000),
    st.integers(0, 6000),
    st.none() | st.integers(1, 600),
    st.integers(0, 3),
    st.integers(1, 9),
)
def test_what_is_effective_always_fits(
    room: int, maximum: int | None, minimum: int, reserve: int | None, opening: int, exit_tokens: int
) -> None:
    budget = ThinkingBudget(
        max_thinking_tokens=maximum, min_thinking_tokens=minimum, answer_reserve_tokens=reserve
    )
    needed = minimum_room(opening_tokens=opening, exit_tokens=exit_tokens)
    try:
        fitted = resolve(
            budget, room=room, limited_by="context", opening_tokens=opening, exit_tokens=exit_tokens
        )
    except BudgetError:
        assert room < needed or (reserve or 0) > room - needed + 1
        return
    assert 0 <= fitted.min <= fitted.max
    assert opening + fitted.max + exit_tokens + (reserve or 1) <= room
    assert maximum is None or fitted.max <= maximum
    lowered = (maximum is not None and fitted.max < maximum) or fitted.min < minimum
    assert bool(fitted.clamped_by) == (
        lowered and (maximum is None or fitted.max < maximum or minimum > fitted.max)
    )
