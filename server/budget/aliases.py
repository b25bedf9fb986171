"""From every dialect a request may speak to the one thinking budget it means.

Each field says one thing: a maximum, an effort, think or don't, hide or show. All that is said must agree;
two forms that don't are refused with both names and values. `server.budget.forms` lists the forms.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from server.budget.effort import EFFORTS, NO_EFFORT, Effort
from server.budget.forms import (
    ALIAS_ROOTS,
    ANTHROPIC_FORMS,
    ANTHROPIC_MIN_BUDGET_TOKENS,
    DISPLAYS,
    FORMS,
    RESPONSES_FORMS,
    THINKING_TYPES,
    Form,
    Kind,
    members,
)
from server.budget.shown import cut, did_you_mean, show
from server.budget.spec import BUDGET_FIELDS, MAX_TOKENS, BudgetError, ThinkingBudget

MAXIMUM = "max_thinking_tokens"
UNLIMITED = -1
_NEEDS_THINKING = ("min_thinking_tokens", "num_waits")

Aspect = Literal["maximum", "effort", "on", "hidden", "other"]


@dataclass(frozen=True, slots=True)
class Asked:
    """What a request says of its thinking."""

    budget: ThinkingBudget = ThinkingBudget()
    """Without what an effort means: that depends on the room."""
    effort: Effort | None = None
    unlimited: bool = False
    """A form said that there is no maximum: defaults don't set one, caps do."""
    thinking: bool | None = None
    """True if a form asks for thinking, False if one turns it off, None if none says."""
    hides_thinking: bool = False
    requested_as: Mapping[str, str] = field(default_factory=dict)
    """The path by which the client gave a budget field, where that isn't the field's own name."""

    @property
    def effort_sets_maximum(self) -> bool:
        """Whether the effort is the only word on the maximum."""
        return self.effort is not None and self.budget.max_thinking_tokens is None and not self.unlimited


@dataclass(frozen=True, slots=True)
class Said:
    """One statement of a request."""

    path: str
    value: object
    """As the client wrote it."""
    aspect: Aspect
    meaning: int | bool | str


def read_chat(fields: Mapping[str, Any]) -> Asked:
    """What a chat completion request says, in any dialect. Null means absent, also inside objects.

    Raises:
        BudgetError: a form is malformed, has an unknown member, or disagrees with another; `param` names it.
    """
    room = fields.get("max_completion_tokens") or fields.get("max_tokens")
    return _read(fields, FORMS, max_tokens=room if isinstance(room, int) else None)


def read_messages(fields: Mapping[str, Any], *, also: Collection[str] = ()) -> Asked:
    """What an Anthropic Messages request says: `thinking`, `output_config.effort`, and our own fields.

    Args:
        also: paths inside those objects that the caller reads itself ("output_config.format").

    Raises:
        BudgetError: as `read_chat`; `budget_tokens` is missing with type enabled, below 1024, or not below
            `max_tokens`.
    """
    if _at(fields, "thinking.type") == "enabled" and _at(fields, "thinking.budget_tokens") is None:
        path = "thinking.budget_tokens"
        raise BudgetError(path, f"`{path}` is required with `thinking.type` enabled")
    max_tokens = fields.get("max_tokens")
    return _read(
        fields, ANTHROPIC_FORMS, max_tokens=max_tokens if isinstance(max_tokens, int) else None, also=also
    )


def read_responses(fields: Mapping[str, Any], *, also: Collection[str] = ()) -> Asked:
    """What an OpenAI Responses request says: `reasoning.effort`, and our own fields.

    Args:
        also: paths inside `reasoning` that the caller reads itself ("reasoning.summary").

    Raises:
        BudgetError: as `read_chat`.
    """
    return _read(fields, RESPONSES_FORMS, max_tokens=None, also=also)


def _read(
    fields: Mapping[str, Any],
    forms: tuple[Form, ...],
    *,
    max_tokens: int | None,
    also: Collection[str] = (),
) -> Asked:
    given = {name: value for name, value in fields.items() if value is not None}
    # Most requests speak no dialect but ours, and thirty forms are many to look for in vain.
    forms = () if ALIAS_ROOTS.isdisjoint(given) else tuple(form for form in forms if form.root in given)
    _check_members(given, forms, also)
    # Our own fields are checked first, and stand first: a disagreement is told of the other form.
    ThinkingBudget.from_fields(given)
    said = [*_own(given), *_aliases(given, forms)]
    if any(form.kind is Kind.ANTHROPIC for form in forms):
        said += _anthropic(given, max_tokens)
    _check_agreement(said)
    return _asked(given, said)


