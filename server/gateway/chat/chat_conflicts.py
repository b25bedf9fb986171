"""Fields of a chat request that are valid alone and contradict each other."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from server.budget.shown import cut, show
from server.budget.spec import ThinkingBudget
from server.gateway.chat.chat_fields import RESERVED_XARGS
from server.gateway.errors import InvalidRequest


def check_conflicts(
    given: Mapping[str, Any], budget: ThinkingBudget, *, hides_thinking: bool = False
) -> None:
    """Refuse what can't be honoured together; `given` has no null fields.

    Args:
        hides_thinking: a form of the request says that the client doesn't get it.

    Raises:
        InvalidRequest: `param` is the field to change, the message names both.
    """
    _check_lengths(given)
    _check_streaming(given)
    _check_logprobs(given)
    _check_tools(given)
    _check_xargs(given)
    if hides_thinking:
        _check_hidden(given)
    if budget.is_set:
        check_beam_search(given, budget)


def _check_lengths(given: Mapping[str, Any]) -> None:
    old, new = given.get("max_tokens"), given.get("max_completion_tokens")
    if old is not None and new is not None and old != new:
        raise InvalidRequest(
            f"`max_tokens` must equal `max_completion_tokens` ({new}) when both are given. Given: {old}",
            param="max_tokens",
        )
    room = new if new is not None else old
    if room is not None and given.get("min_tokens", 0) > room:
        raise InvalidRequest(
            f"`min_tokens` must be <= max_completion_tokens ({room}). Given: {given['min_tokens']}",
            param="min_tokens",
        )


def _check_streaming(given: Mapping[str, Any]) -> None:
    if "stream_options" in given and not given.get("stream"):
        raise InvalidRequest(
            f"`stream_options` needs `stream` to be true. Given: {show(given['stream_options'])}",
            param="stream_options",
        )
    if "stream_granularity" in given and not given.get("stream"):
        raise InvalidRequest(
            f"`stream_granularity` needs `stream` to be true. Given: {show(given['stream_granularity'])}",
            param="stream_granularity",
        )
    if "stream_granularity" in given and "stream_interval" in given:
        raise InvalidRequest(
            f"`stream_interval` can't be combined with stream_granularity. Given: {given['stream_interval']}",
            param="stream_interval",
        )


def _check_logprobs(given: Mapping[str, Any]) -> None:
    if given.get("top_logprobs") and not given.get("logprobs"):
        raise InvalidRequest(
            f"`top_logprobs` needs `logprobs` to be true. Given: {given['top_logprobs']}",
            param="top_logprobs",
        )


def _check_hidden(given: Mapping[str, Any]) -> None:
    for name in ("logprobs", "return_token_ids"):
        if given.get(name):
            raise InvalidRequest(
                f"`{name}` can't be combined with hidden thinking (`include_reasoning` false or its like): "
                f"it spells the thinking out. Given: {show(given[name])}",
                param=name,
            )


def _check_tools(given: Mapping[str, Any]) -> None:
    choice = given.get("tool_choice", "none")
    if choice != "none" and "tools" not in given:
        raise InvalidRequest(f"`tool_choice` needs `tools`. Given: {show(choice)}", param="tool_choice")
    if isinstance(choice, dict):
        name = choice["function"]["name"]
        known = [tool["function"]["name"] for tool in given["tools"]]
        if name not in known:
            raise InvalidRequest(
                f"`tool_choice` must name one of `tools` ({cut(', '.join(known))}). Given: {show(name)}",
                param="tool_choice",
            )
    response_format = given.get("response_format", {})
    if response_format.get("type") == "json_schema" and response_format.get("json_schema") is None:
        raise InvalidRequest(
            "`response_format.json_schema` is required when the type is 'json_schema'",
            param="response_format.json_schema",
        )


def _check_xargs(given: Mapping[str, Any]) -> None:
    for name, value in given.get("vllm_xargs", {}).items():
        if name in RESERVED_XARGS:
            raise InvalidRequest(
                f"`vllm_xargs.{name}` is reserved: a budget is given in fields of the request itself. "
                f"Given: {show(value)}",
                param=f"vllm_xargs.{name}",
            )


def check_beam_search(given: Mapping[str, Any], budget: ThinkingBudget) -> None:
    """Refuse a beam search with a budget, the client's or the policy's."""
    if given.get("use_beam_search"):
        named = ", ".join(f"`{name}` ({value})" for name, value in budget.requested().items())
        raise InvalidRequest(
            f"`use_beam_search` (true) can't be combined with a thinking budget: {named}",
            param="use_beam_search",
        )
