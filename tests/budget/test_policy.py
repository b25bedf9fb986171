"""The policy ladder: defaults, floors, caps, strictness, and what each rung is named."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from server.budget.effort import DEFAULT_EFFORTS, Share
from server.budget.policy import (
    FLOOR_FIELDS,
    INTEGER_FIELDS,
    MAXIMUM,
    WITHIN_MAXIMUM,
    Applied,
    Clamp,
    Policy,
    Rung,
    apply_policy,
)
from server.budget.spec import BUDGET_LIMITS, BudgetError, ThinkingBudget

MIN, WAITS = "min_thinking_tokens", "num_waits"
LIMIT_OF = ", the policy's limit for this "


def rung(**fields: Any) -> Rung:
    return Rung.model_validate(fields)


def cap(**fields: int) -> Rung:
    return rung(cap=fields)


def default(**fields: Any) -> Rung:
    return rung(default=fields)


def asked(**fields: Any) -> ThinkingBudget:
    return ThinkingBudget.from_fields(fields)


def applied(budget: ThinkingBudget, *rungs: Rung | None, **more: Any) -> Applied:
    server, model, key = (*rungs, None, None, None)[:3]
    return apply_policy(budget, server=server or Rung(), model=model, key=key, **more)


# -- defaults -----------------------------------------------------------------------------------------


def test_without_limits_nothing_changes() -> None:
    for budget in (ThinkingBudget(), asked(max_thinking_tokens=5), asked(num_waits=3)):
        assert applied(budget, Rung(), Rung(), Rung()) == Applied(budget)


def test_the_most_specific_default_wins_and_is_no_clamp() -> None:
    server = default(max_thinking_tokens=100, num_waits=1)
    model, key = default(max_thinking_tokens=200), default(num_waits=3)
    got = applied(ThinkingBudget(), server, model, key)
    assert got == Applied(asked(max_thinking_tokens=200, num_waits=3))
    assert applied(asked(num_waits=0), server, model, key).budget.num_waits == 0


def test_a_default_gives_way_to_what_was_asked() -> None:
    assert applied(asked(min_thinking_tokens=500), default(max_thinking_tokens=100)).budget == asked(
        min_thinking_tokens=500, max_thinking_tokens=500
    )
    got = applied(asked(max_thinking_tokens=50), default(min_thinking_tokens=80, landing_tokens=70))
    assert got == Applied(asked(max_thinking_tokens=50, min_thinking_tokens=50, landing_tokens=50))


def test_no_default_sets_a_maximum_on_an_explicitly_unlimited_request() -> None:
    assert applied(ThinkingBudget(), default(max_thinking_tokens=100), unlimited=True) == Applied(
        ThinkingBudget()
    )


# -- caps and floors ----------------------------------------------------------------------------------


@pytest.mark.parametrize("field", INTEGER_FIELDS)
def test_every_field_has_a_cap(field: str) -> None:
    assert BUDGET_LIMITS[field][0] <= 10
    got = applied(asked(**{field: 15}), cap(**{field: 10}))
    assert getattr(got.budget, field) == 10
    assert got.clamps == (Clamp(field, 15, 10, "policy:server"),)
    assert applied(asked(**{field: 10}), cap(**{field: 10})).clamps == ()


def test_a_cap_on_the_time_holds_for_requests_that_name_none() -> None:
    got = applied(asked(num_waits=1), cap(max_thinking_ms=86_400_000))
    assert got == Applied(asked(num_waits=1, max_thinking_ms=86_400_000))


def test_the_lowest_cap_holds_and_names_its_rung() -> None:
    budget = asked(max_thinking_tokens=1000)
    for limits, rung_name, left in (
        ((100, 200, 300), "policy:server", 100),
        ((300, 100, 200), "policy:model", 100),
        ((300, 200, 100), "policy:key", 100),
        ((100, 100, 100), "policy:server", 100),
    ):
        got = applied(budget, *(cap(max_thinking_tokens=limit) for limit in limits))
        assert got.budget.max_thinking_tokens == left
        assert got.clamped_by == (rung_name,)


def test_each_field_names_its_own_rung_the_broadest_first() -> None:
    got = applied(
        asked(max_thinking_tokens=1000, num_waits=9), cap(num_waits=5), None, cap(max_thinking_tokens=10)
    )
    assert got.budget == asked(max_thinking_tokens=10, num_waits=5)
    assert got.clamped_by == ("policy:server", "policy:key")


def test_a_cap_on_the_maximum_holds_without_a_budget_and_takes_nothing() -> None:
    got = applied(ThinkingBudget(), cap(max_thinking_tokens=10, num_waits=1, answer_reserve_tokens=5))
    assert got == Applied(asked(max_thinking_tokens=10))
    got = applied(ThinkingBudget(), cap(max_thinking_tokens=10), unlimited=True)
    assert got == Applied(
        asked(max_thinking_tokens=10), (Clamp("max_thinking_tokens", -1, 10, "policy:server"),)
    )


def test_limits_of_a_key_may_be_kept_in_several_places() -> None:
    keys = (rung(default={MAXIMUM: 9}, cap={WAITS: 2}), cap(max_thinking_tokens=5))
    got = apply_policy(asked(num_waits=3), server=Rung(), key=keys)
    assert got.budget == asked(max_thinking_tokens=5, num_waits=2)
    assert got.clamped_by == ("policy:key",)


def test_a_default_is_capped_silently() -> None:
    got = applied(ThinkingBudget(), default(max_thinking_tokens=500), None, cap(max_thinking_tokens=10))
    assert got == Applied(asked(max_thinking_tokens=10))


@pytest.mark.parametrize("field", WITHIN_MAXIMUM)
def test_what_the_maximum_bounds_is_lowered_with_it(field: str) -> None:
    got = applied(asked(**{field: 80}), None, cap(max_thinking_tokens=10))
    assert got.budget == asked(**{field: 10, "max_thinking_tokens": 10})
    assert got.clamped_by == ("policy:model",)


def test_a_floor_raises_the_minimum_and_the_maximum_wins() -> None:
    floor = rung(floor={MIN: 50})
    assert applied(ThinkingBudget(), floor) == Applied(asked(min_thinking_tokens=50))
    got = applied(asked(min_thinking_tokens=20), floor, rung(floor={MIN: 60}))
    assert got.budget == asked(min_thinking_tokens=60)
    assert got.clamped_by == ("policy:model",)
    assert applied(asked(max_thinking_tokens=0), floor).budget == asked(
        max_thinking_tokens=0, min_thinking_tokens=0
    )


# -- wait texts ---------------------------------------------------------------------------------------


def test_a_wait_text_by_default_is_for_requests_that_wait() -> None:
    server, model = default(wait_text="Hm"), default(wait_text=["Wait", "Hold on"])
    assert applied(ThinkingBudget(), server) == Applied(ThinkingBudget())
    assert applied(asked(num_waits=1), server).budget.wait_text == ("Hm",)
    assert applied(asked(min_thinking_tokens=1), server, model).budget.wait_text == ("Wait", "Hold on")
    assert applied(ThinkingBudget(), server, default(num_waits=2)).budget.wait_text == ("Hm",)
    own = asked(num_waits=1, wait_text="Mine")
    assert applied(own, server, model) == Applied(own)


def test_a_wait_text_goes_with_the_last_wait() -> None:
    got = applied(asked(num_waits=2, wait_text="Mine"), cap(num_waits=0))
    assert got.budget == asked(num_waits=0)
    assert got.clamped_by == ("policy:server",)


# -- strict -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("budget", "rungs", "more", "says"),
    [
        (
            {MAXIMUM: 9},
            (rung(strict=True, cap={MAXIMUM: 8}),),
            {},
            f"`max_thinking_tokens` must be <= 8{LIMIT_OF}server (policy:server). Given: 9",
        ),
        (
            {WAITS: 9},
            (rung(strict=True), cap(num_waits=8)),
            {},
            f"`num_waits` must be <= 8{LIMIT_OF}model (policy:model). Given: 9",
        ),
        (
            {MIN: 3},
            (Rung(), Rung(), rung(strict=True, floor={MIN: 8})),
            {},
            f"`min_thinking_tokens` must be >= 8{LIMIT_OF}key (policy:key). Given: 3",
        ),
        (
            {MIN: 9},
            (rung(strict=True, cap={MAXIMUM: 8}),),
            {},
            f"`min_thinking_tokens` must be <= 8{LIMIT_OF}server (policy:server). Given: 9",
        ),
        (
            {},
            (rung(strict=True, cap={MAXIMUM: 8}),),
            {"unlimited": True, "named": {MAXIMUM: "thinking_token_budget"}},
            f"`thinking_token_budget` must be <= 8{LIMIT_OF}server (policy:server). Given: -1",
        ),
    ],
)
def test_strict_refuses_naming_field_limit_value_and_rung(
    budget: dict[str, int], rungs: tuple[Rung, ...], more: dict[str, Any], says: str
) -> None:
    with pytest.raises(BudgetError) as caught:
        applied(asked(**budget), *rungs, **more)
    assert str(caught.value) == says
    assert f"`{caught.value.param}`" in says


def test_the_most_specific_word_on_strictness_counts() -> None:
    strict, lax = rung(strict=True, cap={WAITS: 1}), rung(strict=False)
    assert applied(asked(num_waits=5), strict, lax).budget.num_waits == 1
    with pytest.raises(BudgetError):
        applied(asked(num_waits=5), rung(strict=False, cap={WAITS: 1}), rung(strict=True))
    with pytest.raises(BudgetError):
        applied(asked(num_waits=5), strict, Rung(), Rung())


def test_what_an_effort_meant_is_clamped_even_then() -> None:
    got = applied(
        asked(max_thinking_tokens=9), rung(strict=True, cap={MAXIMUM: 8}), lenient=frozenset({MAXIMUM})
    )
    assert got.budget.max_thinking_tokens == 8
    assert got.clamped_by == ("policy:server",)


# -- always -------------------------------------------------------------------------------------------

# No integer of a loop guard from 1 to 7 is valid.
numbers = st.integers(8, 30)
fields_of = st.dictionaries(st.sampled_from(INTEGER_FIELDS), numbers, max_size=4)


@st.composite
def rungs(draw: st.DrawFn) -> Rung:
    caps = draw(fields_of)
    floors = {name: value for name, value in draw(fields_of).items() if name in FLOOR_FIELDS}
    floors = {name: min(value, caps.get(name, 30), caps.get(MAXIMUM, 30)) for name, value in floors.items()}
    return rung(cap=caps, floor=floors, strict=draw(st.none() | st.booleans()))


@st.composite
def budgets(draw: st.DrawFn) -> ThinkingBudget:
    fields = draw(fields_of)
    maximum = fields.get(MAXIMUM, 30)
    return asked(**{name: min(v, maximum) if name in WITHIN_MAXIMUM else v for name, v in fields.items()})


@given(budgets(), rungs(), st.none() | rungs(), st.none() | rungs(), st.booleans())
def test_what_is_left_is_within_all_limits(
    budget: ThinkingBudget, server: Rung, model: Rung | None, key: Rung | None, unlimited: bool
) -> None:
    unlimited = unlimited and budget.max_thinking_tokens is None
    ladder = [each for each in (server, model, key) if each is not None]
    said = [each.strict for each in ladder if each.strict is not None]
    lenient = frozenset(INTEGER_FIELDS)
    got = applied(budget, server, model, key, unlimited=unlimited, lenient=lenient)
    left = got.budget.requested()
    assert ThinkingBudget.from_fields(left) == got.budget
    for each in ladder:
        for name in INTEGER_FIELDS:
            limit = getattr(each.cap, name)
            assert limit is None or left.get(name, 0) <= limit
        if each.cap.max_thinking_tokens is not None:
            assert MAXIMUM in left
        for name in FLOOR_FIELDS:
            floor = getattr(each.floor, name)
            assert floor is None or left[name] >= min(floor, left.get(MAXIMUM, floor), *caps_of(ladder, name))
    changed = {name for name, value in budget.requested().items() if left[name] != value}
    assert changed <= {clamp.field for clamp in got.clamps}
    assert bool(got.clamps) == bool(got.clamped_by)
    strict = bool(said) and said[-1]
    if strict and got.clamps:
        with pytest.raises(BudgetError):
            applied(budget, server, model, key, unlimited=unlimited)
    else:
        assert applied(budget, server, model, key, unlimited=unlimited) == got
    # Once within the limits, a second passage changes nothing.
    assert applied(got.budget, server, model, key, lenient=lenient).budget == got.budget


def caps_of(ladder: list[Rung], name: str) -> list[int]:
    return [limit for each in ladder if (limit := getattr(each.cap, name)) is not None] or [30]


# -- the file's types ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("fields", "says"),
    [
        (
            {"default": {WAITS: 5}, "cap": {WAITS: 4}},
            r"default.num_waits must be <= cap.num_waits \(4\). Given: 5",
        ),
        (
            {"floor": {MIN: 5}, "cap": {MIN: 4}},
            "floor.min_thinking_tokens must be <= cap.min_thinking_tokens",
        ),
        ({"floor": {MIN: 5}, "default": {MIN: 4}}, "floor.min_thinking_tokens must be <= default.min"),
        ({"floor": {MIN: 5}, "cap": {MAXIMUM: 4}}, "floor.min_thinking_tokens must be <= cap.max_thinking"),
        (
            {"default": {MIN: 5, MAXIMUM: 4}},
            "default.min_thinking_tokens must be <= default.max_thinking_tokens",
        ),
        ({"cap": {MAXIMUM: -1}}, "greater than or equal to 0"),
        ({"cap": {MAXIMUM: 1.0}}, "valid integer"),
        ({"cap": {MAXIMUM: True}}, "valid integer"),
        ({"cap": {WAITS: 2000}}, "less than or equal to 1024"),
        ({"cap": {"max_thinking": 1}}, "Extra inputs"),
        ({"cap": {"loop_guard_tokens": 7}}, r"must be 0 \(off\) or >= 8"),
        ({"cap": {"wait_text": "Hm"}}, "Extra inputs"),
        ({"default": {"wait_text": ""}}, "must be a non-empty string or an array of them"),
        ({"default": {"wait_text": ["a"] * 9}}, "must have at most 8 strings"),
        ({"floor": {WAITS: 1}}, "Extra inputs"),
        ({"caps": {}}, "Extra inputs"),
        ({"strict": "yes"}, "valid boolean"),
    ],
)
def test_a_rung_that_contradicts_itself(fields: dict[str, Any], says: str) -> None:
    with pytest.raises(ValidationError, match=says):
        Rung.model_validate(fields)


def test_efforts_of_a_model_come_before_the_servers_and_the_defaults() -> None:
    policy = Policy.model_validate(
        {"server": {"effort": {"low": 100, "high": "70%"}}, "models": {"m": {"effort": {"low": "5.5%"}}}}
    )
    assert policy.efforts("m") == {**DEFAULT_EFFORTS, "low": Share(5.5), "high": Share(70)}
    assert policy.efforts("other") == {**DEFAULT_EFFORTS, "low": 100, "high": Share(70)}


@pytest.mark.parametrize("target", [-1, 0.5, True, "80", "0%", "101%", "x%", "%", "-5%", None, "nan%", []])
def test_wrong_effort_targets(target: Any) -> None:
    with pytest.raises(ValidationError, match="must be tokens from 0 to 16777216, or a share such as 80%"):
        Policy.model_validate({"server": {"effort": {"low": target}}})
    with pytest.raises(ValidationError):
        Policy.model_validate({"server": {"effort": {"none": 0}}})


def test_preserve_thinking_of_a_model_comes_first() -> None:
    policy = Policy.model_validate(
        {"server": {"preserve_thinking": "strip"}, "models": {"a": {"preserve_thinking": "keep"}, "b": {}}}
    )
    assert [policy.preserve_thinking(name) for name in "abc"] == ["keep", "strip", "strip"]
    assert Policy().preserve_thinking("a") == "template"
