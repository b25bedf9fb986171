"""llama.cpp's dialect: its own `/completion`, `/apply-template`, `/tokenize`, `/detokenize`, `/props`.

Two things that vLLM does, its server doesn't:

- It knows no stop tokens but the model's own end tokens. So this side reads the ids as they come, and closes
  the connection at a stop token, which makes the server give the generation up.
- While a character is unfinished, it streams nothing: the ids of a character that takes several tokens are
  withheld, and only counted. They are found again by tokenizing the character, or, where that can't say, by
  generating as many tokens once more without streaming.

Source: ggml-org/llama.cpp, tools/server (README.md and server-context.cpp), as of build 11549.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Mapping, Sequence
from contextlib import aclosing
from dataclasses import dataclass, replace
from typing import Any

from server.gateway.errors import EngineMisbehaved, EngineRefused, InvalidRequest
from server.gateway.rounds.completions import (
    Alone,
    Ask,
    Completions,
    Part,
    Rendered,
    RoundsUnavailable,
    read_token_ids,
)

_PATH = "/completion"
_SEEDS = 2**32 - 1
"""Seeds are 32 bits wide, and the last one means a random seed."""
_CERTAIN_BIAS = 1000.0
"""Far above any logit."""
_REPLACEMENT = "\ufffd"
"""What bytes that are no character decode to."""
_SAME_NAME = ("temperature", "top_k", "top_p", "min_p")


class LlamaCppCompletions(Completions):
    make = "llama.cpp"
    prompt_fields = frozenset(["add_generation_prompt", "chat_template_kwargs", "messages"])
    sampling_fields = frozenset([*_SAME_NAME, "logit_bias", "repetition_penalty"])
    # An idle connection holds one of its few threads, and after a stream it closes without saying so.
    keeps_alive = False
    # Its chat route takes any field, and these are what it reads.
    chat_fields = frozenset(
        [
            "add_generation_prompt",
            "chat_template_kwargs",
            "frequency_penalty",
            "logit_bias",
            "logprobs",
            "max_completion_tokens",
            "max_tokens",
            "messages",
            "min_p",
            "model",
            "parallel_tool_calls",
            "presence_penalty",
            "response_format",
            "seed",
            "stop",
            "stream",
            "stream_options",
            "temperature",
            "tool_choice",
            "tools",
            "top_k",
            "top_logprobs",
            "top_p",
        ]
    )

    async def render(self, fields: Mapping[str, Any], request_id: str | None = None) -> Rendered:
        tokens, context = await asyncio.gather(self._prompt(fields, request_id), self._context())
        return Rendered(tokens, context)

    async def encode(self, text: str) -> list[int]:
        return await self._tokenize(text, add_special=False, parse_special=True)

    async def decode(self, token_ids: Sequence[int], request_id: str | None = None) -> str:
        text = (await self._post("/detokenize", {"tokens": list(token_ids)}, request_id)).get("content")
        if not isinstance(text, str):
            raise EngineMisbehaved("the engine's /detokenize can't be read: it has no `content`")
        return text

    async def generate(
        self, prompt: list[int], ask: Ask, sampling: Mapping[str, Any], request_id: str | None = None
    ) -> AsyncGenerator[Part, None]:
        seen: list[int] = []
        # The last tokens without a text: special ones, or the end token that finishes the round.
        hidden: list[int] = []
        body = self._body(_fields(prompt, ask, sampling, stream=True))
        async with aclosing(self._engine.events(_PATH, body, request_id, says_done=False)) as events:
            async for event in events:
                chunk = _Chunk.of(event, prompt_tokens=len(prompt), most=_most(ask))
                ids = await self._ids(chunk, chunk.count - len(seen))
                if ids is None:
                    break
                if chunk.finish_reason is not None:
                    said = hidden[:-1] if chunk.finish_reason == "stop" else hidden
                    yield Part(await self._said(said), hidden, chunk.finish_reason)
                    return
                if (stop := _first(ids, ask.stop)) is not None:
                    said = hidden + ids[:stop]
                    yield Part(await self._said(said), [*said, ids[stop]], "stop", ids[stop])
                    return
                seen += ids
                hidden += ids
                if chunk.text:
                    said = hidden[: -len(ids)]
                    yield Part(await self._said(said) + chunk.text, hidden)
                    hidden = []
            else:
                raise EngineMisbehaved(f"the engine's {_PATH} ended without its last event")
        if hidden:
            yield Part(await self._said(hidden), hidden)
        missing = replace(ask, max_tokens=chunk.count - len(seen))
        yield await self._once_more(prompt + seen, missing, sampling, request_id)

    async def vocabulary_size(self) -> int:
        """What it says, tried: it refuses prompts with a token beyond its vocabulary."""
        cards = (await self._engine.get("/v1/models")).get("data")
        try:
            size = next(int(card["meta"]["n_vocab"]) for card in cards or () if card["id"] == self._model)
        except (StopIteration, KeyError, TypeError, ValueError) as error:
            raise RoundsUnavailable("its /v1/models doesn't tell `meta.n_vocab`") from error
        await self._whole([size - 1], n_predict=1)
        try:
            await self._whole([size], n_predict=1)
        except EngineRefused as error:
            if error.status == 400:
                return size
            raise
        raise RoundsUnavailable(f"it takes tokens beyond `meta.n_vocab` ({size}) as a prompt")

    async def check_rendering(self, rendered: Rendered, messages: Sequence[Mapping[str, Any]]) -> None:
        answer = await self._post("/v1/chat/completions", {"messages": messages, "max_tokens": 1})
        counted = (answer.get("usage") or {}).get("prompt_tokens")
        if counted != len(rendered.token_ids):
            raise RoundsUnavailable(
                f"its /apply-template and /tokenize make {len(rendered.token_ids)} tokens of a conversation "
                f"that its /v1/chat/completions counts as {counted}"
            )

    async def try_alone(self, token: int) -> Alone:
        shown = await self._whole([token], n_predict=2, logit_bias=[[token, _CERTAIN_BIAS]])
        tokens = shown.get("tokens")
        if not tokens:
            raise RoundsUnavailable(f"its {_PATH} ignores `return_tokens`")
        if not set(tokens) <= {token}:
            raise RoundsUnavailable("it ignores `logit_bias`")
        ends = shown.get("stop_type") == "eos" and len(tokens) == 1
        primary = ends and await self.decode([token]) == (await self._engine.get("/props")).get("eos_token")
        return Alone(token, special=shown.get("content") == "", ends=ends, primary=primary)

    def only(self, tokens: Sequence[int]) -> dict[str, Any]:
        return {"logit_bias": {str(token): _CERTAIN_BIAS for token in tokens}}

    async def _prompt(self, fields: Mapping[str, Any], request_id: str | None) -> list[int]:
        """As its own chat route does it: the template's text, with what begins a sequence."""
        text = (await self._post("/apply-template", fields, request_id)).get("prompt")
        if not isinstance(text, str):
            raise EngineMisbehaved("the engine's /apply-template can't be read: it has no `prompt`")
        return await self._tokenize(text, add_special=True, parse_special=True)

    async def _context(self) -> int:
        """One conversation's share of the context: the server divides it among its slots."""
        props = await self._engine.get("/props")
        n_ctx = (props.get("default_generation_settings") or {}).get("n_ctx")
        if not isinstance(n_ctx, int):
            raise EngineMisbehaved("the engine's /props can't be read: it doesn't tell `n_ctx`")
        return n_ctx

    async def _tokenize(self, text: str, *, add_special: bool, parse_special: bool) -> list[int]:
        asked = {"content": text, "add_special": add_special, "parse_special": parse_special}
        return read_token_ids(await self._post("/tokenize", asked))

    async def _said(self, token_ids: Sequence[int]) -> str:
        return await self.decode(token_ids) if token_ids else ""

    async def _ids(self, chunk: _Chunk, expected: int) -> list[int] | None:
        """The chunk's tokens and those withheld before it; None if they can't be told."""
        if expected == len(chunk.token_ids):
            return chunk.token_ids
        if not chunk.text or _REPLACEMENT in chunk.text:
            return None
        spelled = await self._tokenize(chunk.text, add_special=False, parse_special=False)
        fits = len(spelled) == expected and spelled[expected - len(chunk.token_ids) :] == chunk.token_ids
        return spelled if fits else None

    async def _once_more(
        self, prompt: list[int], ask: Ask, sampling: Mapping[str, Any], request_id: str | None
    ) -> Part:
        """The rest of a round whose tokens were counted and not shown, as its last part."""
        answer = await self._post(_PATH, _fields(prompt, ask, sampling, stream=False), request_id)
        chunk = _Chunk.of(answer, prompt_tokens=len(prompt), most=_most(ask))
        ids = chunk.token_ids
        if chunk.count != len(ids) or not ids:
            raise EngineMisbehaved(f"the engine's {_PATH} counts {chunk.count} tokens and returns {len(ids)}")
        if (stop := _first(ids, ask.stop)) is not None:
            return Part(await self._said(ids[:stop]), ids[: stop + 1], "stop", ids[stop])
        said = ids[:-1] if chunk.finish_reason == "stop" else ids
        return Part(await self._said(said), ids, chunk.finish_reason)

    async def _whole(self, prompt: list[int], **fields: Any) -> dict[str, Any]:
        asked = {"prompt": prompt, "temperature": 0, "return_tokens": True, "stream": False, **fields}
        return await self._post(_PATH, asked)


