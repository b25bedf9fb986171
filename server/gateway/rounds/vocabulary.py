"""A model's markers as token ids, learnt over the HTTP API of an engine that runs without our plugin.

Everything is asked of the engine itself, so that no tokenizer is needed here:

- which make's dialect it speaks: each is tried, and the first that proves itself is taken;
- texts of all tokens: many ids per call with a separator between them;
- which tokens stop the model, and which are special: one generation each, with only that token allowed;
- that it stops, counts and masks as forcing by rounds needs: five generations, through the code of rounds.

Limit: added tokens are looked for among tokens whose text stands in brackets (`<…>`, `[…]`), which is how
every tokenizer that we know writes them.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import Mapping, Sequence
from contextlib import aclosing
from dataclasses import dataclass

from server.budget.families import FAMILIES, OTHER_SIGNS, Family, FamilyError, FamilyOptions, detect_family
from server.budget.markers import MarkerIds, marker_ids
from server.gateway.engines.engine import Engine
from server.gateway.errors import EngineMisbehaved, EngineRefused, InvalidRequest
from server.gateway.rounds.completions import Alone, Ask, Completions, RoundsUnavailable
from server.gateway.rounds.completions_llamacpp import LlamaCppCompletions
from server.gateway.rounds.completions_vllm import VllmCompletions
from server.gateway.rounds.procedure import answer_start

DIALECTS: tuple[type[Completions], ...] = (VllmCompletions, LlamaCppCompletions)

_IDS_PER_CALL = 4096
_CALLS_AT_ONCE = 16
_BRACKETED = re.compile(r"<[^<>]+>|\[[^\[\]]+\]", re.DOTALL)
_COMMON_ADDED = ("<|im_end|>", "<|endoftext|>", "<|end_of_text|>", "<|eot_id|>", "<eos>", "</s>")
_PROBE_MESSAGES = [{"role": "user", "content": "2 + 3?"}]


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


@dataclass(frozen=True, slots=True)
class Learnt:
    ids: MarkerIds
    max_model_len: int
    dialect: type[Completions]


async def learn_markers(engine: Engine, model: str, told: FamilyOptions) -> Learnt:
    """The markers of the engine's model, its context length, and the dialect in which it was all proven.

    Raises:
        RoundsUnavailable: in every dialect the API lacks something; or the family can't be told.
        EngineDied, or EngineRefused with a status of 5xx or 429: nothing is known yet.
    """
    reasons = []
    for dialect in DIALECTS:
        try:
            return await _learn(dialect, engine, model, told)
        except RoundsUnavailable as error:
            reasons.append(f"as {dialect.make}: {error}")
        except FamilyError as error:
            # The dialect is the right one.
            raise RoundsUnavailable(str(error)) from error
    raise RoundsUnavailable("; ".join(reasons))


async def _learn(dialect: type[Completions], engine: Engine, model: str, told: FamilyOptions) -> Learnt:
    learner = _Learner(dialect(engine, model, probing=True), model)
    try:
        vocab_size = await learner.vocabulary_size()
        family, max_model_len = await learner.family(told)
        tokenizer, eos = await learner.tokenizer(family, vocab_size)
        ids = marker_ids(family, tokenizer, vocab_size=vocab_size, eos_token_ids=eos, rounds=True)
        await learner.check_rounds(ids)
    except EngineRefused as error:
        if error.status >= 500 or error.status == 429:
            raise
        raise RoundsUnavailable(str(error)) from error
    except InvalidRequest as error:
        raise RoundsUnavailable(str(error)) from error
    except EngineMisbehaved as error:
        raise RoundsUnavailable(f"its answers can't be read: {error}") from error
    return Learnt(ids, max_model_len, dialect)


class _Learner:
    def __init__(self, completions: Completions, model: str) -> None:
        self._completions = completions
        self._model = model
        self._gate = asyncio.Semaphore(_CALLS_AT_ONCE)

    async def family(self, told: FamilyOptions) -> tuple[Family, int]:
        """What was said of it; what that leaves open, rendered prompt, vocabulary or name show."""
        rendered = await self._completions.render({"messages": _PROBE_MESSAGES})
        await self._completions.check_rendering(rendered, _PROBE_MESSAGES)
        prompt = await self._text(rendered.token_ids)
        marks = {mark for family in FAMILIES.values() for mark in family.bracketed} | OTHER_SIGNS
        single = {mark for mark in sorted(marks) if len(await self._encode(mark)) == 1}
        family = told.resolve(
            lambda: detect_family(model=self._model, chat_template=None, vocabulary=single, prompt=prompt)
        )
        return family, rendered.max_model_len

    async def vocabulary_size(self) -> int:
        return await self._completions.vocabulary_size()

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

    async def check_rounds(self, ids: MarkerIds) -> None:
        """That a stop token stops and is shown, that the maximum holds, that stop tokens can be masked."""
        newline, wait = ids.newline, ids.wait[0]
        stopped = await self._round(Ask(3, frozenset([newline]), masked=False), [newline])
        if stopped != ([newline], "stop"):
            raise RoundsUnavailable(f"it does not stop at a stop token, or hides it{_shown(stopped)}")
        counted = await self._round(Ask(3, frozenset([wait]), masked=False), [newline])
        if counted != ([newline] * 3, "length"):
            raise RoundsUnavailable(f"it does not generate exactly as many tokens as asked{_shown(counted)}")
        # Both ways round, as the model prefers one of the two anyway.
        for stop, other in ((newline, wait), (wait, newline)):
            masked = await self._round(Ask(1, frozenset([stop]), masked=True), [newline, wait])
            if masked != ([other], "length"):
                raise RoundsUnavailable(f"it can't mask a stop token{_shown(masked)}")
        begun = await self._round(answer_start(ids), [newline, wait])
        if begun not in (([newline], "length"), ([wait], "length")):
            raise RoundsUnavailable(f"it can't mask what may not begin an answer{_shown(begun)}")

    async def _round(self, ask: Ask, allowed: list[int]) -> tuple[list[int], str | None]:
        """Tokens and finish reason of a round in which only `allowed` can be sampled."""
        sampling = {"temperature": 0, **self._completions.only(allowed)}
        tokens: list[int] = []
        finish = None
        # Of two tokens, so that a server that takes ids for something else miscounts it.
        generated = self._completions.generate([allowed[0]] * 2, ask, sampling)
        async with self._gate, aclosing(generated) as parts:
            async for part in parts:
                tokens += part.token_ids
                finish = part.finish_reason or finish
        return tokens, finish

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

    async def _try_alone(self, token: int) -> Alone:
        async with self._gate:
            return await self._completions.try_alone(token)

    async def _encode(self, text: str) -> list[int]:
        async with self._gate:
            return await self._completions.encode(text)

    async def _text(self, token_ids: list[int]) -> str:
        async with self._gate:
            return await self._completions.decode(token_ids)


def _shown(seen: tuple[list[int], str | None]) -> str:
    return f": it gave {seen[0]} and the finish reason {seen[1]!r}"
