"""Which web pages may reach a gateway that asks for no key.

It listens on this machine alone then, but any page in a browser on this machine can send it requests: those
that need no leave of CORS, and, with a name that is made to mean 127.0.0.1, all of them. When such a page
reads, it looks like any program: browsers mark no request that goes to plain http. Only the name that is
asked for tells them apart, so every request has to ask for this machine.
"""

from __future__ import annotations

import ipaddress
from functools import lru_cache
from urllib.parse import urlsplit

from starlette.datastructures import Headers

from server.gateway.access.callers import is_loopback
from server.gateway.errors import Forbidden
from server.gateway.settings import Settings

_LONGEST = 300
"""A name has at most 253 characters."""


class LocalPages:
    """Pages of this machine, and those whose origins CORS lists."""

    def __init__(self, settings: Settings) -> None:
        asks_nobody = settings.keys_file is None and not settings.insecure_no_auth
        self._origins = frozenset(settings.cors_origins)
        self._names = frozenset(urlsplit(origin).netloc for origin in self._origins)
        self.is_on = asks_nobody and is_loopback(settings.host) and "*" not in self._origins

    def check(self, headers: Headers) -> None:
        """
        Raises:
            Forbidden: a browser sends this for another site's page, or it asks for a name that isn't this
                machine's.
        """
        origin, host = headers.get("origin"), headers.get("host")
        if origin in self._origins:
            return
        if origin is not None and not _is_local(origin):
            raise _refusal(f"the page's origin ({origin[:200]})")
        # A client without a Host header, or with an empty one, is old, and no browser.
        if host and host not in self._names and not _is_own_name(host):
            raise _refusal(f"the name by which it was asked ({host[:200]})")


def _is_local(origin: str) -> bool:
    name = _name(origin)
    return name is not None and is_loopback(name)


def _is_own_name(host: str) -> bool:
    """No name server has a say in what these mean: addresses, and what RFC 6761 keeps for this machine."""
    name = (_name(f"http://{host}") or "").removesuffix(".")
    return is_loopback(name) or name.endswith(".localhost") or _is_unspecified(name)


def _is_unspecified(name: str) -> bool:
    """0.0.0.0 or [::]: whoever connects to it connects to this machine."""
    try:
        return ipaddress.ip_address(name).is_unspecified
    except ValueError:
        return False


def _name(origin: str) -> str | None:
    return _parsed_name(origin) if len(origin) <= _LONGEST else None


@lru_cache(maxsize=128)
def _parsed_name(origin: str) -> str | None:
    """Remembered: clients ask for the same few names again and again."""
    try:
        return urlsplit(origin).hostname
    except ValueError:
        return None


def _refusal(what: str) -> Forbidden:
    return Forbidden(
        f"without API keys only this machine's pages and programs are answered: {what} is neither this "
        "machine's nor in cors_origins (S1_GATEWAY_CORS_ORIGINS=https://that.page)",
        code="foreign_page",
    )