@dataclass(frozen=True, slots=True)
class _Chunk:
    """One event of a stream, or a whole answer."""

    text: str
    token_ids: list[int]
    count: int
    """Tokens generated so far, those withheld included."""
    finish_reason: str | None

    @classmethod
    def of(cls, event: Mapping[str, Any], *, prompt_tokens: int, most: int) -> _Chunk:
        """
        Raises:
            EngineMisbehaved: it can't be read, or isn't an answer to what was asked.
        """
        try:
            finish = {"eos": "stop", "limit": "length"}[event["stop_type"]] if event["stop"] else None
            chunk = cls(event["content"], list(event["tokens"]), int(event["tokens_predicted"]), finish)
            evaluated = int(event["tokens_evaluated"])
        except (KeyError, TypeError, ValueError) as error:
            raise EngineMisbehaved(f"the engine's {_PATH} can't be read: {error!r}") from error
        if evaluated != prompt_tokens:
            raise EngineMisbehaved(f"the engine made {evaluated} tokens of a prompt of {prompt_tokens}")
        if chunk.count > most:
            raise EngineMisbehaved(f"the engine generated {chunk.count} tokens of at most {most}")
        return chunk


def _most(ask: Ask) -> int:
    # Its bias holds for a whole generation, and a mask is for the first token alone.
    return 1 if ask.masked else ask.max_tokens


