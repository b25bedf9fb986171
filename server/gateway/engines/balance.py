"""Which of several engines that could serve a request gets it.

The one with the fewest tokens outstanding, unless another holds the beginning of the prompt in its prefix
cache and is hardly busier: then that one, which has less to compute.
"""

from __future__ import annotations

import hashlib
from collections import OrderedDict
from collections.abc import Collection, Mapping, Sequence
from functools import cached_property
from typing import Any

import orjson

from server.gateway.engines.engine import Engine

_BLOCK_BYTES = 512
"""Of a prompt's JSON; about 128 tokens. A shorter prompt is computed sooner than it is looked for."""
_BLOCKS_PER_PROMPT = 512
_BLOCKS_REMEMBERED = 32_768
"""About 10 MB; engines forget older prompts, too."""
_HARDLY_BUSIER = 0.25
"""By this part of the least outstanding, or by the request's own tokens, if that is more."""
_BEFORE_MESSAGES = ("cache_salt", "chat_template", "chat_template_kwargs", "tools", "documents")
"""What may change the rendered prompt from its beginning on, or keeps its cache apart from others'."""


class Prefix:
    """The beginnings of a prompt, told from others' by digests. Nothing is computed until it is asked for."""

    def __init__(self, model: str, fields: Mapping[str, Any]) -> None:
        self._model = model
        self._fields = fields

    @cached_property
    def blocks(self) -> tuple[bytes, ...]:
        """A digest for each beginning of one, two, … whole blocks."""
        head = [self._model, *(self._fields.get(name) for name in _BEFORE_MESSAGES)]
        text = bytearray(orjson.dumps(head))
        for message in self._fields.get("messages", ()):
            if len(text) >= _BLOCK_BYTES * _BLOCKS_PER_PROMPT:
                break
            text += orjson.dumps(message)
        whole = min(len(text) // _BLOCK_BYTES, _BLOCKS_PER_PROMPT)
        chain = hashlib.blake2b(digest_size=16)
        digests = []
        for block in range(whole):
            chain.update(text[block * _BLOCK_BYTES : (block + 1) * _BLOCK_BYTES])
            digests.append(chain.digest())
        return tuple(digests)


class Balance:
    """Remembers which beginnings of prompts went to which engine."""

    def __init__(self) -> None:
        self._holders: OrderedDict[bytes, dict[str, int]] = OrderedDict()
        """By block: engines' URLs, each with its `reconnects` then: one that was away has an empty cache."""

    def choose(self, engines: Sequence[Engine], *, tokens: int, prefix: Prefix) -> Engine:
        """One of `engines`, which now counts as holding the prompt.

        Args:
            tokens: what the request may come to hold in the engine's cache.
        """
        if len(engines) == 1:
            return engines[0]
        chosen = self._preferred(engines, tokens, prefix) or least_busy(engines)
        self._remember(prefix, chosen)
        return chosen

    def _preferred(self, engines: Sequence[Engine], tokens: int, prefix: Prefix) -> Engine | None:
        """Of the engines that are hardly busier than the least busy, the one with most of the prompt."""
        if not prefix.blocks:
            return None
        idlest = least_busy(engines)
        most = idlest.committed_tokens + max(tokens, idlest.committed_tokens * _HARDLY_BUSIER)
        near = [
            engine for engine in engines if engine.committed_tokens <= most and _kind(engine) == _kind(idlest)
        ]
        held = {engine.url: self._blocks_held(prefix, engine) for engine in near}
        best = min(near, key=lambda engine: (-held[engine.url], *_load(engine)))
        return best if held[best.url] else None

    def _blocks_held(self, prefix: Prefix, engine: Engine) -> int:
        for count, digest in enumerate(prefix.blocks):
            if self._holders.get(digest, {}).get(engine.url) != engine.status.reconnects:
                return count
        return len(prefix.blocks)

    def _remember(self, prefix: Prefix, engine: Engine) -> None:
        # Backwards, so that beginnings, which more prompts share, are forgotten last.
        for digest in reversed(prefix.blocks):
            self._holders.setdefault(digest, {})[engine.url] = engine.status.reconnects
            self._holders.move_to_end(digest)
        while len(self._holders) > _BLOCKS_REMEMBERED:
            self._holders.popitem(last=False)


def least_busy(engines: Collection[Engine]) -> Engine:
    """By tokens outstanding, and where they aren't known by generations."""
    return min(engines, key=_load)


def _load(engine: Engine) -> tuple[bool, int, int]:
    return (_kind(engine), engine.committed_tokens, engine.outstanding)


def _kind(engine: Engine) -> bool:
    """Rounds cost an engine more, and honour fewer fields: such engines come last."""
    return engine.status.enforcement == "rounds"
