"""Fields of vLLM's that are the operator's to set, not a tenant's, on whatever route an engine gets them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from server.budget.shown import show
from server.gateway.access.callers import Caller
from server.gateway.errors import Forbidden, InvalidRequest

_TRANSFERS = ("ec_transfer_params", "kv_transfer_params")
"""Which other engine a request's caches come from: a router between prefill and decode engines sets it."""


def check_operator_fields(fields: Mapping[str, Any], caller: Caller) -> None:
    """Refuse what reaches past the caller's own request.

    Raises:
        InvalidRequest: it says where caches are fetched from, or put.
        Forbidden: a priority, which is before or behind other keys' requests, by a key that isn't an admin's.
    """
    xargs = fields.get("vllm_xargs")
    for given, where in ((fields, ""), (xargs if isinstance(xargs, Mapping) else {}, "vllm_xargs.")):
        for name in _TRANSFERS:
            if given.get(name) is not None:
                raise InvalidRequest(
                    f"`{where}{name}` is the engines' operator's, and not taken from clients. "
                    f"Given: {show(given[name])}",
                    param=f"{where}{name}",
                )
    priority = fields.get("priority")
    if priority is not None and priority != 0 and caller.key is not None and not caller.admin:
        raise Forbidden(
            f"`priority` needs an admin's key: it is among all keys' requests. Given: {show(priority)}",
            param="priority",
            code="not_an_admin",
        )
