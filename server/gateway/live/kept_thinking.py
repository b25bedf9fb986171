"""The token ids of completions that have ended, kept in memory for a while, so that one can think on.

Nothing of it is ever written anywhere. An entry goes when its time is up, when newer ones need its place, or
with the process.
"""

from __future__ import annotations

import asyncio
import time
from array import array
from collections import OrderedDict
from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from typing import Any

import orjson

from server.budget.receipt import EngineReceipt, count_tokens
from server.gateway.chat.chat_call import ChatCall, EngineCall
from server.gateway.engines.engine import ChatEngine
from server.gateway.rounds.completions_vllm import VllmCompletions
from server.gateway.rounds.fields import first_unhonoured
from server.gateway.settings import Settings

_INHERITED = VllmCompletions.sampling_fields | {"include_reasoning", "seed", "stop"}
"""Fields of a request that hold for its continuation, too, beside its limit of completion tokens."""
INT32 = "i"
_TOKEN_BYTES = 4
_ENTRY_TOKENS = 64
"""What an entry weighs beside its tokens: one that holds none must not be free."""


@dataclass(slots=True)
class KeptChoice:
    prompt: Sequence[int]
    output: Sequence[int]
    thinking_end: int | None = None
    """Output position of the end marker, where the engine has told it."""
    thinking_tokens: int | None = None
    waits: int = 0

    @property
    def size(self) -> int:
        return len(self.prompt) + len(self.output)


@dataclass(slots=True)
class Kept:
    """One completion."""

    model: str
    fields: Mapping[str, Any]
    """Of its request, for its continuation, if it can have one."""
    hides_reasoning: bool
    refusal: str | None
    """Why it can't think on; its tokens are not kept then."""
    earlier_thinking_tokens: int = 0
    earlier_waits: int = 0
    """Of the completions that it continues itself."""
    choices: dict[int, KeptChoice] = field(default_factory=dict)
    noted_s: float = 0.0
    """When it was noted, of the system's clock."""
    until: float = 0.0
    """When its time is up, of the event loop's clock."""
    fields_tokens: int = 0
    """What the fields weigh."""

    @classmethod
    def of(cls, call: ChatCall, *, model: str, gives_ids: bool) -> Kept:
        """
        Args:
            gives_ids: the engine tells the token ids of this request.
        """
        refusal = _refusal(call, gives_ids=gives_ids)
        fields: dict[str, Any] = {}
        if refusal is None:
            fields = {name: value for name, value in call.fields.items() if name in _INHERITED}
            if call.room is not None:
                fields["max_completion_tokens"] = call.room[1]
        earlier = call.origin.continues or {}
        return cls(
            model,
            fields,
            call.hides_reasoning,
            refusal,
            earlier_thinking_tokens=earlier.get("thinking_tokens", 0),
            earlier_waits=earlier.get("waits", 0),
            fields_tokens=len(orjson.dumps(fields)) // _TOKEN_BYTES,
        )

    @property
    def size(self) -> int:
        """Tokens, and as many more as the entry itself and its fields weigh."""
        return _ENTRY_TOKENS + self.fields_tokens + sum(choice.size for choice in self.choices.values())


def _refusal(call: ChatCall, *, gives_ids: bool) -> str | None:
    if call.parallel is not None:
        return "it was answered by several branches"
    if call.budget.max_thinking_tokens == 0 and call.continues is None:
        return "it was to have no thinking"
    # How finely it was streamed is no matter of its tokens.
    asked = {name: value for name, value in call.fields.items() if name != "stream_interval"}
    unhonoured = first_unhonoured(asked, VllmCompletions)
    if unhonoured is not None:
        return f"its request had `{unhonoured[0]}`, which can't be honoured in a continuation"
    if not gives_ids:
        return "its engine runs without the s1 plugin, and it had no thinking budget"
    return None


