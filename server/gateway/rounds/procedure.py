"""Budget forcing before an engine without our plugin: s1's own way, round after round, on token ids.

Let the model think up to an end token or to the budget; drop that token; append the wait text, or the exit;
send everything again. `BudgetMachine` holds the rules; this module asks the engine for as many tokens as the
machine leaves to the model, and gives the machine what comes back. Source: s1's evaluation code, which does
the same (`vllm_causallms.py`, `_model_generate`).

Prefix caching makes a round cheap for the engine, but it queues anew: the plugin is faster. Limits, beside
the fields that `rounds_fields.py` refuses: with a seed, the same request gives the same tokens, but not those
that one uninterrupted generation would; a `max_new_tokens` in the model's generation config bounds each round
and not the whole.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from contextlib import AbstractContextManager, aclosing
from dataclasses import dataclass, replace
from typing import Any

from server.budget.end_watch import EndWatch
from server.budget.machine import BudgetMachine, Phase
from server.budget.markers import MarkerIds, wait_ids
from server.budget.receipt import EngineReceipt, count_tokens
from server.budget.spec import RoomLimit, resolve
from server.gateway.chat.chat_call import EngineCall
from server.gateway.engines.engine import Engine, RoundsSupport
from server.gateway.errors import Conflict, EngineMisbehaved, ReceiptMissing
from server.gateway.rounds.completions import Ask, Rendered
from server.gateway.rounds.fields import prompt_fields
from server.gateway.rounds.transcript import StopMatch, Transcript

_SEED_STRIDE = 1_000_003
"""Rounds must not repeat each other's random numbers, nor those of the next choice (seed + 1)."""
_INT64 = 2**63

OnPiece = Callable[["Piece"], Awaitable[None]]


@dataclass(frozen=True, slots=True)
class Piece:
    reasoning: str
    content: str
    token_ids: list[int]


@dataclass(frozen=True, slots=True)
class Ending:
    finish_reason: str
    stop_reason: int | str | None


def next_ask(machine: BudgetMachine, room: int) -> Ask:
    """The next round of a machine that forces nothing.

    Args:
        room: completion tokens left.
    """
    ids, budget = machine.ids, machine.budget
    masked = machine.masked - ids.unknown  # every ask bans those
    if machine.phase is Phase.ANSWER_START:
        return Ask(1, masked, masked=True)
    if machine.phase is Phase.ANSWER:
        ends = frozenset({ids.start[0], ids.end[0]}) if ids.family.marker_ends_answer else frozenset()
        return Ask(room, ends, masked=False)
    free = min(room, budget.max - 1 - machine.thinking_tokens)
    if not budget.landing:
        return Ask(free, ids.end_attempt, masked=bool(masked))
    until_landing = budget.max - budget.landing - machine.thinking_tokens - 1
    if until_landing > 0:
        return Ask(min(free, until_landing), ids.end_attempt, masked=bool(masked))
    if masked:
        # Only end tokens are masked: a sentence may end here.
        return Ask(1, masked, masked=True)
    return Ask(free, ids.end_attempt | ids.sentence_end, masked=False)


def answer_start(ids: MarkerIds) -> Ask:
    """What every answer begins with: the ask with the most masked tokens, unless white space has come."""
    return Ask(1, ids.not_first_in_answer - ids.unknown, masked=True, banned=ids.unknown)


