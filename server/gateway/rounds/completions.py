"""What rounds need of an engine, whatever its make: the interface that each make's dialect fills.

A dialect speaks one make's HTTP API. What it promises is proven on the engine itself at the connection
(`vocabulary.py`), through the same `generate` that rounds then use.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import AsyncGenerator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Final

import orjson

from server.gateway.engines.engine import Engine
from server.gateway.errors import EngineMisbehaved, EngineRefused

_ABSENT: Final = (404, 405, 501)


class RoundsUnavailable(Exception):
    """The engine's API lacks something that rounds need; the message names it."""


@dataclass(frozen=True, slots=True)
class Ask:
    """One round: what the engine may generate before the machine has to decide."""

    max_tokens: int
    stop: frozenset[int]
    masked: bool
    """The stop tokens can't be the first token."""
    banned: frozenset[int] = frozenset()
    """Can't be sampled at all."""


@dataclass(frozen=True, slots=True)
class Part:
    """A piece of one round's output. A stop token is in `token_ids` and not in `text`."""

    text: str
    token_ids: list[int]
    finish_reason: str | None = None
    """On the last part: "stop" at a stop token or the model's own end, else "length"."""
    stop_reason: int | str | None = None


@dataclass(frozen=True, slots=True)
class Rendered:
    """A conversation as the model sees it."""

    token_ids: list[int]
    max_model_len: int
    """Most tokens that prompt and completion may have together."""


@dataclass(frozen=True, slots=True)
class Alone:
    """What a generation showed in which only one token could be sampled."""

    token: int
    special: bool
    """Its text isn't shown to clients."""
    ends: bool
    """The model's turn ends with it, though nobody asked for that."""
    primary: bool
    """It is the tokenizer's own end token; others come from the model's configuration."""


class Completions(ABC):
    """One model on one engine of a make.

    Every method raises EngineRefused, EngineDied and EngineMisbehaved, and while probing RoundsUnavailable.
    """

    make: ClassVar[str]
    """Whose API it is, for people."""
    prompt_fields: ClassVar[frozenset[str]]
    """Fields of a chat request that `render` honours."""
    sampling_fields: ClassVar[frozenset[str]]
    """Fields of a chat request that `generate` honours."""
    chat_fields: ClassVar[frozenset[str] | None]
    """Fields that the engine's own chat route honours; None if it honours or refuses every one."""

    keeps_alive: ClassVar[bool]
    """Connections may be used for several requests."""

    def __init__(
        self, engine: Engine, model: str, *, probing: bool = False, timeout_s: float | None = None
    ) -> None:
        """
        Args:
            probing: bound the time of each call, and tell a missing route as RoundsUnavailable.
            timeout_s: of each call, where it isn't probing.
        """
        self._engine = engine
        self._model = model
        self._probing = probing
        self._timeout_s = engine.settings.probe_timeout_s if probing else timeout_s

    @abstractmethod
    async def render(self, fields: Mapping[str, Any], request_id: str | None = None) -> Rendered:
        """Apply the chat template.

        Args:
            fields: names of `prompt_fields`.
        """

    @abstractmethod
    async def encode(self, text: str) -> list[int]:
        """The text's tokens, special ones recognised, without any that begin a sequence."""

    @abstractmethod
    async def decode(self, token_ids: Sequence[int], request_id: str | None = None) -> str:
        """The tokens' text, special ones included."""

    @abstractmethod
    def generate(
        self, prompt: list[int], ask: Ask, sampling: Mapping[str, Any], request_id: str | None = None
    ) -> AsyncGenerator[Part, None]:
        """One round as it comes, at most `ask.max_tokens` tokens; closing the generator stops the engine.

        Args:
            sampling: names of `sampling_fields`, and `seed`.

        Raises:
            InvalidRequest: this make can't be asked for that.
        """

    def check(self, ask: Ask, sampling: Mapping[str, Any]) -> None:
        """Refuse at once what `generate` would refuse when it comes to that ask.

        Raises:
            InvalidRequest
        """
        return

    @abstractmethod
    async def vocabulary_size(self) -> int:
        """Rows of the output layer."""

    @abstractmethod
    async def try_alone(self, token: int) -> Alone:
        """What the engine makes of `token` when no other can be sampled."""

    @abstractmethod
    def only(self, tokens: Sequence[int]) -> dict[str, Any]:
        """Fields for `generate` that let nothing but `tokens` be sampled. For proofs."""

    async def check_rendering(self, rendered: Rendered, messages: Sequence[Mapping[str, Any]]) -> None:
        """That the chat route gives the model the prompt that `render` gives, where that is in doubt."""
        return

    async def _post(
        self, path: str, fields: Mapping[str, Any], request_id: str | None = None
    ) -> dict[str, Any]:
        try:
            return await self._engine.post(path, self._body(fields), request_id, timeout_s=self._timeout_s)
        except EngineRefused as error:
            if self._probing and error.status in _ABSENT:
                raise RoundsUnavailable(f"it has no {path}") from error
            raise

    def _body(self, fields: Mapping[str, Any]) -> bytes:
        return orjson.dumps({"model": self._model, **fields})


def read_token_ids(answer: Mapping[str, Any]) -> list[int]:
    """The `tokens` of an answer of /tokenize.

    Raises:
        EngineMisbehaved
    """
    tokens = answer.get("tokens")
    if not isinstance(tokens, list) or not all(isinstance(token, int) for token in tokens):
        raise EngineMisbehaved("the engine's /tokenize can't be read: it has no `tokens`")
    return tokens
