"""How many token ids, and how many entries of other fields, one request may bring to vLLM.

Its front end counts neither. Its Model Runner V2 counts token ids, in the worker, and a request with more
ends the engine with every stream on it. Source: vLLM 0.32, `vllm/v1/worker/gpu/sample/logit_bias.py`. Other
entries the front end checks one by one and keeps an error for each that is wrong, while everybody waits.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from server.budget.shown import cut
from server.gateway.errors import InvalidRequest

MAX_LOGIT_BIAS = 1024
MAX_ALLOWED_TOKEN_IDS = 1024
MAX_MASKED_STOPS = 120
"""Stop tokens of a request with `min_tokens`: vLLM takes 128, the model's own end tokens included."""

MAX_ENTRIES = 16_384
"""Of each other list and object whose entries vLLM, or this gateway, checks one by one."""
_CHECKED_ONE_BY_ONE = frozenset(
    {
        "bad_words",
        "documents",
        "logprob_token_ids",
        "media_io_kwargs",
        "stop_token_ids",
        "tools",
        "vllm_xargs",
    }
)


def check_sampling_limits(fields: Mapping[str, Any]) -> None:
    """Refuse what would end a vLLM engine or stop it for a while; wrong types are left to who reads them.

    Raises:
        InvalidRequest: `param` names the field.
    """
    _check(fields, "logit_bias", MAX_LOGIT_BIAS)
    _check(fields, "allowed_token_ids", MAX_ALLOWED_TOKEN_IDS)
    # vLLM takes "5" and true for numbers, too.
    if fields.get("min_tokens"):
        _check(fields, "stop_token_ids", MAX_MASKED_STOPS, " with `min_tokens` above 0")
    for name in _CHECKED_ONE_BY_ONE & fields.keys():
        _check(fields, name, MAX_ENTRIES)
    for name in ("structured_outputs", "vllm_xargs"):
        held = fields.get(name)
        for member, value in held.items() if isinstance(held, dict) else ():
            _check_size(value, f"{name}.{cut(member)}", MAX_ENTRIES)


def _check(fields: Mapping[str, Any], name: str, most: int, where: str = "") -> None:
    _check_size(fields.get(name), name, most, where)


def _check_size(value: object, path: str, most: int, where: str = "") -> None:
    if isinstance(value, list | dict) and len(value) > most:
        raise InvalidRequest(
            f"`{path}` must have at most {most} entries{where}. Given: {len(value)}", param=path
        )
