"""The request field `parallel`: its form, what becomes of the budget, and what it can't be combined with."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Annotated, Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field

from server.budget.aliases import Asked
from server.budget.forms import ALIAS_ROOTS
from server.budget.shown import show
from server.budget.spec import BUDGET_FIELDS, MAX_TOKENS, BudgetError, ThinkingBudget
from server.gateway.errors import InvalidRequest

PARALLEL = "parallel"
TOTAL = "parallel.total_thinking_tokens"
MAX_WIDTH = 64
DEFAULT_BALANCE_TEMPERATURE = 0.2
"""The value in REBASE's and s1's code; REBASE's paper has 0.1."""
DEFAULT_MAX_DEPTH = 50
"""s1's; REBASE's code has 25."""
MAX_DEPTH = 256

Method = Literal["majority_vote", "weighted_vote", "best_of", "rebase"]


class ParallelField(BaseModel):
    model_config = ConfigDict(strict=True, extra="forbid")

    method: Method = Field(
        description="How the branches become one answer: the most votes; votes weighted by a process-reward "
        "model's score; the best score; or a tree search that such a model guides, then a vote."
    )
    width: Annotated[int, Field(ge=1, le=MAX_WIDTH)] = Field(description="How many branches.")
    total_thinking_tokens: Annotated[int, Field(ge=1, le=MAX_TOKENS)] | None = Field(
        None, description="All branches together never think more than this. Not with max_thinking_tokens."
    )
    balance_temperature: Annotated[float, Field(gt=0, le=10, allow_inf_nan=False)] | None = Field(
        None, description=f"rebase: how evenly branches are spread. Default: {DEFAULT_BALANCE_TEMPERATURE}."
    )
    max_depth: Annotated[int, Field(ge=1, le=MAX_DEPTH)] | None = Field(
        None,
        description=f"rebase: steps after which a branch is made to answer. Default: {DEFAULT_MAX_DEPTH}.",
    )


@dataclass(frozen=True, slots=True)
class ParallelSpec:
    method: Method
    width: int
    total_thinking_tokens: int | None
    balance_temperature: float = DEFAULT_BALANCE_TEMPERATURE
    max_depth: int = DEFAULT_MAX_DEPTH

    @classmethod
    def of(cls, given: Mapping[str, Any]) -> Self | None:
        """The field of a checked request; None if there is none.

        Raises:
            InvalidRequest: an option is another method's, or the width is more than there is to share.
        """
        field = given.get(PARALLEL)
        if field is None:
            return None
        set_fields = {name: value for name, value in field.items() if value is not None}
        if field["method"] != "rebase":
            for name in ("balance_temperature", "max_depth"):
                if name in set_fields:
                    raise InvalidRequest(
                        f"`{PARALLEL}.{name}` is an option of the method rebase, not of {field['method']}. "
                        f"Given: {show(set_fields[name])}",
                        param=f"{PARALLEL}.{name}",
                    )
        spec = cls(**{"total_thinking_tokens": None, **set_fields})
        total = spec.total_thinking_tokens
        if total is not None and total < spec.width:
            raise InvalidRequest(
                f"`{TOTAL}` must be >= parallel.width ({spec.width}): every branch gets an equal share of "
                f"whole tokens. Given: {total}",
                param=TOTAL,
            )
        return spec

    @property
    def needs_reward(self) -> bool:
        return self.method != "majority_vote"

    @property
    def share(self) -> int | None:
        """Thinking tokens of one branch; what doesn't divide is left."""
        return None if self.total_thinking_tokens is None else self.total_thinking_tokens // self.width


def shared_budget(spec: ParallelSpec, asked: Asked) -> Asked:
    """What each branch may think: its share of the total, with all else that was asked for.

    Raises:
        BudgetError: a maximum was given beside the total, or a minimum is above the share.
    """
    share = spec.share
    if share is None:
        return asked
    if asked.budget.max_thinking_tokens is not None or asked.effort is not None or asked.unlimited:
        other = asked.requested_as.get("max_thinking_tokens", "max_thinking_tokens")
        raise BudgetError(
            TOTAL,
            f"`{TOTAL}` can't be combined with `{other}`: both say how much a branch may think. "
            f"Given: {spec.total_thinking_tokens}",
            spec.total_thinking_tokens,
        )
    fields = asked.budget.requested() | {"max_thinking_tokens": share}
    try:
        budget = ThinkingBudget.from_fields(fields)
    except BudgetError as error:
        shown = f"a branch's share of `{TOTAL}` ({share} of {spec.total_thinking_tokens})"
        message = str(error).replace(f"max_thinking_tokens ({share})", shown)
        raise BudgetError(error.param, message, error.value) from None
    named = {**asked.requested_as, "max_thinking_tokens": TOTAL}
    return replace(asked, budget=budget, requested_as=named)


_HONOURED = (
    frozenset(BUDGET_FIELDS)
    | ALIAS_ROOTS
    | frozenset(
        [
            PARALLEL,
            "add_generation_prompt",
            "add_special_tokens",
            "allowed_token_ids",
            "bad_words",
            "cache_salt",
            "chat_template",
            "chat_template_kwargs",
            "continue_final_message",
            "documents",
            "frequency_penalty",
            "ignore_eos",
            "include_reasoning",
            "logit_bias",
            "max_completion_tokens",
            "max_tokens",
            "messages",
            "min_p",
            "min_tokens",
            "model",
            "presence_penalty",
            "priority",
            "reasoning_effort",
            "repetition_penalty",
            "request_id",
            "seed",
            "stop",
            "stop_token_ids",
            "stream",
            "stream_options",
            "temperature",
            "top_k",
            "top_p",
            "user",
        ]
    )
)
_NEUTRAL: Mapping[str, tuple[Any, ...]] = {
    "echo": (False,),
    "include_stop_str_in_output": (False,),
    "logprobs": (False,),
    "n": (1,),
    "response_format": ({"type": "text"},),
    "return_token_ids": (False,),
    "skip_special_tokens": (True,),
    "spaces_between_special_tokens": (True,),
    "tool_choice": ("none",),
    "top_logprobs": (0,),
    "use_beam_search": (False,),
    "vllm_xargs": ({},),
}
"""Values that ask for nothing."""


def is_neutral(name: str, value: object) -> bool:
    """Whether this value of the field asks for nothing."""
    return value in _NEUTRAL.get(name, ())


def check_combination(spec: ParallelSpec, given: Mapping[str, Any]) -> None:
    """Refuse what branches and a vote can't honour; `given` has no null fields.

    Raises:
        InvalidRequest: `param` names the field.
    """
    where = f"can't be combined with `{PARALLEL}` ({spec.method}, width {spec.width})"
    for name, value in given.items():
        if name not in _HONOURED and not is_neutral(name, value):
            raise InvalidRequest(f"`{name}` {where}. Given: {show(value)}", param=name)
    if given.get("stream_options", {}).get("continuous_usage_stats"):
        name = "stream_options.continuous_usage_stats"
        raise InvalidRequest(f"`{name}` {where}. Given: True", param=name)
    for name in ("continue_final_message", "add_generation_prompt") if spec.needs_reward else ():
        # The reward model is shown the messages, with the branch's steps as the next one.
        if name in given and given[name] is not (name == "add_generation_prompt"):
            raise InvalidRequest(f"`{name}` {where}. Given: {given[name]}", param=name)
    if given.get("temperature") == 0 and spec.width > 1:
        raise InvalidRequest(
            f"`temperature` must be > 0 with `{PARALLEL}`: at 0 all {spec.width} branches are the same. "
            f"Given: {given['temperature']}",
            param="temperature",
        )
