"""The policy ladder: defaults, caps and floors of thinking budgets at server, model and key (docs/policy.md).

`Policy` is the file's typed form. `apply_policy` is what it does to one request's budget: pure, and the same
whoever supplies the rungs.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property, partial
from typing import Annotated, Any, Literal, Self

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    WithJsonSchema,
    create_model,
    model_validator,
)
from pydantic_core import PydanticCustomError

from server.budget.effort import DEFAULT_EFFORTS, Effort, EffortTable, Share
from server.budget.spec import BUDGET_LIMITS, MAX_TOKENS, TIME_LIMIT, WAIT_TEXT, BudgetError, ThinkingBudget

MAXIMUM = "max_thinking_tokens"
UNBOUNDED = (MAXIMUM, TIME_LIMIT)
"""Without bound when they are left out: a cap holds for a request that doesn't name them, too."""
WITHIN_MAXIMUM = ("min_thinking_tokens", "landing_tokens")
"""Fields that the maximum bounds: where both can't be had, the maximum wins (rule 3)."""
FLOOR_FIELDS = ("min_thinking_tokens",)
INTEGER_FIELDS = tuple(BUDGET_LIMITS)

RungName = Literal["policy:server", "policy:model", "policy:key"]
PreserveThinking = Literal["template", "keep", "strip"]


class _Strict(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)


def _valid(name: str, value: Any) -> Any:
    """`value`, if a request could give it for this field alone."""
    try:
        # A text is only of use to something that waits.
        waits = {"num_waits": 1} if name == WAIT_TEXT else {}
        ThinkingBudget.from_fields({**waits, name: value})
    except BudgetError as error:
        expected = str(error).removeprefix(f"`{name}` ").rpartition(". Given:")[0]
        raise PydanticCustomError("budget", "{expected}", {"expected": expected}) from None
    return value


def _integer(name: str) -> Any:
    low, high = BUDGET_LIMITS[name]
    return Annotated[int, Field(ge=low, le=high), AfterValidator(partial(_valid, name))] | None


def _fields_model(name: str, fields: tuple[str, ...], description: str, **others: Any) -> Any:
    """A model with these integer fields, each within the limits of a request's."""
    declared: dict[str, Any] = {field: (_integer(field), None) for field in fields}
    return create_model(name, __base__=_Strict, __doc__=description, **declared, **others)


_WaitText = Annotated[
    str | list[str], Field(union_mode="left_to_right"), AfterValidator(partial(_valid, WAIT_TEXT))
]
Defaults: Any = _fields_model(
    "Defaults",
    INTEGER_FIELDS,
    "What a field is where the request leaves it out.",
    wait_text=(_WaitText | None, None),
)
Caps: Any = _fields_model("Caps", INTEGER_FIELDS, "The most that a field may be.")
Floors: Any = _fields_model("Floors", FLOOR_FIELDS, "The least that a field may be.")


def _effort_target(value: object) -> int | Share:
    """Tokens as an integer, or a share of the room as a text such as 80%."""
    if isinstance(value, Share):
        return value
    if isinstance(value, int) and not isinstance(value, bool) and 0 <= value <= MAX_TOKENS:
        return value
    if isinstance(value, str) and value.endswith("%"):
        try:
            percent = float(value[:-1])
        except ValueError:
            percent = -1.0
        if 0 < percent <= 100:
            return Share(percent)
    raise PydanticCustomError(
        "effort", "must be tokens from 0 to {limit}, or a share such as 80%", {"limit": MAX_TOKENS}
    )


EffortTarget = Annotated[
    Any,
    BeforeValidator(_effort_target),
    WithJsonSchema(
        {
            "anyOf": [
                {"type": "integer", "minimum": 0, "maximum": MAX_TOKENS},
                {"type": "string", "pattern": r"^[0-9]+(\.[0-9]+)?%$"},
            ]
        }
    ),
]


