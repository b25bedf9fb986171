"""Which fields of a chat request can be honoured over rounds: whatever isn't listed is refused by name."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from server.budget.spec import BUDGET_FIELDS
from server.gateway.errors import InvalidRequest
from server.gateway.validation import show

PROMPT_FIELDS = frozenset(
    [
        "add_generation_prompt",
        "add_special_tokens",
        "chat_template",
        "chat_template_kwargs",
        "continue_final_message",
        "messages",
    ]
)
"""Of vLLM's TokenizeChatRequest."""


def prompt_fields(fields: Mapping[str, Any]) -> dict[str, Any]:
    """What /tokenize needs to render the prompt as the chat route would.

    It has no field for an effort; vLLM's chat route hands it to the template in the same way.
    """
    prompt = {name: value for name, value in fields.items() if name in PROMPT_FIELDS}
    if "reasoning_effort" in fields:
        effort = {"reasoning_effort": fields["reasoning_effort"]}
        prompt["chat_template_kwargs"] = prompt.get("chat_template_kwargs", {}) | effort
    return prompt


SAMPLING_FIELDS = frozenset(
    ["cache_salt", "logit_bias", "min_p", "priority", "repetition_penalty", "temperature", "top_k", "top_p"]
)
"""Sent with every round as they are: none of them depends on where prompt ends and output begins."""

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
_HONOURED = PROMPT_FIELDS | SAMPLING_FIELDS | _BY_THE_GATEWAY

_NEUTRAL: Mapping[str, tuple[Any, ...]] = {
    "echo": (False,),
    "frequency_penalty": (0,),
    "ignore_eos": (False,),
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


def check_rounds_fields(given: Mapping[str, Any], *, url: str) -> None:
    """Refuse what rounds can't honour together with a budget; `given` has no null fields.

    Raises:
        InvalidRequest: `param` names the field.
    """
    for name, value in given.items():
        if name not in _HONOURED and value not in _NEUTRAL.get(name, ()):
            raise _refusal(name, value, url)
    if given.get("stream_options", {}).get("continuous_usage_stats"):
        raise _refusal("stream_options.continuous_usage_stats", True, url)
    for index, message in enumerate(given["messages"]):
        content = message.get("content")
        for part in content if isinstance(content, list) else ():
            if part.get("type", "text") != "text":
                raise _refusal(f"messages[{index}].content", part["type"], url)


def _refusal(name: str, value: object, url: str) -> InvalidRequest:
    return InvalidRequest(
        f"`{name}` can't be combined with a thinking budget on this engine ({url}): it runs without the s1 "
        f"plugin, and the gateway enforces budgets in rounds (enforcement: rounds). Given: {show(value)}",
        param=name,
    )
