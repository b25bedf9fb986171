"""How many tokens an event of a stream has.

An event costs an engine's front end, this gateway and the client the same whether it carries one token or
ten, and it is most of what a token costs outside of the GPU. So the gateway asks the engine for as many
tokens an event (vLLM's `stream_interval`) as still give a person `UPDATES_PER_S` updates a second, from
what the engine's streams have lately made. The first token comes at once in any case. What has been
received together goes on as one event, too (`bursts.py`): a client that reads slowly gets fewer, larger
ones.

`stream_granularity: "token"` keeps one token an event.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Literal

if TYPE_CHECKING:
    from server.gateway.chat.chat_call import ChatCall
    from server.gateway.engines.engine import Engine

Granularity = Literal["auto", "token"]
STREAM_GRANULARITY = "stream_granularity"

UPDATES_PER_S = 20
CROWDED_UPDATES_PER_S = 15
CROWD = 64
"""Generations under way on an engine from which a person has to do with the smaller number."""
MOST_TOKENS = 64
"""Of an event, however fast the engine is."""
_LEARN_SLOWER, _LEARN_FASTER = 0.5, 0.2
"""An engine that slows down is believed sooner: too many tokens an event are worse than too few."""


@dataclass(slots=True)
class Pace:
    """Tokens per second of one stream of an engine, as lately seen. None: not yet."""

    tokens_per_s: float | None = None

    def note(self, tokens: int, seconds: float) -> None:
        if tokens <= 0 or seconds <= 0:
            return
        seen = tokens / seconds
        if self.tokens_per_s is None:
            self.tokens_per_s = seen
            return
        part = _LEARN_SLOWER if seen < self.tokens_per_s else _LEARN_FASTER
        self.tokens_per_s += part * (seen - self.tokens_per_s)

    def interval(self, generations: int) -> int:
        """Tokens of an event for a stream that begins now.

        Args:
            generations: under way on the engine.
        """
        if self.tokens_per_s is None:
            return 1
        updates_per_s = CROWDED_UPDATES_PER_S if generations >= CROWD else UPDATES_PER_S
        return max(1, min(MOST_TOKENS, int(self.tokens_per_s / updates_per_s)))


class StreamSpeed:
    """Measures one stream on its way, without counting its tokens one by one."""

    def __init__(self, pace: Pace) -> None:
        self._pace = pace
        self._began = 0.0

    def see(self, chunk: Mapping[str, Any]) -> None:
        if not self._began:
            if chunk.get("choices") and any(chunk["choices"][0].get("delta", {}).values()):
                self._began = time.monotonic()
        elif chunk.get("usage") and not chunk.get("choices"):
            made = chunk["usage"].get("completion_tokens")
            if isinstance(made, int):
                self._pace.note(made - 1, time.monotonic() - self._began)


def paced(call: ChatCall, engine: Engine, usual: Granularity) -> ChatCall:
    """`call` with the granularity that holds for it, and the tokens an event that suit `engine` now.

    Left alone are requests that say it themselves, and those whose chunks are more than text: vLLM's tool
    parsers are at their best with a token at a time.

    Args:
        usual: where the request doesn't say.
    """
    if not call.stream:
        return call
    as_it_is = "stream_interval" in call.fields or "tools" in call.fields
    granularity: Granularity = "token" if as_it_is else call.granularity or usual
    call = replace(call, granularity=granularity)
    if granularity == "token" or call.parallel is not None or call.beam_search:
        return call
    if call.continues is not None:
        # Rounds stream by themselves.
        return call
    # Only our own plugin's engines are known to take the field: others may ignore or refuse it.
    if engine.status.description is None:
        return call
    # Other workers have about as many under way there.
    interval = engine.pace.interval(engine.outstanding * engine.settings.workers)
    return call if interval == 1 else replace(call, fields=call.fields | {"stream_interval": interval})
