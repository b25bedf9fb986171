"""The gate before all routes: a caller for every request, at most so many a minute, and the headers about it.

Whatever is not listed as open needs a key, routes that are added later included.
"""

from __future__ import annotations

from starlette.datastructures import Headers, MutableHeaders
from starlette.requests import Request
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from server.gateway.access.callers import KeyRing
from server.gateway.access.local_pages import LocalPages
from server.gateway.access.rates import RequestRates
from server.gateway.errors import Forbidden, InvalidKey, QuotaExceeded, QuotaStoreUnavailable, error_response
from server.gateway.observe.observer import observer_of

OPEN_PATHS = frozenset(
    {
        "/",
        "/health",
        "/ready",
        "/version",
        "/docs",
        "/docs/dom.js",
        "/docs/icon.svg",
        "/docs/reference.css",
        "/docs/reference.js",
        "/docs/theme.css",
        "/openapi.json",
    }
)
"""They answer strangers, too, and must tell them nothing that is not public."""
PLAYGROUND_PREFIX = "/playground"
"""The playground's files, which are public, too."""


class Guard:
    def __init__(self, app: ASGIApp, *, keys: KeyRing, rates: RequestRates, pages: LocalPages) -> None:
        self._app = app
        self._keys = keys
        self._pages = pages
        self._rates = rates

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            await self._app(scope, receive, send)
            return
        if scope["type"] != "http":
            # We serve no other protocol; nothing may slip past the keys by one.
            raise RuntimeError(f"unexpected {scope['type']} connection")
        state = scope.setdefault("state", {})
        told: dict[str, str] = state.setdefault("response_headers", {})
        try:
            await self._admit(scope, told)
        except (InvalidKey, Forbidden, QuotaExceeded, QuotaStoreUnavailable) as error:
            observer_of(scope).failed(error)
            await error_response(error)(scope, receive, send)
            return

        async def send_told(message: Message) -> None:
            if told and message["type"] == "http.response.start":
                headers = MutableHeaders(scope=message)
                for name, value in told.items():
                    headers.setdefault(name, value)
            await send(message)

        await self._app(scope, receive, send_told)

    async def _admit(self, scope: Scope, told: dict[str, str]) -> None:
        headers = Headers(scope=scope)
        is_page = scope["path"] == "/" or scope["path"].startswith(f"{PLAYGROUND_PREFIX}/")
        if self._pages.is_on and not is_page:
            self._pages.check(headers)
        try:
            caller = self._keys.caller(headers)
        except InvalidKey:
            if is_page or scope["path"] in OPEN_PATHS:
                return
            raise
        scope["state"]["caller"] = caller
        # Reading what is served costs no engine anything.
        if scope["method"] not in ("GET", "HEAD", "OPTIONS"):
            told.update(await self._rates.count(caller))


def tell(request: Request, headers: dict[str, str]) -> None:
    """Put `headers` on the response of `request`, whatever it will be. One that it has already wins."""
    request.state.response_headers.update(headers)
