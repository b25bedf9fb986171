"""Which chat fields an engine without our plugin can honour, over rounds or by its own chat route.

Whatever isn't listed is refused by name.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache
from typing import Any

from server.budget.shown import show
from server.budget.spec import BUDGET_FIELDS
from server.gateway.errors import InvalidRequest
from server.gateway.rounds.completions import Completions


def prompt_fields(fields: Mapping[str, Any], known: frozenset[str]) -> dict[str, Any]:
    """What renders the prompt as the chat route would.

    No rendering route has a field for an effort; vLLM's chat route hands it to the template in this way.

    Args:
        known: fields that the engine's rendering route knows.
    """
    prompt = {name: value for name, value in fields.items() if name in known}
    if "reasoning_effort" in fields:
        effort = {"reasoning_effort": fields["reasoning_effort"]}
        prompt["chat_template_kwargs"] = prompt.get("chat_template_kwargs", {}) | effort
    return prompt


_BY_THE_GATEWAY = frozenset(BUDGET_FIELDS) | {
    "include_reasoning",
    "max_completion_tokens",
    "max_tokens",
    "model",
    "n",
    "reasoning_effort",
    "request_id",
    "return_token_ids",
    "seed",
    "stop",
    "stream",
    "stream_options",
    "user",
}
_BY_THE_GATEWAY_ALONE = frozenset(["model", "n", "request_id", "stream", "user"])
"""What needs no help of the engine's chat route, or asks for nothing."""

_NEUTRAL: Mapping[str, tuple[Any, ...]] = {
    "echo": (False,),
    "frequency_penalty": (0,),
    "ignore_eos": (False,),
    "include_reasoning": (True,),
    "include_stop_str_in_output": (False,),
    "logprobs": (False,),
    "min_tokens": (0,),
    "presence_penalty": (0,),
    "response_format": ({"type": "text"},),
    "return_token_offsets": (False,),
    "skip_special_tokens": (True,),
    "spaces_between_special_tokens": (True,),
    "stop_token_ids": ([],),
    "tool_choice": ("none",),
    "top_logprobs": (0,),
    "use_beam_search": (False,),
    "vllm_xargs": ({},),
}
"""Values that ask for nothing."""


def check_rounds_fields(given: Mapping[str, Any], *, dialect: type[Completions]) -> None:
    """Refuse what rounds can't honour together with a budget; `given` has no null fields.

    Raises:
        InvalidRequest: `param` names the field.
    """
    where = (
        f"can't be combined with a thinking budget on this engine: it runs without the s1 plugin, "
        f"and the gateway enforces budgets in rounds (enforcement: rounds) over {dialect.make}'s API"
    )
    unhonoured = first_unhonoured(given, dialect)
    if unhonoured is not None:
        raise _refusal(*unhonoured, where)


def first_unhonoured(given: Mapping[str, Any], dialect: type[Completions]) -> tuple[str, Any] | None:
    """Name and value of what rounds can't honour; None if there is nothing."""
    honoured = _honoured(dialect)
    for name, value in given.items():
        if name not in honoured and value not in _NEUTRAL.get(name, ()):
            return name, value
    if given.get("stream_options", {}).get("continuous_usage_stats"):
        return "stream_options.continuous_usage_stats", True
    for index, message in enumerate(given["messages"]):
        content = message.get("content")
        for part in content if isinstance(content, list) else ():
            if part.get("type", "text") != "text":
                return f"messages[{index}].content", part["type"]
    return None


@cache
def _honoured(dialect: type[Completions]) -> frozenset[str]:
    return dialect.prompt_fields | dialect.sampling_fields | _BY_THE_GATEWAY


def check_chat_fields(given: Mapping[str, Any], *, dialect: type[Completions]) -> None:
    """Refuse what the engine's own chat route would silently ignore in a request without a budget.

    Raises:
        InvalidRequest: `param` names the field.
    """
    if dialect.chat_fields is None:
        return
    honoured = dialect.chat_fields | _BY_THE_GATEWAY_ALONE
    where = f"can't be honoured by this engine: {dialect.make}'s chat completions ignore it"
    for name, value in given.items():
        if name not in honoured and value not in _NEUTRAL.get(name, ()):
            raise _refusal(name, value, where)
    if given.get("stream_options", {}).get("continuous_usage_stats"):
        raise _refusal("stream_options.continuous_usage_stats", True, where)


def _refusal(name: str, value: object, where: str) -> InvalidRequest:
    return InvalidRequest(f"`{name}` {where}. Given: {show(value)}", param=name)
