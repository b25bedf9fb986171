"""Every dialect alone, every pair of forms, and whatever else may stand in their place."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from server.budget.aliases import Asked, read_chat, read_messages, read_responses
from server.budget.forms import ALIAS_ROOTS, FORMS, Kind, members, root_schemas
from server.budget.spec import MAX_TOKENS, BudgetError, ThinkingBudget

SMALL, LARGE = 2048, 4096


@dataclass(frozen=True)
class Utterance:
    """A request's fields in one form, and what they say; -1 is unlimited."""

    fields: Mapping[str, Any]
    maximum: int | None = None
    effort: str | None = None
    on: bool = False
    hidden: bool | None = None

    @property
    def anthropic(self) -> bool:
        return self.fields.keys() <= {"thinking", "output_config"}

    @property
    def paths(self) -> dict[str, Any]:
        return dict(leaves(self.fields))


def leaves(fields: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for name, value in fields.items():
        if isinstance(value, Mapping):
            yield from leaves(value, f"{prefix}{name}.")
        else:
            yield prefix + name, value


def at(path: str, value: Any) -> dict[str, Any]:
    for name in reversed(path.split(".")):
        value = {name: value}
    return value


def utterances() -> Iterator[Utterance]:
    for number in (0, SMALL, LARGE):
        yield Utterance({"max_thinking_tokens": number}, maximum=number)
    for form in FORMS:
        if form.kind in (Kind.TOKENS, Kind.TOKENS_OR_UNLIMITED):
            for number in (0, SMALL, LARGE):
                yield Utterance(at(form.path, number), maximum=number)
        if form.kind is Kind.TOKENS_OR_UNLIMITED:
            yield Utterance(at(form.path, -1), maximum=-1)
        if form.kind in (Kind.EFFORT, Kind.EFFORT_OR_NONE):
            for level in ("low", "high"):
                yield Utterance(at(form.path, level), effort=level, on=True)
        if form.kind is Kind.EFFORT_OR_NONE:
            yield Utterance(at(form.path, "none"), maximum=0)
        if form.kind in (Kind.SWITCH, Kind.TEMPLATE_SWITCH):
            yield Utterance(at(form.path, True), on=True)
            yield Utterance(at(form.path, False), maximum=0)
        if form.kind in (Kind.SHOWN, Kind.HIDDEN):
            for value in (True, False):
                yield Utterance(at(form.path, value), hidden=value is (form.kind is Kind.HIDDEN))
    yield Utterance({"thinking": {"type": "enabled"}}, on=True)
    yield Utterance({"thinking": {"type": "adaptive"}}, on=True)
    yield Utterance({"thinking": {"type": "disabled"}}, maximum=0)
    for number in (SMALL, LARGE):
        enabled = {"type": "enabled", "budget_tokens": number}
        yield Utterance({"thinking": enabled}, maximum=number, on=True)
    for display, hidden in (("omitted", True), ("summarized", False)):
        yield Utterance({"thinking": {"type": "adaptive", "display": display}}, on=True, hidden=hidden)
    for level in ("low", "high"):
        yield Utterance({"output_config": {"effort": level}}, effort=level, on=True)


ALL = list(utterances())


def merged(one: Mapping[str, Any], other: Mapping[str, Any]) -> dict[str, Any] | None:
    """Both in one request; None if they set the same field to different values."""
    both = dict(one)
    for name, value in other.items():
        if isinstance(value, Mapping) and isinstance(both.get(name), Mapping):
            inner = merged(both[name], value)
            if inner is None:
                return None
            both[name] = inner
        elif both.setdefault(name, value) != value:
            return None
    return both


def disagree(one: Utterance, other: Utterance) -> bool:
    for a, b in ((one, other), (other, one)):
        if a.effort is not None and b.maximum is not None and not (a.anthropic and b.anthropic):
            return True
        if a.on and b.maximum == 0 and not (a.effort is not None and a.anthropic and b.anthropic):
            return True
    pairs = ((one.maximum, other.maximum), (one.effort, other.effort), (one.hidden, other.hidden))
    return any(a is not None and b is not None and a != b for a, b in pairs)


def check_meaning(asked: Asked, *said: Utterance) -> None:
    maximum = next((one.maximum for one in said if one.maximum is not None), None)
    effort = next((one.effort for one in said if one.effort is not None), None)
    assert asked.budget == ThinkingBudget(max_thinking_tokens=None if maximum == -1 else maximum)
    assert asked.unlimited == (maximum == -1)
    assert asked.effort == effort
    assert asked.hides_thinking == any(one.hidden for one in said)
    assert asked.thinking is (False if maximum == 0 else True if any(one.on for one in said) else None)
    assert asked.effort_sets_maximum == (effort is not None and maximum is None)


@pytest.mark.parametrize("said", ALL, ids=lambda said: str(dict(said.fields)))
def test_every_form_alone(said: Utterance) -> None:
    asked = read_chat(said.fields)
    check_meaning(asked, said)
    if said.maximum is None and said.effort is None or "max_thinking_tokens" in said.fields:
        assert asked.requested_as == {}
    else:
        assert asked.requested_as["max_thinking_tokens"] in said.paths


def test_every_pair_of_forms() -> None:
    """Agreeing pairs mean what each says; disagreeing ones are refused with both names and values."""
    agreed = refused = 0
    for one, other in itertools.product(ALL, ALL):
        fields = merged(one.fields, other.fields)
        if fields is None:
            continue
        if disagree(one, other):
            with pytest.raises(BudgetError) as caught:
                read_chat(fields)
            check_names_both(caught.value, one, other)
            refused += 1
        else:
            check_meaning(read_chat(fields), one, other)
            agreed += 1
    assert agreed > 1000
    assert refused > 1000


def check_names_both(error: BudgetError, one: Utterance, other: Utterance) -> None:
    assert error.param in one.paths | other.paths
    for said in (one, other):
        assert any(f"`{path}` ({value!r})" in str(error) for path, value in said.paths.items()), str(error)


def test_a_disagreement_is_told_of_the_other_dialect() -> None:
    with pytest.raises(BudgetError) as caught:
        read_chat({"reasoning": {"max_tokens": 5}, "max_thinking_tokens": 6})
    assert caught.value.param == "reasoning.max_tokens"
    assert "`reasoning.max_tokens` (5) and `max_thinking_tokens` (6)" in str(caught.value)


@pytest.mark.parametrize("off", [{"enable_thinking": False}, {"reasoning_effort": "none"}], ids=str)
@pytest.mark.parametrize("field", ["num_waits", "min_thinking_tokens"])
def test_no_thinking_leaves_nothing_to_lengthen(off: dict[str, Any], field: str) -> None:
    with pytest.raises(BudgetError, match="disagree") as caught:
        read_chat({**off, field: 1})
    assert caught.value.param == next(iter(off))
    assert f"`{field}` (1)" in str(caught.value)
    if field == "num_waits":
        # A number is only a bound, which waits don't contradict.
        assert read_chat({"max_thinking_tokens": 0, "num_waits": 1}).budget.num_waits == 1
    assert read_chat({**off, field: 0}).budget.max_thinking_tokens == 0


def test_our_other_fields_go_with_any_maximum() -> None:
    asked = read_chat({"reasoning": {"max_tokens": 50}, "num_waits": 2, "min_thinking_tokens": 7})
    assert asked.budget == ThinkingBudget(max_thinking_tokens=50, min_thinking_tokens=7, num_waits=2)
    assert read_chat({"thinking_token_budget": -1, "num_waits": 1}).budget == ThinkingBudget(num_waits=1)
    with pytest.raises(BudgetError, match=r"`min_thinking_tokens` must be <= max_thinking_tokens \(50\)"):
        read_chat({"reasoning": {"max_tokens": 50}, "min_thinking_tokens": 51})


@pytest.mark.parametrize("root", sorted(ALIAS_ROOTS))
def test_null_means_absent_at_every_depth(root: str) -> None:
    assert read_chat({root: None}) == Asked()
    nulls: dict[str, Any] = {}
    for form in FORMS:
        if form.root == root:
            nulls = merged(nulls, at(form.path, None)) or nulls
    assert read_chat(nulls) == Asked()


WRONG = [-7, 1.5, "x", [1], {"a": 1}, MAX_TOKENS + 1, True, False]


@pytest.mark.parametrize("form", FORMS, ids=lambda form: form.path)
def test_wrong_values_name_field_and_value(form: Any) -> None:
    """Whatever the schema doesn't allow is refused, and nothing else."""
    for value in [*WRONG, "high", 5, None, "none", "enabled", "omitted", 2048]:
        fields = at(form.path, value)
        if form.path in ("thinking.budget_tokens", "thinking.display"):
            fields["thinking"]["type"] = "enabled"
        ours = form.kind is not Kind.TEMPLATE_SWITCH
        if value is None or allowed(form.schema, value) or not ours:
            read_chat(fields)
            continue
        with pytest.raises(BudgetError) as caught:
            read_chat(fields)
        assert caught.value.param == form.path
        assert f"`{form.path}` must be" in str(caught.value)
        assert repr(value) in str(caught.value)


def allowed(schema: Mapping[str, Any], value: Any) -> bool:
    if "enum" in schema:
        return value in schema["enum"]
    if schema["type"] == "boolean":
        return isinstance(value, bool)
    integer = isinstance(value, int) and not isinstance(value, bool)
    return integer and schema["minimum"] <= value <= schema["maximum"]


@pytest.mark.parametrize("path", sorted(members(FORMS)))
def test_unknown_members_are_refused(path: str) -> None:
    with pytest.raises(BudgetError) as caught:
        read_chat(at(f"{path}.surprise", 1))
    assert caught.value.param == f"{path}.surprise"
    for known in members(FORMS)[path]:
        assert known in str(caught.value)
    for wrong in ("x", 5, [1], True):
        with pytest.raises(BudgetError, match=f"`{path}` must be an object"):
            read_chat(at(path, wrong))


def test_a_misspelt_member_is_corrected() -> None:
    with pytest.raises(BudgetError, match="Did you mean `max_tokens`?"):
        read_chat({"reasoning": {"max_token": 5}})


def test_the_templates_own_arguments_are_not_ours() -> None:
    kwargs = {"thinking": {"type": "enabled"}, "enable_thinking": "auto", "documents": []}
    assert read_chat({"chat_template_kwargs": kwargs}) == Asked()


def test_geminis_levels_may_be_capitals() -> None:
    assert read_chat(at("generationConfig.thinkingConfig.thinkingLevel", "HIGH")).effort == "high"


@pytest.mark.parametrize("room", ["max_tokens", "max_completion_tokens"])
def test_anthropics_limits(room: str) -> None:
    def budget(tokens: int, **thinking: Any) -> dict[str, Any]:
        return {"thinking": {"type": "enabled", "budget_tokens": tokens, **thinking}}

    assert read_chat({**budget(1024), room: 1025}).budget.max_thinking_tokens == 1024
    for fields, says in (
        ({**budget(1023), room: 5000}, "must be >= 1024. Given: 1023"),
        ({**budget(5000), room: 5000}, r"must be < max_tokens \(5000\). Given: 5000"),
        (budget(2000, type="disabled"), "needs `thinking.type` enabled"),
        (budget(2000, type="adaptive"), "needs `thinking.type` enabled"),
        ({"thinking": {"budget_tokens": 2000}}, "`thinking.type` is required"),
        ({"thinking": {"type": "on"}}, "must be one of enabled, disabled, adaptive. Given: 'on'"),
    ):
        with pytest.raises(BudgetError, match=says):
            read_chat(fields)


def test_anthropics_number_and_effort_go_together() -> None:
    """As Anthropic documents it: the number limits the thinking, the effort is for the model."""
    both = {"thinking": {"type": "enabled", "budget_tokens": 2000}, "output_config": {"effort": "low"}}
    asked = read_chat(both)
    assert (asked.budget.max_thinking_tokens, asked.effort, asked.effort_sets_maximum) == (2000, "low", False)
    assert read_messages({**both, "max_tokens": 4000}) == asked
    off = {"thinking": {"type": "disabled"}, "output_config": {"effort": "high"}}
    assert read_messages(off).budget.max_thinking_tokens == 0
    assert read_messages(off).thinking is False


def test_the_messages_form() -> None:
    adaptive = read_messages({"thinking": {"type": "adaptive"}, "output_config": {"effort": "max"}})
    assert (adaptive.effort, adaptive.thinking, adaptive.effort_sets_maximum) == ("max", True, True)
    assert read_messages({"max_tokens": 100, "num_waits": 1}).budget == ThinkingBudget(num_waits=1)
    with pytest.raises(BudgetError, match="`thinking.budget_tokens` is required"):
        read_messages({"thinking": {"type": "enabled"}, "max_tokens": 4000})
    with pytest.raises(BudgetError, match=r"must be < max_tokens \(1500\)"):
        read_messages({"thinking": {"type": "enabled", "budget_tokens": 1500}, "max_tokens": 1500})
    with pytest.raises(BudgetError, match=r"`output_config.format` is not a field"):
        read_messages({"output_config": {"format": {}}})
    assert read_messages({"output_config": {"format": {}}}, also={"output_config.format"}) == Asked()
    # Other dialects are not read there.
    assert read_messages({"reasoning_effort": "high"}) == Asked()


def test_the_responses_form() -> None:
    assert read_responses({"reasoning": {"effort": "low"}}).effort == "low"
    assert read_responses({"reasoning": {"effort": "none"}}).budget.max_thinking_tokens == 0
    with pytest.raises(BudgetError, match=r"`reasoning.summary` is not a field"):
        read_responses({"reasoning": {"effort": "low", "summary": "auto"}})
    asked = read_responses({"reasoning": {"effort": "low", "summary": "auto"}}, also={"reasoning.summary"})
    assert asked.effort == "low"
    with pytest.raises(BudgetError, match="disagree"):
        read_responses({"reasoning": {"effort": "low"}, "max_thinking_tokens": 5})


def test_the_schema_holds_every_form() -> None:
    schemas = root_schemas()
    assert set(schemas) == ALIAS_ROOTS
    for form in FORMS:
        held: Any = {"properties": {name: schema["anyOf"][0] for name, schema in schemas.items()}}
        for name in form.path.split("."):
            held = held["properties"][name]
        assert {key: held[key] for key in form.schema} == form.schema
        assert form.meaning in held["description"]


PLACES = sorted({".".join(form.path.split(".")[:depth]) for form in FORMS for depth in (1, 2, 3, 4)})
VALUES = [
    *WRONG,
    None,
    -1,
    0,
    5,
    2000,
    0.0,
    "",
    "high",
    "none",
    "enabled",
    "adaptive",
    "omitted",
    [],
    {},
    [{}],
]


@given(st.lists(st.tuples(st.sampled_from(PLACES), st.sampled_from(VALUES)), max_size=4))
def test_whatever_comes_is_read_or_refused_by_name(places: list[tuple[str, Any]]) -> None:
    fields: dict[str, Any] = {}
    for path, value in places:
        fields = merged(fields, at(path, value)) or fields
    try:
        asked = read_chat(fields)
    except BudgetError as error:
        assert error.param.partition(".")[0] in fields
        assert f"`{error.param}`" in str(error)
    else:
        assert asked.budget.requested().keys() <= {"max_thinking_tokens"}