class Rung(_Strict):
    """Limits at one rung of the ladder. A key carries one, in the policy file or with the key itself."""

    default: Defaults = Field(
        default_factory=Defaults,
        description="Values of fields that a request leaves out; the most specific rung's wins.",
    )
    cap: Caps = Field(
        default_factory=Caps, description="Most that a field may be; the lowest of all rungs holds."
    )
    floor: Floors = Field(
        default_factory=Floors, description="Least that a field may be; the highest of all rungs holds."
    )
    strict: bool | None = Field(
        None,
        description="true refuses (400) what is beyond a cap or a floor, false clamps it; the most specific "
        "rung's wins, and without any it is false.",
    )

    @cached_property
    def is_silent(self) -> bool:
        """Whether it sets nothing and limits nothing."""
        return (self.default, self.cap, self.floor) == (Defaults(), Caps(), Floors())

    @model_validator(mode="after")
    def _check_order(self) -> Self:
        defaults, caps, floors = map(given_fields, (self.default, self.cap, self.floor))
        _check_not_above("default", defaults, "cap", caps)
        _check_not_above("floor", floors, "cap", caps)
        _check_not_above("floor", floors, "default", defaults)
        for low_kind, low, high_kind, high in (
            ("default", defaults, "default", defaults),
            ("default", defaults, "cap", caps),
            ("floor", floors, "cap", caps),
        ):
            maximum = high.get(MAXIMUM)
            for name in WITHIN_MAXIMUM:
                if maximum is not None and low.get(name, 0) > maximum:
                    raise _wrong(f"{low_kind}.{name} must be <= {high_kind}.{MAXIMUM} ({maximum})", low[name])
        return self


class ModelRung(Rung):
    """Limits of one model, or of the whole server."""

    effort: dict[Effort, EffortTarget] = Field(
        default_factory=dict,
        description="What efforts mean: tokens, or a share of the room such as 80%. Efforts that are left "
        "out mean what the server's table says, and else the default table.",
    )
    preserve_thinking: PreserveThinking | None = Field(
        None,
        description="Thinking in earlier assistant messages: template leaves it to the chat template, keep "
        "puts it into the prompt, strip takes it out. Default: template.",
    )


class Policy(_Strict):
    """Defaults, caps and floors of thinking budgets, from the server over model and key to the request."""

    server: ModelRung = Field(default_factory=ModelRung, description="For every request.")
    models: dict[str, ModelRung] = Field(default_factory=dict, description="By the name that clients use.")
    keys: dict[str, Rung] = Field(
        default_factory=dict, description="By the API key's name, not the key itself."
    )

    def efforts(self, model: str) -> EffortTable:
        """What each effort means for `model`."""
        own = self.models[model].effort if model in self.models else {}
        return {**DEFAULT_EFFORTS, **self.server.effort, **own}

    def preserve_thinking(self, model: str) -> PreserveThinking:
        own = self.models[model].preserve_thinking if model in self.models else None
        return own or self.server.preserve_thinking or "template"


@dataclass(frozen=True, slots=True)
class Clamp:
    """One field that the ladder changed."""

    field: str
    asked: int
    """-1: explicitly unlimited."""
    limit: int
    rung: RungName


@dataclass(frozen=True, slots=True)
class Applied:
    """What the ladder leaves of a budget."""

    budget: ThinkingBudget
    clamps: tuple[Clamp, ...] = ()

    @property
    def clamped_by(self) -> tuple[RungName, ...]:
        """The rungs that changed what was asked for, each once, the broadest first."""
        return tuple(name for name in _RUNGS if any(clamp.rung == name for clamp in self.clamps))


_RUNGS: tuple[RungName, ...] = ("policy:server", "policy:model", "policy:key")


@dataclass(slots=True)
class _Ladder:
    rungs: list[tuple[RungName, Rung]]
    values: dict[str, int]
    asked: Mapping[str, int]
    lenient: frozenset[str]
    named: Mapping[str, str]
    clamps: list[Clamp] = field(default_factory=list)

    @property
    def strict(self) -> bool:
        said = [rung.strict for _, rung in self.rungs if rung.strict is not None]
        return bool(said) and said[-1]

    def limit(self, kind: Literal["cap", "floor"], name: str) -> tuple[int, RungName] | None:
        """The limit that holds, and the broadest rung that sets it."""
        found = [
            (value, rung_name)
            for rung_name, rung in self.rungs
            if (value := getattr(getattr(rung, kind), name)) is not None
        ]
        pick = min if kind == "cap" else max
        return pick(found, key=lambda pair: pair[0]) if found else None

    def clamp(self, name: str, limit: int, rung: RungName, *, bound: str) -> None:
        """Set `name` to a rung's limit.

        Args:
            bound: "<=" or ">=", for the message.

        Raises:
            BudgetError: the client asked for more or less by a number, and the policy is strict.
        """
        if name in self.asked:
            asked = self.asked[name]
            if self.strict and name not in self.lenient:
                shown = self.named.get(name, name)
                raise BudgetError(
                    shown,
                    f"`{shown}` must be {bound} {limit}, the policy's limit for this "
                    f"{rung.removeprefix('policy:')} ({rung}). Given: {asked}",
                    asked,
                )
            self.clamps.append(Clamp(name, asked, limit, rung))
        self.values[name] = limit


