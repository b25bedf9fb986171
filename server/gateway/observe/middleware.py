"""The outermost layer around requests that generate: it sees them come and go."""

from __future__ import annotations

import re
from collections.abc import Awaitable, Mapping

from starlette.datastructures import Headers
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from server.gateway.observe.observation import Api, Observation
from server.gateway.observe.observatory import Observatory

_APIS: Mapping[str, Api] = {
    "/v1/chat/completions": "chat",
    "/v1/messages": "messages",
    "/v1/responses": "responses",
    "/v1/completions": "completions",
    "/v1/embeddings": "embeddings",
}
_THINK_MORE = re.compile(r"/v1/chat/completions/[^/]+/think_more")


class Observing:
    def __init__(self, app: ASGIApp, *, observatory: Observatory) -> None:
        self._app = app
        self._observatory = observatory

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        api = _api_of(scope)
        if api is None:
            await self._app(scope, receive, send)
            return
        state = scope.setdefault("state", {})
        seen = self._observatory.begin(api, Headers(scope=scope), state)
        if not isinstance(seen, Observation):
            await self._app(scope, receive, send)
            return
        state["observer"] = seen

        async def note_end(message: Message) -> None:
            await send(message)
            seen.complete = True

        def note(message: Message) -> Awaitable[None]:
            # Nothing is to be noted of most messages, which are a stream's tokens.
            if message.get("more_body"):
                return send(message)
            if message["type"] == "http.response.start":
                seen.status = message["status"]
                return send(message)
            return note_end(message)

        try:
            await self._app(scope, receive, note)
        finally:
            # It knows its state: together they would be a cycle, left to the garbage collector.
            state.pop("observer", None)
            self._observatory.end(seen)


def _api_of(scope: Scope) -> Api | None:
    if scope["type"] != "http" or scope["method"] != "POST":
        return None
    path = scope["path"]
    return _APIS.get(path) or ("chat" if _THINK_MORE.fullmatch(path) else None)
