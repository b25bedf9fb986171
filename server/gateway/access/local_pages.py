"""Which web pages may reach a gateway that asks for no key.

It listens on this machine alone then, but any page in a browser on this machine can send it requests: those
that need no leave of CORS, and, with a name that is made to mean 127.0.0.1, all of them.
"""

from __future__ import annotations

from urllib.parse import urlsplit

from starlette.datastructures import Headers

from server.gateway.access.callers import is_loopback
from server.gateway.errors import Forbidden
from server.gateway.settings import Settings


class LocalPages:
    """Pages of this machine, and those whose origins CORS lists. Whoever is no browser isn't looked at."""

    def __init__(self, settings: Settings) -> None:
        asks_nobody = settings.keys_file is None and not settings.insecure_no_auth
        self._origins = frozenset(settings.cors_origins)
        self.is_on = asks_nobody and is_loopback(settings.host) and "*" not in self._origins

    def check(self, headers: Headers) -> None:
        """
        Raises:
            Forbidden: a browser sends this for another site's page, or to a name that isn't this machine's.
        """
        origin = headers.get("origin")
        if origin is not None:
            if origin not in self._origins and not _is_local(origin):
                raise _refusal(f"the page's origin ({origin[:200]})")
        elif "sec-fetch-site" in headers:
            # A browser that asks its page's own server, for example.
            host = headers.get("host", "")
            listed = any(urlsplit(known).netloc == host for known in self._origins)
            if not listed and not _is_local(f"http://{host}"):
                raise _refusal(f"the name by which it was asked ({host[:200]})")


def _is_local(origin: str) -> bool:
    try:
        name = urlsplit(origin).hostname
    except ValueError:
        return False
    return name is not None and is_loopback(name)


def _refusal(what: str) -> Forbidden:
    return Forbidden(
        f"without API keys only pages of this machine are answered: {what} is neither this machine's nor in "
        "cors_origins (S1_GATEWAY_CORS_ORIGINS=https://that.page)",
        code="foreign_page",
    )
