"""Namespaces of functions, of OpenAI's Responses API. Pure.

A chat model knows plain functions: one of a namespace is known to it by both names together. In requests and
answers the two stand apart.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any


def plain_name(namespace: str | None, name: str) -> str:
    """What the model calls a function."""
    return name if namespace is None else f"{namespace}__{name}"


def members_of_call(tools: list[Any] | None, called: str) -> Mapping[str, str]:
    """What a call has for the function that the model `called`.

    Args:
        tools: of the request, checked.
    """
    for tool in tools or ():
        if tool["type"] == "namespace":
            for function in tool["tools"]:
                if plain_name(tool["name"], function["name"]) == called:
                    return {"name": function["name"], "namespace": tool["name"]}
    return {"name": called}
