"""vLLM's dialect: `/v1/completions` on token ids, `/tokenize`, `/detokenize`."""

from __future__ import annotations

import re
from collections.abc import AsyncGenerator, Mapping, Sequence
from contextlib import aclosing
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
from server.gateway.sampling_limits import MAX_LOGIT_BIAS, MAX_MASKED_STOPS

_BEYOND_ANY_VOCABULARY = 2**31 - 1
_LOWEST_BIAS = -100
"""The least that vLLM takes."""
_VOCABULARY_SIZE = re.compile(r"[Vv]ocabulary size: (\d+)")


class VllmCompletions(Completions):
    make = "vLLM"
    # Of its TokenizeChatRequest.
    prompt_fields = frozenset(
        [
            "add_generation_prompt",
            "add_special_tokens",
            "chat_template",
            "chat_template_kwargs",
            "continue_final_message",
            "messages",
        ]
    )
    # Sent with every round as they are: none depends on where prompt ends and output begins.
    sampling_fields = frozenset(
        [
            "cache_salt",
            "logit_bias",
            "min_p",
            "priority",
            "repetition_penalty",
            "temperature",
            "top_k",
            "top_p",
        ]
    )
    chat_fields = None
    keeps_alive = True

    async def render(self, fields: Mapping[str, Any], request_id: str | None = None) -> Rendered:
        answer = await self._post("/tokenize", fields, request_id)
        if not isinstance(answer.get("max_model_len"), int):
            raise EngineMisbehaved("the engine's /tokenize can't be read: it has no `max_model_len`")
        return Rendered(read_token_ids(answer), answer["max_model_len"])

    async def encode(self, text: str) -> list[int]:
        answer = await self._post("/tokenize", {"prompt": text, "add_special_tokens": False})
        return read_token_ids(answer)

    async def decode(self, token_ids: Sequence[int], request_id: str | None = None) -> str:
        text = (await self._post("/detokenize", {"tokens": list(token_ids)}, request_id)).get("prompt")
        if not isinstance(text, str):
            raise EngineMisbehaved("the engine's /detokenize can't be read: it has no `prompt`")
        return text

    async def generate(
        self, prompt: list[int], ask: Ask, sampling: Mapping[str, Any], request_id: str | None = None
    ) -> AsyncGenerator[Part, None]:
        body = self._body(
            {
                **sampling,
                **_restrictions(ask, sampling),
                "prompt": prompt,
                "return_token_ids": True,
                "skip_special_tokens": False,
                "stream": True,
            }
        )
        async with aclosing(self._engine.events("/v1/completions", body, request_id)) as events:
            async for event in events:
                for part in _parts(event):
                    yield part

    def check(self, ask: Ask, sampling: Mapping[str, Any]) -> None:
        _restrictions(ask, sampling)

    async def vocabulary_size(self) -> int:
        """vLLM refuses a stop token beyond its vocabulary and says how large that is."""
        try:
            await self._whole([0], max_tokens=1, stop_token_ids=[_BEYOND_ANY_VOCABULARY])
        except EngineRefused as error:
            if found := _VOCABULARY_SIZE.search(str(error)):
                return int(found[1])
            raise
        raise RoundsUnavailable("it accepts `stop_token_ids` that can't exist, so it may ignore the field")

    async def try_alone(self, token: int) -> Alone:
        shown = await self._whole(
            [token, token], max_tokens=2, skip_special_tokens=True, **self.only([token])
        )
        if not set(shown["token_ids"]) <= {token}:
            raise RoundsUnavailable("it ignores `allowed_token_ids`")
        if shown["finish_reason"] == "stop" and len(shown["token_ids"]) == 1:
            # The text of an end token is left out, special or not; every one that we know is special.
            return Alone(token, special=True, ends=True, primary=shown.get("stop_reason") is None)
        return Alone(token, special=shown["text"] == "", ends=False, primary=False)

    def only(self, tokens: Sequence[int]) -> dict[str, Any]:
        return {"allowed_token_ids": sorted(tokens)}

    async def _whole(self, prompt: list[int], **fields: Any) -> dict[str, Any]:
        asked = {"prompt": prompt, "temperature": 0, "return_token_ids": True, **fields}
        answer = await self._post("/v1/completions", asked)
        try:
            choice: dict[str, Any] = answer["choices"][0]
            counted = answer["usage"]["prompt_tokens"]
        except (KeyError, TypeError, IndexError) as error:
            raise EngineMisbehaved(f"the engine's completion can't be read: {error!r}") from error
        if counted != len(prompt):
            raise RoundsUnavailable(f"it made {counted} tokens of a prompt of {len(prompt)} token ids")
        if not isinstance(choice.get("token_ids"), list):
            raise RoundsUnavailable("its /v1/completions does not return token ids")
        return choice


def _restrictions(ask: Ask, sampling: Mapping[str, Any]) -> dict[str, Any]:
    """What the ask says of single tokens, within vLLM's limits.

    Masked stops that don't fit are biased away, for one token: a bias holds to the end. Banned tokens take
    the entries that are left; one that doesn't fit fails the request if it is sampled.

    Raises:
        InvalidRequest: the masked stops don't fit, or not beside the client's own `logit_bias`.
    """
    stops = sorted(ask.stop)
    kept, biased = (stops[:MAX_MASKED_STOPS], stops[MAX_MASKED_STOPS:]) if ask.masked else (stops, [])
    own = sampling.get("logit_bias", {})
    bias = own | dict.fromkeys(map(str, biased), _LOWEST_BIAS)
    if len(bias) > MAX_LOGIT_BIAS:
        raise _too_many_stops(len(stops), most_own=MAX_LOGIT_BIAS - len(biased), own=len(own))
    for token in map(str, sorted(ask.banned)):
        if token in bias or len(bias) < MAX_LOGIT_BIAS:
            bias[token] = _LOWEST_BIAS
    return {
        "max_tokens": 1 if biased else ask.max_tokens,
        "min_tokens": int(ask.masked),
        "stop_token_ids": kept,
        **({"logit_bias": bias} if bias else {}),
    }


def _too_many_stops(stops: int, *, most_own: int, own: int) -> InvalidRequest:
    if most_own < 0:
        return InvalidRequest(
            f"vLLM can keep {MAX_MASKED_STOPS + MAX_LOGIT_BIAS} tokens from being sampled next, "
            f"and {stops} of this model's may not begin an answer"
        )
    return InvalidRequest(
        f"`logit_bias` must have at most {most_own} entries when the gateway forces budgets in rounds on "
        f"this model, {stops} of whose tokens may not begin an answer. Given: {own}",
        param="logit_bias",
    )


def _parts(event: dict[str, Any]) -> list[Part]:
    try:
        return [
            Part(
                text=choice.get("text") or "",
                token_ids=list(choice.get("token_ids") or ()),
                finish_reason=choice.get("finish_reason"),
                stop_reason=choice.get("stop_reason"),
            )
            for choice in event["choices"]
        ]
    except (KeyError, TypeError, AttributeError) as error:
        raise EngineMisbehaved(f"the engine's completion can't be read: {error!r}") from error
