"""What a server is, as far as a load test has to know: its model, which fields it takes, its markers' ids."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from dataclasses import dataclass
from http import HTTPStatus
from typing import Any

import orjson

from loadtest.client.asking import Dialect
from loadtest.client.counting import Markers
from loadtest.client.forms import refusal
from loadtest.client.wire import Client, Target, WireError
from loadtest.client.workload import BudgetFields
from server.budget.families import FAMILIES

_KEY_HINT = " (--api-key, or S1_API_KEY in the environment, gives a key)"


class DiscoveryError(RuntimeError):
    """The server can't be load-tested; the message says what it answered."""


@dataclass(frozen=True, slots=True)
class Found:
    dialect: Dialect
    said: dict[str, Any]
    """Of itself, for the report."""


def discover(
    url: str,
    *,
    model: str | None,
    fields: BudgetFields,
    key: str | None,
    family: str | None,
    timeout_s: float,
) -> Found:
    """
    Raises:
        DiscoveryError
    """
    return asyncio.run(_discover(url, model, fields, key, family, timeout_s))


async def _discover(
    url: str, model: str | None, fields: BudgetFields, key: str | None, family: str | None, timeout_s: float
) -> Found:
    try:
        target = Target.of(url)
    except ValueError as error:
        raise DiscoveryError(str(error)) from None
    server = _Server(target, Client(target), f"authorization: Bearer {key}\r\n" if key else "")
    try:
        models = await server.json("GET", "/v1/models")
        model = model or _only_model(models)
        with_ids = await server.takes_ids(model, timeout_s)
        family = family or _family_of(models, model) or await server.engine_family()
        markers = await server.markers(model, family)
        version = await server.json("GET", "/version", optional=True)
    except WireError as error:
        raise DiscoveryError(f"{url} can't be reached: {error}") from None
    finally:
        server.client.close()
    dialect = Dialect(model, fields, with_ids, markers, key, timeout_s)
    said = {
        "url": url,
        "model": model,
        "version": (version or {}).get("version"),
        "returns_token_ids": with_ids,
        "family": family,
        "think_end_ids": list(markers.end),
        "budget_fields": fields,
    }
    return Found(dialect, said)


@dataclass(frozen=True, slots=True)
class _Server:
    target: Target
    client: Client
    headers: str

    async def json(
        self, method: str, path: str, body: Mapping[str, Any] | None = None, *, optional: bool = False
    ) -> dict[str, Any] | None:
        """The object that answers; None if `optional` and it is not a 200."""
        raw = b"" if body is None else orjson.dumps(body)
        status, answer = await self.client.fetch(self.target.request(method, path, raw, headers=self.headers))
        if status != 200:
            if optional:
                return None
            hint = _KEY_HINT if status == HTTPStatus.UNAUTHORIZED else ""
            raise DiscoveryError(f"{method} {path} gives {status}: {refusal(answer)}{hint}")
        try:
            found = orjson.loads(answer)
        except orjson.JSONDecodeError:
            found = None
        if isinstance(found, dict):
            return found
        if optional:
            return None
        raise DiscoveryError(f"{method} {path} gives what is not a JSON object")

    async def takes_ids(self, model: str, timeout_s: float) -> bool:
        """Whether `return_token_ids` gives ids; it is left away for a server that refuses or ignores it."""
        body = {"model": model, "messages": [{"role": "user", "content": "Say yes."}]}
        length, ids = {"max_completion_tokens": 16}, {"return_token_ids": True}
        path = "/v1/chat/completions"
        try:
            async with asyncio.timeout(timeout_s):
                answer = await self.json("POST", path, body | length | ids, optional=True)
                if answer is None:
                    await self.json("POST", path, body | length)
                    return False
        except TimeoutError:
            raise DiscoveryError(f"a request of 16 tokens has no answer after {timeout_s:g} s") from None
        return any(choice.get("token_ids") for choice in answer.get("choices") or ())

    async def engine_family(self) -> str | None:
        """Of an engine that runs with our plugin; None for any other server."""
        described = await self.json("GET", "/s1/engine", optional=True)
        return None if described is None else str(described.get("family"))

    async def markers(self, model: str, family: str | None) -> Markers:
        """By /tokenize; empty if the server has none, and counts then come from its usage."""
        if family not in FAMILIES:
            return Markers()
        texts = FAMILIES[family]
        start = await self._tokens(model, texts.think_start)
        return Markers(start, await self._tokens(model, texts.think_end))

    async def _tokens(self, model: str, text: str) -> tuple[int, ...]:
        body = {"model": model, "prompt": text, "add_special_tokens": False}
        answer = await self.json("POST", "/tokenize", body, optional=True)
        tokens = (answer or {}).get("tokens")
        return tuple(tokens) if isinstance(tokens, list) else ()


def _only_model(models: Mapping[str, Any] | None) -> str:
    ids = [card.get("id") for card in (models or {}).get("data") or () if isinstance(card, dict)]
    if not ids:
        raise DiscoveryError("the server's /v1/models names no model")
    return str(ids[0])


def _family_of(models: Mapping[str, Any] | None, model: str) -> str | None:
    """As our gateway's model card says it."""
    for card in (models or {}).get("data") or ():
        if isinstance(card, dict) and card.get("id") == model:
            named = (card.get("thinking") or {}).get("family")
            return None if named is None else str(named)
    return None
