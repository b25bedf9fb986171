"""Which web pages may reach a gateway that asks for no key.

It listens on this machine alone then, but any page in a browser on this machine can send it requests: those
that need no leave of CORS, and, with a name that is made to mean 127.0.0.1, all of them. When such a page
reads, it looks like any program: browsers mark no request that goes to plain http. Only the name that is
asked for tells them apart, so every request has to ask for this machine.
"""

from __future__ import annotations

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
        # A client without a Host header is old, and no browser.
        if host is not None and host not in self._names and not _is_local(f"http://{host}"):
            raise _refusal(f"the name by which it was asked ({host[:200]})")


def _is_local(origin: str) -> bool:
    return len(origin) <= _LONGEST and _is_loopback_origin(origin)


@lru_cache(maxsize=128)
def _is_loopback_origin(origin: str) -> bool:
    """Remembered: clients ask for the same few names again and again."""
    try:
        name = urlsplit(origin).hostname
    except ValueError:
        return False
    return name is not None and is_loopback(name)


def _refusal(what: str) -> Forbidden:
    return Forbidden(
        f"without API keys only this machine's pages and programs are answered: {what} is neither this "
        "machine's nor in cors_origins (S1_GATEWAY_CORS_ORIGINS=https://that.page)",
        code="foreign_page",
    )