class KeptThinking:
    def __init__(self, settings: Settings) -> None:
        self._keep_s = settings.think_more_keep_s
        self._most_tokens = settings.think_more_keep_tokens
        self._kept: OrderedDict[tuple[str, str], Kept] = OrderedDict()
        """The oldest first."""
        self._sweeping: asyncio.TimerHandle | None = None
        self._tokens = 0

    @property
    def is_on(self) -> bool:
        return self._keep_s > 0 and self._most_tokens > 0

    @property
    def tokens(self) -> int:
        return self._tokens

    def find(self, account: str, id: str) -> Kept | None:
        return self._kept.get((account, id))

    def put(self, name: tuple[str, str], kept: Kept, index: int, choice: KeptChoice) -> None:
        """Add a choice of the completion with this account and id."""
        self.note(name, kept)
        if self._kept.get(name) is not kept:
            return
        kept.choices[index] = choice
        self._tokens += choice.size
        self._make_room()

    def note(self, name: tuple[str, str], kept: Kept) -> None:
        """Keep what is known of a completion. Another one under the same id goes."""
        if self._kept.get(name) is not kept:
            self._drop(name)
            self._kept[name] = kept
            kept.noted_s = time.time()
            self._tokens += kept.size
            loop = asyncio.get_running_loop()
            kept.until = loop.time() + self._keep_s
            if self._sweeping is None:
                self._sweeping = loop.call_at(kept.until, self._sweep)
            self._make_room()

    def _make_room(self) -> None:
        while self._tokens > self._most_tokens:
            self._drop(next(iter(self._kept)))

    def _sweep(self) -> None:
        """Drop what has had its time. One timer serves all: they would outlive what they are for."""
        self._sweeping = None
        loop = asyncio.get_running_loop()
        while self._kept:
            name, oldest = next(iter(self._kept.items()))
            if oldest.until > loop.time():
                self._sweeping = loop.call_at(oldest.until, self._sweep)
                return
            self._drop(name)

    def _drop(self, name: tuple[str, str]) -> None:
        dropped = self._kept.pop(name, None)
        if dropped is not None:
            self._tokens -= dropped.size
            dropped.choices.clear()


@dataclass(slots=True)
class KeepingEngine:
    """A `ChatEngine` whose completions are kept. Its calls ask for token ids, which clients may not get."""

    engine: ChatEngine
    store: KeptThinking
    name: tuple[str, str]
    kept: Kept
    _by_receipt: dict[str, KeptChoice] = field(default_factory=dict)

    @classmethod
    def of(cls, answering: ChatEngine, store: KeptThinking, name: tuple[str, str], kept: Kept) -> ChatEngine:
        """`answering` itself if there is nothing to keep but the reason."""
        if kept.refusal is None:
            return cls(answering, store, name, kept)
        store.note(name, kept)
        return answering

    def occupied(self, generations: int) -> AbstractContextManager[None]:
        return self.engine.occupied(generations)

    async def complete(self, call: EngineCall) -> dict[str, Any]:
        answer = await self.engine.complete(call)
        for choice in answer.get("choices") or ():
            ids = choice.get("token_ids") or ()
            kept = self._keep(call, answer.get("prompt_token_ids") or (), ids)
            kept.thinking_tokens = _thinking_tokens(answer.get("usage"))
        return answer

    async def stream(self, call: EngineCall, on_event: Callable[[dict[str, Any]], Awaitable[None]]) -> None:
        prompt: Sequence[int] = ()
        output = array(INT32)
        usage: Any = None

        async def note(chunk: dict[str, Any]) -> None:
            nonlocal prompt, usage
            usage = chunk.get("usage") or usage
            prompt = chunk.get("prompt_token_ids") or prompt
            for choice in chunk.get("choices") or ():
                output.extend(choice.get("token_ids") or ())
            await on_event(chunk)

        await self.engine.stream(call, note)
        self._keep(call, prompt, output).thinking_tokens = _thinking_tokens(usage)

    async def receipt(self, call: EngineCall, output_tokens: int) -> EngineReceipt:
        recorded = await self.engine.receipt(call, output_tokens)
        choice = self._by_receipt.get(str(call.receipt_id))
        if choice is not None:
            delivered = len(choice.output)
            choice.thinking_tokens = count_tokens(recorded, delivered).thinking
            choice.waits = sum(position < delivered for position in recorded.wait_positions)
            end = recorded.thinking_end
            choice.thinking_end = end if end is not None and end <= delivered else None
        return recorded

    async def end_thinking(self, receipt_id: str, ended_by: str) -> str:
        return await self.engine.end_thinking(receipt_id, ended_by)

    def _keep(self, call: EngineCall, prompt: Sequence[int], output: Sequence[int]) -> KeptChoice:
        choice = KeptChoice(array(INT32, prompt), array(INT32, output))
        if call.receipt_id is not None:
            self._by_receipt[call.receipt_id] = choice
        self.store.put(self.name, self.kept, call.index or 0, choice)
        return choice


def _thinking_tokens(usage: Any) -> int | None:
    details = (usage or {}).get("completion_tokens_details") or {}
    counted = details.get("reasoning_tokens")
    return counted if isinstance(counted, int) else None