def apply_policy(
    budget: ThinkingBudget,
    *,
    server: Rung,
    model: Rung | None = None,
    key: Rung | Sequence[Rung] | None = None,
    unlimited: bool = False,
    lenient: frozenset[str] = frozenset(),
    named: Mapping[str, str] | None = None,
) -> Applied:
    """Defaults for what `budget` leaves out, then floors and caps.

    A cap on the maximum or on the time also holds for a request that asks for no budget: it then has one.

    Args:
        key: the key's rung; several if limits of the key are kept in several places.
        unlimited: the client asked for no maximum: no default sets one, a cap does and counts as a clamp.
        lenient: fields that are clamped even if the policy is strict: what an effort meant, say.
        named: the client's own names of fields, for messages.

    Raises:
        BudgetError: the policy is strict and a field is beyond its limit; `param` is the client's name.
    """
    keys = () if key is None else (key,) if isinstance(key, Rung) else key
    models = () if model is None else (model,)
    if all(rung.is_silent for rung in (server, *models, *keys)) and (
        budget.wait_text is None or budget.num_waits or budget.min_thinking_tokens
    ):
        return Applied(budget)
    rungs: list[tuple[RungName, Rung]] = [("policy:server", server)]
    rungs += [("policy:model", rung) for rung in models] + [("policy:key", rung) for rung in keys]
    asked = {name: value for name in INTEGER_FIELDS if (value := getattr(budget, name)) is not None}
    ladder = _Ladder(
        rungs=rungs,
        values=dict(asked),
        asked={MAXIMUM: -1, **asked} if unlimited else asked,
        lenient=lenient,
        named=named or {},
    )
    _take_defaults(ladder)
    _raise_to_floors(ladder)
    _lower_to_caps(ladder)
    values: dict[str, Any] = ladder.values
    text = _wait_text(budget, ladder)
    return Applied(replace(budget, **values, wait_text=text), tuple(ladder.clamps))


def _wait_text(budget: ThinkingBudget, ladder: _Ladder) -> tuple[str, ...] | None:
    """The request's text or the most specific default; none where nothing is left that waits."""
    if not ladder.values.get("num_waits") and not ladder.values.get("min_thinking_tokens"):
        return None
    defaults = [rung.default.wait_text for _, rung in ladder.rungs if rung.default.wait_text is not None]
    if budget.wait_text is not None or not defaults:
        return budget.wait_text
    return (defaults[-1],) if isinstance(defaults[-1], str) else tuple(defaults[-1])


def _take_defaults(ladder: _Ladder) -> None:
    """The most specific default of every field left out; it gives way to what the client asked for."""
    asked, values = ladder.asked, ladder.values
    for _, rung in ladder.rungs:
        for name, value in given_fields(rung.default).items():
            if name not in asked:
                values[name] = value
    if MAXIMUM in values and MAXIMUM not in asked:
        values[MAXIMUM] = max(values[MAXIMUM], *(asked.get(name, 0) for name in WITHIN_MAXIMUM))


def _raise_to_floors(ladder: _Ladder) -> None:
    for name in FLOOR_FIELDS:
        limit = ladder.limit("floor", name)
        if limit is not None and ladder.values.get(name, 0) < limit[0]:
            ladder.clamp(name, *limit, bound=">=")


def _lower_to_caps(ladder: _Ladder) -> None:
    values = ladder.values
    for name in INTEGER_FIELDS:
        limit = ladder.limit("cap", name)
        if limit is None:
            continue
        # The others are 0 when they are left out, or what fits.
        if values.get(name, BUDGET_LIMITS[name][1] + 1 if name in UNBOUNDED else 0) > limit[0]:
            ladder.clamp(name, *limit, bound="<=")
    maximum = values.get(MAXIMUM)
    cap = ladder.limit("cap", MAXIMUM)
    for name in WITHIN_MAXIMUM:
        if maximum is None or values.get(name, 0) <= maximum:
            continue
        if name in ladder.asked and cap is not None:
            ladder.clamp(name, maximum, cap[1], bound="<=")
        else:
            values[name] = maximum


def given_fields(model: BaseModel) -> dict[str, int]:
    """The integer fields that are given in a rung's defaults, caps or floors."""
    return {name: value for name, value in model if value is not None and name in INTEGER_FIELDS}


def _check_not_above(low_kind: str, low: Mapping[str, int], high_kind: str, high: Mapping[str, int]) -> None:
    for name, value in low.items():
        if name in high and value > high[name]:
            raise _wrong(f"{low_kind}.{name} must be <= {high_kind}.{name} ({high[name]})", value)


def _wrong(expectation: str, given: int) -> PydanticCustomError:
    return PydanticCustomError(
        "order", "{expectation}. Given: {given}", {"expectation": expectation, "given": given}
    )
