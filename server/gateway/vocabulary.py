"""A model's markers as token ids, learnt over the HTTP API of an engine that runs without our plugin.

Everything is asked of the engine itself, so that no tokenizer is needed here:

- texts of all tokens: `/detokenize`, many ids per call with a separator between them;
- which tokens stop the model, and which are special: one generation each, with only that token allowed;
- that `stop_token_ids` and `min_tokens` do what forcing by rounds needs: two generations.

Limit: added tokens are looked for among tokens whose text stands in brackets (`<…>`, `[…]`), which is how
every tokenizer that we know writes them.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import orjson

from server.budget.families import FAMILIES, OTHER_SIGNS, Family, FamilyError, FamilyOptions, detect_family
from server.budget.markers import MarkerIds, marker_ids
from server.gateway.engine import Engine
from server.gateway.errors import EngineMisbehaved, EngineRefused

_IDS_PER_CALL = 4096
_CALLS_AT_ONCE = 16
_BEYOND_ANY_VOCABULARY = 2**31 - 1
_VOCABULARY_SIZE = re.compile(r"[Vv]ocabulary size: (\d+)")
_BRACKETED = re.compile(r"<[^<>]+>|\[[^\[\]]+\]", re.DOTALL)
_COMMON_ADDED = ("<|im_end|>", "<|endoftext|>", "<|end_of_text|>", "<|eot_id|>", "<eos>", "</s>")
_PROBE_MESSAGES = [{"role": "user", "content": "2 + 3?"}]


class RoundsUnavailable(Exception):
    """The engine's API lacks something that rounds need; the message names it."""


@dataclass(frozen=True, slots=True)
class AddedToken:
    special: bool


@dataclass(frozen=True, slots=True)
class LearntTokenizer:
    """The part of a tokenizer that `marker_ids` asks for, filled beforehand."""

    texts: tuple[str, ...]
    encoded: Mapping[str, list[int]]
    added_tokens_decoder: Mapping[int, AddedToken]
    eos_token_id: int | None

    @property
    def all_special_ids(self) -> list[int]:
        return [token for token, added in self.added_tokens_decoder.items() if added.special]

    def encode(self, text: str, *, add_special_tokens: bool = False) -> list[int]:
        return list(self.encoded[text])

    def decode(self, token_ids: list[int], *, skip_special_tokens: bool = False) -> str:
        return "".join(self.texts[token] for token in token_ids)

    def get_vocab(self) -> dict[str, int]:
        """Only the last id that stands for something; `marker_ids` takes those after it for padding."""
        return {"": max(i for i, text in enumerate(self.texts) if text)}


async def learn_markers(engine: Engine, model: str, told: FamilyOptions) -> tuple[MarkerIds, int]:
    """The markers of the engine's model, and its context length.

    Raises:
        RoundsUnavailable: the API lacks something, or the family can't be told.
        EngineDied, or EngineRefused with a status of 5xx or 429: nothing is known yet.
    """
    learner = _Learner(engine, model)
    try:
        family, max_model_len = await learner.family(told)
        vocab_size = await learner.vocabulary_size()
        tokenizer, eos = await learner.tokenizer(family, vocab_size)
        ids = marker_ids(family, tokenizer, vocab_size=vocab_size, eos_token_ids=eos, rounds=True)
        await learner.check_stopping(ids)
    except FamilyError as error:
        raise RoundsUnavailable(str(error)) from error
    except EngineRefused as error:
        if error.status >= 500 or error.status == 429:
            raise
        raise RoundsUnavailable(str(error)) from error
    except (KeyError, TypeError, IndexError, EngineMisbehaved) as error:
        raise RoundsUnavailable(f"its answers can't be read: {error!r}") from error
    return ids, max_model_len


@dataclass(frozen=True, slots=True)
class _Stop:
    """What one generation of a single allowed token showed."""

    token: int
    special: bool
    ends: bool
    """The model's turn ends with it, though nobody asked for that."""
    primary: bool
    """It is the tokenizer's own end token; the others come from the generation config."""