class Rounds:
    """A `ChatEngine`: answers like an engine with the plugin, out of completions of one without."""

    def __init__(
        self, engine: Engine, support: RoundsSupport, *, continued: Sequence[int] | None = None
    ) -> None:
        """
        Args:
            continued: token ids of a prompt and its thinking so far, instead of messages: the thinking goes
                on as if the model had just tried to end it.
        """
        self._continued = continued
        self._engine = engine
        self._support = support
        self._receipts: dict[str, EngineReceipt] = {}
        self._running: dict[str, _Choice] = {}
        self._told: dict[str, str] = {}
        """Choices that aren't running yet and are to end their thinking at once."""

    def occupied(self, generations: int) -> AbstractContextManager[None]:
        return self._engine.occupied(generations)

    async def complete(self, call: EngineCall) -> dict[str, Any]:
        choice = _Choice(self._engine, self._support, call, self._continued)
        pieces: list[Piece] = []

        async def keep(piece: Piece) -> None:
            pieces.append(piece)

        ending = await self._run(choice, keep)
        message = {
            "role": "assistant",
            "content": "".join(piece.content for piece in pieces) or None,
            "refusal": None,
            "reasoning": "".join(piece.reasoning for piece in pieces) or None,
        }
        body = {
            "index": 0,
            "message": message,
            "logprobs": None,
            "finish_reason": ending.finish_reason,
            "stop_reason": ending.stop_reason,
            "token_ids": choice.output if choice.returns_ids else None,
        }
        answer = self._head(call, "chat.completion") | {"choices": [body], "usage": self._settle(choice)}
        return answer | ({"prompt_token_ids": choice.prompt} if choice.returns_ids else {})

    async def stream(self, call: EngineCall, on_event: Callable[[dict[str, Any]], Awaitable[None]]) -> None:
        choice = _Choice(self._engine, self._support, call, self._continued)
        head = self._head(call, "chat.completion.chunk")
        begun = False

        async def send(delta: dict[str, Any], **rest: Any) -> None:
            body = {"index": 0, "delta": delta, "logprobs": None, "finish_reason": None, **rest}
            await on_event(head | {"choices": [body]})

        async def begin() -> None:
            nonlocal begun
            if not begun:
                begun = True
                opening = {"index": 0, "delta": {"role": "assistant", "content": ""}, "finish_reason": None}
                prompt = {"prompt_token_ids": choice.prompt} if choice.returns_ids else {}
                await on_event(head | {"choices": [opening]} | prompt)

        async def pass_on(piece: Piece) -> None:
            await begin()
            ids = {"token_ids": piece.token_ids} if choice.returns_ids else {}
            parts = [
                {name: text}
                for name, text in (("reasoning", piece.reasoning), ("content", piece.content))
                if text
            ]
            for delta in parts or ([{}] if ids and piece.token_ids else []):
                await send(delta, **ids)
                ids = {}

        ending = await self._run(choice, pass_on)
        await begin()
        await send({}, finish_reason=ending.finish_reason, stop_reason=ending.stop_reason)
        await on_event(head | {"choices": [], "usage": self._settle(choice)})

    async def receipt(self, call: EngineCall, output_tokens: int) -> EngineReceipt:
        recorded = self._receipts.pop(str(call.receipt_id), None)
        if recorded is None or recorded.output_tokens < output_tokens:
            raise ReceiptMissing("receipt missing: the rounds of this choice left none")
        return recorded

    async def end_thinking(self, receipt_id: str, ended_by: str) -> str:
        choice = self._running.get(receipt_id)
        if choice is None:
            self._told.setdefault(receipt_id, ended_by)
            return "absent"
        return choice.end_thinking(ended_by)

    def _head(self, call: EngineCall, kind: str) -> dict[str, Any]:
        model = call.fields["model"]
        return {"id": call.request_id, "object": kind, "created": 0, "model": model}

    async def _run(self, choice: _Choice, on_piece: OnPiece) -> Ending:
        """Generate, and keep the receipt also of what doesn't come to its end."""
        self._running[choice.receipt_id] = choice
        if (ended_by := self._told.pop(choice.receipt_id, None)) is not None:
            choice.end_thinking(ended_by)
        try:
            return await choice.run(on_piece)
        finally:
            del self._running[choice.receipt_id]
            if choice.begun:
                self._receipts[choice.receipt_id] = choice.machine.receipt(choice.receipt_id)

    def _settle(self, choice: _Choice) -> dict[str, Any]:
        """The usage."""
        recorded = self._receipts[choice.receipt_id]
        prompt_tokens, completion_tokens = len(choice.prompt), len(choice.output)
        return {
            "prompt_tokens": prompt_tokens,
            "completion_tokens": completion_tokens,
            "total_tokens": prompt_tokens + completion_tokens,
            "completion_tokens_details": {
                "reasoning_tokens": count_tokens(recorded, completion_tokens).thinking
            },
        }


