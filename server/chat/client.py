"""Asks a server over HTTP, and hands on what it says as it comes."""

from __future__ import annotations

import contextlib
from collections.abc import Generator, Iterator, Mapping
from dataclasses import dataclass, field
from http import HTTPStatus
from typing import Any, Literal, Self

import httpx
import orjson

from server.chat.events import Events

_CONNECT_TIMEOUT_S = 10.0
_SHORT_TIMEOUT_S = 30.0
"""For everything but generation, which may wait and think for as long as it takes: Ctrl-C ends it."""
CHAT_PATH = "/v1/chat/completions"


class ChatError(Exception):
    """What went wrong, in words for the person at the terminal."""


@dataclass(frozen=True, slots=True)
class Piece:
    kind: Literal["thinking", "answer"]
    text: str


@dataclass(slots=True)
class Reply:
    """An answer, growing while it streams; `receipt` comes with its end."""

    id: str | None = None
    thinking: list[str] = field(default_factory=list)
    answer: list[str] = field(default_factory=list)
    receipt: Mapping[str, Any] | None = None
    finish_reason: str | None = None

    @property
    def text(self) -> str:
        return "".join(self.answer)


class ChatClient:
    def __init__(self, url: str, *, key: str | None = None) -> None:
        """
        Args:
            url: the server, with or without /v1.

        Raises:
            ChatError: it is not a URL.
        """
        base = url.rstrip("/").removesuffix("/v1")
        if not base.startswith(("http://", "https://")):
            raise ChatError(f"--url is http(s)://HOST:PORT. Given: {url}")
        self.url = base
        headers = {"authorization": f"Bearer {key}"} if key else {}
        timeout = httpx.Timeout(_SHORT_TIMEOUT_S, connect=_CONNECT_TIMEOUT_S)
        try:
            self._http = httpx.Client(base_url=base, headers=headers, timeout=timeout)
        except (httpx.InvalidURL, UnicodeEncodeError) as error:
            raise ChatError(f"--url or --key can't be used: {error}") from None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._http.close()

    def models(self) -> list[str]:
        """Raises: ChatError."""
        with self._explained():
            response = self._http.get("/v1/models")
            _check(response)
            try:
                return [str(card["id"]) for card in response.json()["data"]]
            except (ValueError, KeyError, TypeError):
                raise ChatError(f"{self.url} does not speak OpenAI's API: it lists no models") from None

    def ask(self, path: str, body: Mapping[str, Any], reply: Reply) -> Generator[Piece, None, None]:
        """Stream an answer; `reply` is filled along. Closing the iterator ends the request.

        Raises:
            ChatError: it was refused, or broke off; what came until then is in `reply`.
        """
        patient = httpx.Timeout(None, connect=_CONNECT_TIMEOUT_S)
        with (
            self._explained(),
            self._http.stream("POST", path, json={**body, "stream": True}, timeout=patient) as response,
        ):
            if response.status_code != HTTPStatus.OK:
                response.read()
                _check(response)
            ended = False
            for event in _events(response):
                if event.strip() == b"[DONE]":
                    ended = True
                else:
                    yield from _read(orjson.loads(event), reply)
            if not ended and reply.finish_reason is None:
                raise ChatError("the answer broke off: the connection ended before it did")

    @contextlib.contextmanager
    def _explained(self) -> Iterator[None]:
        try:
            yield
        except httpx.ConnectError:
            raise ChatError(f"nothing answers at {self.url}. `s1 serve` starts a server there") from None
        except httpx.TimeoutException:
            raise ChatError(f"{self.url} did not answer in time") from None
        except httpx.TransportError as error:
            raise ChatError(f"the connection to {self.url} broke: {error}") from None
        except UnicodeEncodeError:
            raise ChatError("the question is not UTF-8") from None
        except orjson.JSONDecodeError:
            raise ChatError(f"{self.url} sent what is not an answer of OpenAI's API") from None


def _events(response: httpx.Response) -> Iterator[bytes]:
    events = Events()
    for part in response.iter_bytes():
        yield from events.feed(part)
    yield from events.end()


def _read(chunk: Mapping[str, Any], reply: Reply) -> Iterator[Piece]:
    if chunk.get("error"):
        raise ChatError(f"the answer broke off: {_message(chunk)}")
    reply.id = chunk.get("id") or reply.id
    for choice in chunk.get("choices") or ():
        delta = choice.get("delta") or {}
        thinking = delta.get("reasoning") or delta.get("reasoning_content")
        if thinking:
            reply.thinking.append(thinking)
            yield Piece("thinking", thinking)
        if delta.get("content"):
            reply.answer.append(delta["content"])
            yield Piece("answer", delta["content"])
        reply.receipt = choice.get("thinking_budget") or reply.receipt
        reply.finish_reason = choice.get("finish_reason") or reply.finish_reason


def _check(response: httpx.Response) -> None:
    if response.status_code == HTTPStatus.OK:
        return
    try:
        said = _message(response.json())
    except ValueError:
        said = f"it answered {response.status_code}"
    if response.status_code == HTTPStatus.UNAUTHORIZED:
        said += " (--key, or S1_API_KEY in the environment)"
    if again := response.headers.get("retry-after"):
        said += f" (try again in {again} s)"
    raise ChatError(said)


def _message(body: Any) -> str:
    error = body.get("error") if isinstance(body, dict) else None
    message = error.get("message") if isinstance(error, dict) else None
    return str(message or "the server gave no reason")