class _Learner:
    def __init__(self, engine: Engine, model: str) -> None:
        self._engine = engine
        self._model = model
        self._gate = asyncio.Semaphore(_CALLS_AT_ONCE)

    async def family(self, told: FamilyOptions) -> tuple[Family, int]:
        """What was said of it; what that leaves open, rendered prompt, vocabulary or name show."""
        rendered = await self._post("/tokenize", messages=_PROBE_MESSAGES)
        prompt = await self._text(rendered["tokens"])
        marks = {mark for family in FAMILIES.values() for mark in family.bracketed} | OTHER_SIGNS
        single = {mark for mark in sorted(marks) if len(await self._encode(mark)) == 1}
        family = told.resolve(
            lambda: detect_family(model=self._model, chat_template=None, vocabulary=single, prompt=prompt)
        )
        return family, int(rendered["max_model_len"])

    async def vocabulary_size(self) -> int:
        """vLLM refuses a stop token beyond its vocabulary and says how large that is."""
        try:
            await self._generate([0], max_tokens=1, stop_token_ids=[_BEYOND_ANY_VOCABULARY])
        except EngineRefused as error:
            if found := _VOCABULARY_SIZE.search(str(error)):
                return int(found[1])
            raise
        raise RoundsUnavailable("it accepts `stop_token_ids` that can't exist, so it may ignore the field")

    async def tokenizer(self, family: Family, vocab_size: int) -> tuple[LearntTokenizer, list[int]]:
        """The tokenizer, and all ids that end the model's turn."""
        strings = {
            family.think_start,
            family.think_end,
            family.think_end + family.answer_prompt,
            family.answer_prompt,
            family.wait_text,
            "\n",
        }
        encoded = {text: await self._encode(text) for text in strings if text}
        texts = await self._texts(vocab_size, separator=await self._separator(encoded[family.think_end]))
        bracketed = [i for i, text in enumerate(texts) if _BRACKETED.fullmatch(text)]
        added = await self._unbroken(bracketed, texts)
        found = await asyncio.gather(*(self._try_alone(token) for token in added))
        ends = [each.token for each in found if each.ends]
        primary = [each.token for each in found if each.primary]
        return (
            LearntTokenizer(
                texts=texts,
                encoded=encoded,
                added_tokens_decoder={each.token: AddedToken(each.special) for each in found},
                eos_token_id=primary[0] if primary else None,
            ),
            ends,
        )

    async def _separator(self, end_marker: Sequence[int]) -> int:
        """A token that is found whole in any text: of the end marker, else one that tokenizers often have."""
        first = await self._text([end_marker[0]])
        if _BRACKETED.fullmatch(first):
            return end_marker[0]
        for mark in _COMMON_ADDED:
            tokens = await self._encode(mark)
            if len(tokens) == 1 and await self._text(tokens) == mark:
                return tokens[0]
        raise RoundsUnavailable(f"its vocabulary has none of {', '.join(_COMMON_ADDED)} to keep tokens apart")

    async def check_stopping(self, ids: MarkerIds) -> None:
        """That a stop token stops and is handed out, and that `min_tokens` masks stop tokens."""
        newline, wait = ids.newline, ids.wait[0]
        stopped = await self._generate([newline], max_tokens=2, allowed=[newline], stop_token_ids=[newline])
        if (stopped["finish_reason"], stopped["token_ids"]) != ("stop", [newline]):
            raise RoundsUnavailable("it does not stop at `stop_token_ids`, or hides the token")
        # Both ways round, as the model prefers one of the two anyway.
        for stop, other in ((newline, wait), (wait, newline)):
            masked = await self._generate(
                [newline], max_tokens=1, allowed=[newline, wait], stop_token_ids=[stop], min_tokens=1
            )
            if masked["token_ids"] != [other]:
                raise RoundsUnavailable("its `min_tokens` does not mask `stop_token_ids`")

    async def _texts(self, vocab_size: int, *, separator: int) -> tuple[str, ...]:
        separator_text = await self._text([separator])

        async def some(first: int) -> list[str]:
            asked = [i for i in range(first, min(first + _IDS_PER_CALL, vocab_size)) if i != separator]
            joined = [token for i in asked for token in (i, separator)]
            parts = (await self._text([separator, *joined])).split(separator_text)
            if len(parts) != len(asked) + 2:
                raise RoundsUnavailable("its /detokenize does not keep tokens apart")
            found = dict(zip(asked, parts[1:-1], strict=True)) | {separator: separator_text}
            return [found[i] for i in range(first, min(first + _IDS_PER_CALL, vocab_size))]

        chunks = await asyncio.gather(*(some(first) for first in range(0, vocab_size, _IDS_PER_CALL)))
        return tuple(text for chunk in chunks for text in chunk)

    async def _unbroken(self, candidates: Sequence[int], texts: Sequence[str]) -> list[int]:
        """Those that are found whole between letters, as every added token is."""
        found: set[int] = set()
        for first in range(0, len(candidates), _IDS_PER_CALL):
            some = candidates[first : first + _IDS_PER_CALL]
            found.update(await self._encode("x" + "x".join(texts[i] for i in some) + "x"))
        return [i for i in candidates if i in found]

    async def _try_alone(self, token: int) -> _Stop:
        shown = await self._generate([token], max_tokens=2, allowed=[token], skip_special_tokens=True)
        ends = shown["finish_reason"] == "stop" and len(shown["token_ids"]) == 1
        if ends:
            # The text of an end token is left out, special or not; every one that we know is special.
            return _Stop(token, special=True, ends=True, primary=shown.get("stop_reason") is None)
        return _Stop(token, special=shown["text"] == "", ends=False, primary=False)

    async def _generate(
        self, prompt: list[int], *, max_tokens: int, allowed: list[int] | None = None, **fields: Any
    ) -> dict[str, Any]:
        if allowed is not None:
            fields["allowed_token_ids"] = allowed
        answer = await self._post(
            "/v1/completions",
            prompt=prompt,
            max_tokens=max_tokens,
            temperature=0,
            return_token_ids=True,
            **fields,
        )
        choice: dict[str, Any] = answer["choices"][0]
        if not isinstance(choice.get("token_ids"), list):
            raise RoundsUnavailable("its /v1/completions does not return token ids")
        if allowed is not None and not set(choice["token_ids"]) <= set(allowed):
            raise RoundsUnavailable("it ignores `allowed_token_ids`")
        return choice

    async def _encode(self, text: str) -> list[int]:
        answer = await self._post("/tokenize", prompt=text, add_special_tokens=False)
        return _ids(answer["tokens"])

    async def _text(self, token_ids: list[int]) -> str:
        answer = await self._post("/detokenize", tokens=token_ids)
        return str(answer["prompt"])

    async def _post(self, path: str, **fields: Any) -> dict[str, Any]:
        body = orjson.dumps({"model": self._model, **fields})
        async with self._gate:
            try:
                return await self._engine.post(path, body, timeout_s=self._engine.settings.probe_timeout_s)
            except EngineRefused as error:
                if error.status in (404, 405, 501):
                    raise RoundsUnavailable(f"it has no {path}") from error
                raise


def _ids(tokens: Iterable[Any]) -> list[int]:
    return [int(token) for token in tokens]