class _Choice:
    """One choice, from its messages to its end."""

    machine: BudgetMachine
    _ends: EndWatch
    _transcript: Transcript
    _room: int

    def __init__(
        self, engine: Engine, support: RoundsSupport, call: EngineCall, continued: Sequence[int] | None
    ) -> None:
        self._continued = continued
        self._engine = engine
        self._ids = support.ids
        self._call = call
        self._fields = call.fields
        self._completions = support.dialect(engine, self._fields["model"])
        self._rounds = 0
        self._handed_out = 0
        self.receipt_id = str(call.receipt_id)
        self.returns_ids = self._fields.get("return_token_ids") is True
        self._context_characters = 0
        self.begun = False
        self._told: str | None = None
        self.prompt: list[int] = []
        self.output: list[int] = []

    async def run(self, on_piece: OnPiece) -> Ending:
        """Generate to the end.

        Raises:
            BudgetError: the budget doesn't fit what prompt and max_completion_tokens leave.
            InvalidRequest: the engine's API can't say what has to be masked beside the client's `logit_bias`.
            EngineRefused, EngineDied, EngineMisbehaved
        """
        await self._begin()
        while True:
            ending = await self._force(on_piece)
            if ending is None and len(self.output) >= self._room:
                ending = Ending("length", None)
            if ending is None:
                ending = await self._round(on_piece)
            if ending is not None:
                await self._hand_out(on_piece, final=True)
                return ending

    def end_thinking(self, ended_by: str) -> str:
        """See `ChatEngine`. The machine leaves with the next token it is given, and so ends the round."""
        if not self.begun:
            self._told = self._told or ended_by
            return "absent"
        if self.machine.thinking_end is not None:
            return "answering"
        self.machine.end_thinking(ended_by)
        return "thinking"

    async def _begin(self) -> None:
        rendered = await self._render()
        self.prompt = rendered.token_ids
        context_room = rendered.max_model_len - len(self.prompt)
        asked = self._fields.get("max_completion_tokens", self._fields.get("max_tokens", context_room))
        limited_by: RoomLimit = "context" if asked >= context_room else "max_completion_tokens"
        self._room = min(asked, context_room)
        self._context_characters = len(await self._completions.decode(self.prompt[-1:]))
        opened = self._ids.opened(self.prompt)
        budget = resolve(
            self._call.budget,
            room=self._room,
            limited_by=limited_by,
            opening_tokens=0 if opened else len(self._ids.start),
            exit_tokens=self._ids.exit_tokens(),
        )
        if (texts := self._call.budget.wait_text) is not None:
            encoded = {text: await self._completions.encode(text) for text in texts}
            own = wait_ids(
                texts,
                encoded.__getitem__,
                reserved=self._ids.reserved,
                think_end=self._ids.family.think_end,
            )
            budget = replace(budget, wait_ids=own)
        self._completions.check(answer_start(self._ids), self._sampling())
        self.machine = BudgetMachine(self._ids, budget, opened=opened)
        if self._told is not None:
            self.machine.end_thinking(self._told)
        self._ends = EndWatch(self.machine)
        self.begun = True
        stop = self._fields.get("stop") or []
        self._transcript = Transcript(
            self._ids.family, opened=opened, stops=[stop] if isinstance(stop, str) else stop
        )

        if self._continued is not None and self.machine.forced is None:
            self.output.append(self.machine.commit(self._ids.eos_token))

    async def _render(self) -> Rendered:
        if self._continued is None:
            fields = prompt_fields(self._fields, self._completions.prompt_fields)
            return await self._completions.render(fields, self._call.request_id)
        context = self._engine.context(self._fields["model"])
        if context is None:
            raise EngineMisbehaved("the engine doesn't tell the length of its context")
        if len(self._continued) >= context:
            raise Conflict(
                f"the thinking so far fills the context ({context} tokens)", code="cannot_think_more"
            )
        return Rendered(list(self._continued), context)

    async def _force(self, on_piece: OnPiece) -> Ending | None:
        """Append what the machine forces; then the text is what the engine's tokenizer makes of all ids."""
        while self.machine.forced is not None and len(self.output) < self._room:
            self.output.append(self.machine.commit(self.machine.forced))
        if not self.output:
            return None
        match = self._grow(await self._text(self.output))
        if match is not None:
            return await self._stop_at(match)
        await self._hand_out(on_piece)
        return None

    async def _round(self, on_piece: OnPiece) -> Ending | None:
        """One request to the engine; the choice's ending if it ended in it."""
        ask = replace(next_ask(self.machine, self._room - len(self.output)), banned=self._ids.unknown)
        self._ends.begin_round()
        ask = replace(ask, max_tokens=max(1, ask.max_tokens - len(self._ends.held)))
        text, took, finish = self._transcript.text + self._ends.held_text, 0, None
        answering = self.machine.phase is Phase.ANSWER
        request_id = f"{self._call.request_id}-r{self._rounds}"
        prompt = self.prompt + self.output + self._ends.held
        generated = self._completions.generate(prompt, ask, self._sampling(), request_id)
        self._rounds += 1
        async with aclosing(generated) as parts:
            async for part in parts:
                taken = self._commit(part.token_ids, ask, first=took == 0)
                took += taken
                finish = part if part.finish_reason is not None else finish
                if taken < len(part.token_ids) or (finish is None and self.machine.forced is not None):
                    # The machine leaves where the engine would go on (a loop): the rest is dropped.
                    return None
                text += part.text
                if self._ends.cuts_round:
                    return None
                match = self._grow(self._ends.certain(text))
                if match is not None:
                    return await self._stop_at(match)
                if finish is None:
                    await self._hand_out(on_piece)
        if finish is None or took == 0:
            raise EngineMisbehaved("the engine's completion has no token, or no finish reason")
        if finish.finish_reason == "length":
            return None
        if finish.finish_reason != "stop":
            raise EngineMisbehaved(f"the engine ended a round with {finish.finish_reason!r}")
        sampled = finish.token_ids[-1] if finish.token_ids else None
        if sampled in ask.stop and not answering:
            return None
        match = self._grow(await self._text(self.output))
        if match is not None:
            return await self._stop_at(match)
        # A marker in an answer has become the end token that the client sees.
        return Ending("stop", None if sampled in ask.stop else finish.stop_reason)

    def _commit(self, sampled: list[int], ask: Ask, *, first: bool) -> int:
        """Give the machine what was sampled, as long as the choice is the model's; returns how many."""
        if first and sampled and ask.masked and sampled[0] in ask.stop:
            raise EngineMisbehaved("the engine sampled a token that was masked")
        if not ask.banned.isdisjoint(sampled):
            raise EngineMisbehaved("the engine sampled a token beyond the vocabulary that was banned")
        for count, token in enumerate(sampled):
            if self.machine.forced is not None or self._ends.cuts_round:
                return count
            self.output.extend(self._ends.take(token))
        return len(sampled)

    def _grow(self, text: str) -> StopMatch | None:
        # The end marker's first token is in the output as soon as the machine knows of the end.
        return self._transcript.grow(text, ended=self.machine.thinking_end is not None)

    async def _stop_at(self, match: StopMatch) -> Ending:
        """End at the token that completes the stop string: the fewest tokens whose text reaches its end."""
        self._transcript.cut(match.begin)
        few, enough = self._handed_out, len(self.output)
        while enough - few > 1:
            middle = (few + enough) // 2
            reaches = len(await self._text(self.output[:middle])) >= match.begin + len(match.text)
            few, enough = (few, middle) if reaches else (middle, enough)
        del self.output[enough:]
        return Ending("stop", match.text)

    async def _hand_out(self, on_piece: OnPiece, *, final: bool = False) -> None:
        reasoning, content = self._transcript.take(final=final)
        fresh = self.output[self._handed_out :]
        if reasoning or content or fresh:
            self._handed_out = len(self.output)
            await on_piece(Piece(reasoning, content, fresh))

    def _sampling(self) -> dict[str, Any]:
        fields = self._only(self._completions.sampling_fields)
        if "seed" in self._fields:
            seed = self._fields["seed"] + self._rounds * _SEED_STRIDE
            fields["seed"] = (seed + _INT64) % (2 * _INT64) - _INT64
        return fields

    def _only(self, names: frozenset[str]) -> dict[str, Any]:
        return {name: value for name, value in self._fields.items() if name in names}

    async def _text(self, token_ids: list[int]) -> str:
        """As the continuation of the prompt, not as a text of its own: some tokenizers strip its start."""
        ended = bool(token_ids) and token_ids[-1] in self._ids.eos
        shown = token_ids[:-1] if ended else token_ids
        text = await self._completions.decode([*self.prompt[-1:], *shown], self._call.request_id)
        return text[self._context_characters :]