def _first(token_ids: Sequence[int], stop: frozenset[int]) -> int | None:
    return next((i for i, token in enumerate(token_ids) if token in stop), None)


def _token_id(text: str) -> int:
    """
    Raises:
        InvalidRequest: its server would take any other text for the tokens it is made of.
    """
    if not text.isdecimal():
        raise InvalidRequest(f"`logit_bias` must have token ids as keys. Given: {text!r}", param="logit_bias")
    return int(text)


def _fields(prompt: list[int], ask: Ask, sampling: Mapping[str, Any], *, stream: bool) -> dict[str, Any]:
    bias: list[list[Any]] = [
        [_token_id(token), value] for token, value in sampling.get("logit_bias", {}).items()
    ]
    bias += [[token, False] for token in sorted(ask.banned | (ask.stop if ask.masked else frozenset()))]
    fields = {name: sampling[name] for name in _SAME_NAME if name in sampling}
    if "repetition_penalty" in sampling:
        # Over prompt and output, as vLLM counts; by default it looks back 64 tokens.
        seen = len(prompt) + _most(ask)
        fields |= {"repeat_penalty": sampling["repetition_penalty"], "repeat_last_n": seen}
    if "seed" in sampling:
        fields["seed"] = sampling["seed"] % _SEEDS
    return fields | {
        "prompt": prompt,
        "n_predict": _most(ask),
        "logit_bias": bias,
        "return_tokens": True,
        "cache_prompt": True,
        "stream": stream,
    }