def _asked(given: Mapping[str, Any], said: Sequence[Said]) -> Asked:
    first: dict[Aspect, Said] = {}
    for one in said:
        first.setdefault(one.aspect, one)
    maximum = first.get("maximum")
    fields = dict(given)
    requested_as = {}
    if maximum is not None and maximum.path != MAXIMUM:
        requested_as[MAXIMUM] = maximum.path
    if maximum is not None and maximum.meaning != UNLIMITED:
        fields[MAXIMUM] = maximum.meaning
    if "effort" in first and maximum is None:
        requested_as[MAXIMUM] = first["effort"].path
    on, off = "on" in first or "effort" in first, maximum is not None and maximum.meaning == 0
    return Asked(
        budget=ThinkingBudget.from_fields(fields),
        effort=first["effort"].meaning if "effort" in first else None,  # type: ignore[arg-type]
        unlimited=maximum is not None and maximum.meaning == UNLIMITED,
        thinking=False if off else True if on else None,
        hides_thinking=first["hidden"].meaning is True if "hidden" in first else False,
        requested_as=requested_as,
    )


def _own(given: Mapping[str, Any]) -> Iterator[Said]:
    for name in BUDGET_FIELDS:
        if name in given:
            yield Said(name, given[name], "maximum" if name == MAXIMUM else "other", given[name])


def _aliases(given: Mapping[str, Any], forms: Sequence[Form]) -> Iterator[Said]:
    for form in forms:
        value = _at(given, form.path)
        if value is not None and form.kind is not Kind.ANTHROPIC:
            one = _say(form, value)
            if one is not None:
                yield one


def _say(form: Form, value: object) -> Said | None:
    path, kind = form.path, form.kind
    if kind in (Kind.TOKENS, Kind.TOKENS_OR_UNLIMITED):
        lowest = 0 if kind is Kind.TOKENS else UNLIMITED
        return Said(path, value, "maximum", _integer(path, value, lowest, MAX_TOKENS))
    if kind in (Kind.EFFORT, Kind.EFFORT_OR_NONE):
        return _say_effort(path, value, none=kind is Kind.EFFORT_OR_NONE)
    if kind is Kind.TEMPLATE_SWITCH and not isinstance(value, bool):
        return None
    if not isinstance(value, bool):
        raise BudgetError(path, f"`{path}` must be true or false. Given: {show(value)}", value)
    if kind in (Kind.SHOWN, Kind.HIDDEN):
        return Said(path, value, "hidden", value if kind is Kind.HIDDEN else not value)
    return Said(path, value, "on", True) if value else Said(path, value, "maximum", 0)


def _say_effort(path: str, value: object, *, none: bool) -> Said:
    # Gemini writes its levels in capitals.
    level = value.lower() if isinstance(value, str) else value
    if level == NO_EFFORT and none:
        return Said(path, value, "maximum", 0)
    _check_choice(path, value, level, (NO_EFFORT, *EFFORTS) if none else EFFORTS)
    return Said(path, value, "effort", str(level))


def _anthropic(given: Mapping[str, Any], max_tokens: int | None) -> Iterator[Said]:
    """Anthropic's `thinking` and `output_config`; DeepSeek's `thinking` is the same without a number."""
    thinking = given.get("thinking") or {}
    kind, budget = thinking.get("type"), thinking.get("budget_tokens")
    if kind is None and any(value is not None for value in thinking.values()):
        raise BudgetError("thinking.type", f"`thinking.type` is required. Given: {show(thinking)}", thinking)
    if kind is not None:
        _check_choice("thinking.type", kind, kind, THINKING_TYPES)
        off = kind == "disabled"
        yield Said("thinking.type", kind, "maximum", 0) if off else Said("thinking.type", kind, "on", True)
    if budget is not None:
        yield Said("thinking.budget_tokens", budget, "maximum", _budget_tokens(kind, budget, max_tokens))
    display = thinking.get("display")
    if display is not None:
        _check_choice("thinking.display", display, display, DISPLAYS)
        yield Said("thinking.display", display, "hidden", display == "omitted")
    effort = (given.get("output_config") or {}).get("effort")
    if effort is not None:
        yield _say_effort("output_config.effort", effort, none=False)


