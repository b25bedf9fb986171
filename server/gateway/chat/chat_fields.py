"""The top-level fields of a chat completion request, by what becomes of them."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any

from server.budget.forms import ALIAS_ROOTS
from server.budget.spec import BUDGET_FIELDS

VLLM_FIELDS = frozenset(
    [
        "add_generation_prompt",
        "add_special_tokens",
        "allowed_token_ids",
        "bad_words",
        "cache_salt",
        "chat_template",
        "chat_template_kwargs",
        "continue_final_message",
        "documents",
        "ec_transfer_params",
        "echo",
        "frequency_penalty",
        "ignore_eos",
        "include_reasoning",
        "include_stop_str_in_output",
        "kv_transfer_params",
        "length_penalty",
        "logit_bias",
        "logprob_token_ids",
        "logprobs",
        "max_completion_tokens",
        "max_tokens",
        "media_io_kwargs",
        "messages",
        "min_p",
        "min_tokens",
        "mm_payload",
        "mm_processor_kwargs",
        "model",
        "n",
        "parallel_tool_calls",
        "presence_penalty",
        "priority",
        "prompt_logprobs",
        "reasoning_effort",
        "repetition_detection",
        "repetition_penalty",
        "request_id",
        "response_format",
        "return_mm_kwargs",
        "return_prompt_text",
        "return_token_ids",
        "return_token_offsets",
        "return_tokens_as_token_ids",
        "routed_experts_prompt_start",
        "seed",
        "session_id",
        "skip_special_tokens",
        "spaces_between_special_tokens",
        "stop",
        "stop_token_ids",
        "stream",
        "stream_interval",
        "stream_options",
        "structured_outputs",
        "temperature",
        "thinking_token_budget",
        "tool_choice",
        "tools",
        "top_k",
        "top_logprobs",
        "top_p",
        "truncate_prompt_tokens",
        "truncation_side",
        "use_beam_search",
        "user",
        "vllm_xargs",
        "watermarking",
    ]
)
"""Every field of vLLM 0.32's ChatCompletionRequest."""

ENGINE_IGNORES = frozenset({"mm_payload", "return_mm_kwargs", "return_token_offsets"})
"""Fields that vLLM takes on its chat route and honours only on its render routes: refused, not ignored."""

UNSUPPORTED_OPENAI_FIELDS = frozenset(
    [
        "audio",
        "function_call",
        "functions",
        "modalities",
        "moderation",
        "prediction",
        "prompt_cache_options",
        "prompt_cache_retention",
        "safety_identifier",
        "service_tier",
        "store",
        "verbosity",
        "web_search_options",
    ]
)
"""OpenAI's fields that vLLM doesn't know; it would ignore them silently."""

ASKS_FOR_NOTHING: Mapping[str, Collection[Any]] = {
    "functions": ([],),
    "modalities": (["text"],),
    "service_tier": ("auto", "default"),
    "store": (False,),
    "verbosity": ("medium",),
}
"""Values of those with which nothing is asked: taken, and left out of what goes on."""

WITHOUT_EFFECT = frozenset({"metadata", "prompt_cache_key"})
"""OpenAI's labels, and its hint for a cache of prefixes, which engines have by themselves: checked, and left
out of what goes on."""

GATEWAY_FIELDS = frozenset({"parallel", "stream_granularity"})
"""What the gateway makes of several generations, beside the budget of each, and of a stream."""

KNOWN_FIELDS = VLLM_FIELDS | frozenset(BUDGET_FIELDS) | ALIAS_ROOTS | GATEWAY_FIELDS | WITHOUT_EFFECT

RESERVED_XARGS = frozenset(BUDGET_FIELDS) | {"receipt_id", "answer_prompt"}
"""Names in `vllm_xargs` that only the gateway may set."""
