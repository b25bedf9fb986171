"""How many token ids one request may bring to vLLM.

Its front end doesn't count them. Its Model Runner V2 does, in the worker, and a request with more ends the
engine with every stream on it. Source: vLLM 0.32, `vllm/v1/worker/gpu/sample/logit_bias.py`.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from server.gateway.errors import InvalidRequest

MAX_LOGIT_BIAS = 1024
MAX_ALLOWED_TOKEN_IDS = 1024
MAX_MASKED_STOPS = 120
"""Stop tokens of a request with `min_tokens`: vLLM takes 128, the model's own end tokens included."""


def check_sampling_limits(fields: Mapping[str, Any]) -> None:
    """Refuse what would end a vLLM engine; fields of a wrong type are left to who reads them.

    Raises:
        InvalidRequest: `param` names the field.
    """
    _check(fields, "logit_bias", MAX_LOGIT_BIAS)
    _check(fields, "allowed_token_ids", MAX_ALLOWED_TOKEN_IDS)
    # vLLM takes "5" and true for numbers, too.
    if fields.get("min_tokens"):
        _check(fields, "stop_token_ids", MAX_MASKED_STOPS, " with `min_tokens` above 0")


def _check(fields: Mapping[str, Any], name: str, most: int, where: str = "") -> None:
    value = fields.get(name)
    if isinstance(value, list | dict) and len(value) > most:
        raise InvalidRequest(
            f"`{name}` must have at most {most} entries{where}. Given: {len(value)}", param=name
        )