def _budget_tokens(kind: object, budget: object, max_tokens: int | None) -> int:
    path = "thinking.budget_tokens"
    if kind != "enabled":
        raise BudgetError(
            path,
            f"`{path}` needs `thinking.type` enabled, which is {show(kind)}. Given: {show(budget)}",
            budget,
        )
    tokens = _integer(path, budget, ANTHROPIC_MIN_BUDGET_TOKENS, MAX_TOKENS)
    if max_tokens is not None and tokens >= max_tokens:
        raise BudgetError(path, f"`{path}` must be < max_tokens ({max_tokens}). Given: {tokens}", tokens)
    return tokens


def _check_agreement(said: Sequence[Said]) -> None:
    for later, one in enumerate(said):
        for earlier in said[:later]:
            reason = _contradiction(earlier, one)
            if reason is not None:
                shown = f"`{one.path}` ({show(one.value)}) and `{earlier.path}` ({show(earlier.value)})"
                raise BudgetError(one.path, f"{shown} disagree: {reason}", one.value)


def _contradiction(one: Said, other: Said) -> str | None:
    """Why two statements can't both hold, or None."""
    by_aspect = {one.aspect: one, other.aspect: other}
    if one.aspect == other.aspect and one.aspect != "other":
        same = {"maximum": MAXIMUM, "effort": "the effort", "on": "", "hidden": "whether thinking is shown"}
        return None if one.meaning == other.meaning else f"both set {same[one.aspect]}; give one of them"
    maximum = by_aspect.get("maximum")
    if maximum is None:
        return None
    if "effort" in by_aspect and not _both_of_anthropic(one, other):
        return f"both set {MAXIMUM}, one as a number, one as an effort; give one of them"
    no_thinking = maximum.meaning == 0
    if "on" in by_aspect and no_thinking:
        return f"one asks for thinking, the other for none ({MAXIMUM} 0)"
    if "other" in by_aspect and no_thinking and maximum.path != MAXIMUM:
        needs = by_aspect["other"]
        if needs.path in _NEEDS_THINKING and needs.meaning:
            return f"no thinking ({MAXIMUM} 0) leaves nothing to lengthen"
    return None


def _both_of_anthropic(one: Said, other: Said) -> bool:
    """Anthropic documents number and effort together: the number limits, the effort is for the model."""
    return all(said.path.startswith(("thinking.", "output_config.")) for said in (one, other))


def _check_members(given: Mapping[str, Any], forms: tuple[Form, ...], also: Collection[str]) -> None:
    for path, known in members(forms).items():
        held = _at(given, path)
        if held is None:
            continue
        if not isinstance(held, Mapping):
            raise BudgetError(path, f"`{path}` must be an object. Given: {show(held)}", held)
        for name, value in held.items():
            if name not in known and f"{path}.{name}" not in also:
                if path == "extra_body":
                    raise BudgetError(
                        f"extra_body.{cut(name)}",
                        f"`extra_body` takes {', '.join(sorted(known))}. The openai SDK is given others "
                        f"so, and sends them at the request's root: put `{cut(name)}` there. "
                        f"Given: {show(value)}",
                        value,
                    )
                whole = f"{path}.{cut(name)}"
                raise BudgetError(
                    whole,
                    f"`{whole}` is not a field that this server knows; `{path}` takes "
                    f"{', '.join(sorted(known))}.{did_you_mean(name, known)} Given: {show(value)}",
                    value,
                )


def _check_choice(path: str, value: object, choice: object, choices: Sequence[str]) -> None:
    if choice not in choices:
        raise BudgetError(path, f"`{path}` must be one of {', '.join(choices)}. Given: {show(value)}", value)


def _integer(path: str, value: object, low: int, high: int) -> int:
    if isinstance(value, bool) or not isinstance(value, int):
        raise BudgetError(
            path, f"`{path}` must be an integer from {low} to {high}. Given: {show(value)}", value
        )
    if not low <= value <= high:
        bound = f">= {low}" if value < low else f"<= {high}"
        raise BudgetError(path, f"`{path}` must be {bound}. Given: {value}", value)
    return value


def _at(given: Mapping[str, Any], path: str) -> Any:
    """What stands at a dotted path; None where anything on the way is absent or no object."""
    held: Any = given
    for name in path.split("."):
        held = held.get(name) if isinstance(held, Mapping) else None
    return held
