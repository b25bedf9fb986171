"""A family's markers as one tokenizer's ids, and whether they can be enforced there."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from dataclasses import fields as dataclass_fields
from typing import Any, Protocol

from server.budget.families import FAMILIES, Family, FamilyError, as_options
from server.budget.spec import MAX_WAIT_TOKENS, WAIT_TEXT, BudgetError

__all__ = [
    "FAMILIES",
    "Family",
    "FamilyError",
    "MarkerIds",
    "Tokenizer",
    "encode_marker",
    "marker_ids",
    "wait_ids",
]

_MARKER_PART = re.compile(r"(<[^<>\s]+>|\[[^\[\]\s]+\])")


class Tokenizer(Protocol):
    """The part of a Hugging Face tokenizer that is needed here."""

    @property
    def all_special_ids(self) -> list[int]: ...
    @property
    def eos_token_id(self) -> int | None: ...
    def encode(self, text: str, *, add_special_tokens: bool = ...) -> list[int]: ...
    def decode(self, token_ids: list[int], *, skip_special_tokens: bool = ...) -> str: ...
    @property
    def added_tokens_decoder(self) -> Mapping[int, Any]: ...
    def get_vocab(self) -> dict[str, int]: ...


@dataclass(frozen=True, slots=True)
class MarkerIds:
    """A family's markers as token ids, and the token sets that its rules speak of."""

    family: Family
    start: tuple[int, ...]
    end: tuple[int, ...]
    wait: tuple[int, ...]
    newline: int
    answer_prompt: tuple[int, ...]
    eos_token: int
    """The end token that is put in place of a marker sampled inside an answer."""
    eos: frozenset[int]
    special: frozenset[int]
    blank: frozenset[int]
    """Tokens that show nothing: white space, special tokens, ids beyond the vocabulary."""
    line_end: frozenset[int]
    sentence_end: frozenset[int]
    unknown: frozenset[int] = frozenset()
    """Ids beyond the tokenizer's vocabulary: rows that pad the output layer. Never sampled under a budget."""
    end_is_text: bool = False
    """The end marker begins with an ordinary token: it ends nothing before its text is complete."""
    texts: tuple[str, ...] = ()
    """The text of every token by itself; only if `end_is_text`."""

    def to_json(self) -> dict[str, Any]:
        """For the engine's `/s1/markers`."""
        fields = {each.name: getattr(self, each.name) for each in dataclass_fields(self)}
        sets = {name: sorted(value) for name, value in fields.items() if isinstance(value, frozenset)}
        return {**fields, **sets, "family": asdict(self.family)}

    @classmethod
    def from_json(cls, fields: Mapping[str, Any]) -> MarkerIds:
        """
        Raises:
            KeyError, TypeError: `fields` are not what `to_json` gives.
        """
        texts = {**fields["family"], "turn_ends": tuple(fields["family"]["turn_ends"])}
        read = {**fields, "family": Family(**texts)}
        for name in ("start", "end", "wait", "answer_prompt", "texts"):
            read[name] = tuple(fields[name])
        for name in ("eos", "special", "blank", "line_end", "sentence_end", "unknown"):
            read[name] = frozenset(fields[name])
        return cls(**read)

    @property
    def reserved(self) -> frozenset[int]:
        """Tokens that no wait text may contain: markers, end tokens, special tokens."""
        return self.not_first_in_answer

    @property
    def end_attempt(self) -> frozenset[int]:
        """Tokens that, sampled while thinking, are an attempt to end it (rule 2)."""
        return self.eos if self.end_is_text else self.eos | {self.end[0]}

    @property
    def not_first_in_answer(self) -> frozenset[int]:
        """Tokens that may not come before an answer's first visible token (rule 5)."""
        return self.end_attempt | self.special | (frozenset() if self.end_is_text else {self.start[0]})

    def exit_tokens(self, *, answer_prompt: bool = True) -> int:
        """Length of the end marker with or without the answer prompt."""
        return len(self.end) + (len(self.answer_prompt) if answer_prompt else 0)

    def opened(self, prompt_token_ids: Sequence[int]) -> bool:
        """Whether the prompt ends inside open thinking."""
        if self.end_is_text:
            return self._opened_as_text(prompt_token_ids)
        start, ends = list(self.start), self.end_attempt
        for i in range(len(prompt_token_ids) - len(start), -1, -1):
            if list(prompt_token_ids[i : i + len(start)]) == start:
                return True
            if prompt_token_ids[i + len(start) - 1] in ends:
                return False
        return False

    def _opened_as_text(self, prompt_token_ids: Sequence[int]) -> bool:
        """Only what follows the last turn token counts: a user may have written the marker's text, too."""
        turns = (self.eos | self.special) - set(self.start)
        begin = len(prompt_token_ids)
        while begin > 0 and prompt_token_ids[begin - 1] not in turns:
            begin -= 1
        tail = "".join(self.texts[token] for token in prompt_token_ids[begin:])
        _, found, after = tail.rpartition(self.family.think_start)
        return bool(found) and self.family.think_end not in after


def marker_ids(
    family: Family,
    tokenizer: Tokenizer,
    *,
    vocab_size: int,
    eos_token_ids: Sequence[int] = (),
    rounds: bool = False,
) -> MarkerIds:
    """Tokenize the family's markers and check that they can be enforced on ids.

    Args:
        vocab_size: rows of the model's output layer; ids the tokenizer does not know are never visible.
        eos_token_ids: the model's own end tokens (its generation config), beside the tokenizer's.
        rounds: for the gateway's rounds, which can also drop an end marker after it is complete.

    Raises:
        FamilyError: a marker is empty or can't be written in this vocabulary, a newline is not one token,
            or, but for rounds, the end marker's first token also occurs in ordinary text, so that it can't be
            intercepted.
    """
    # Mistral's own tokenizer has no added tokens; its special tokens are reserved all the same.
    added: Mapping[int, Any] = getattr(tokenizer, "added_tokens_decoder", {})
    special = frozenset(tokenizer.all_special_ids) | {i for i, token in added.items() if token.special}
    eos = frozenset(eos_token_ids) | (
        {tokenizer.eos_token_id} if tokenizer.eos_token_id is not None else set()
    )
    if not eos:
        raise FamilyError("neither tokenizer nor generation config names an end-of-sequence token")
    end = encode_marker(tokenizer, family.think_end)
    joined = encode_marker(tokenizer, family.think_end + family.answer_prompt)
    prompt = joined[len(end) :] if joined[: len(end)] == end else _encode(tokenizer, family.answer_prompt)
    end_is_text = bool(end) and end[0] not in special and end[0] not in added
    texts = [tokenizer.decode([i], skip_special_tokens=False) for i in range(_known_ids(tokenizer))]
    unseen = range(len(texts), vocab_size)
    ids = MarkerIds(
        family=family,
        start=encode_marker(tokenizer, family.think_start),
        end=end,
        wait=_encode(tokenizer, family.wait_text),
        newline=_single(tokenizer, "\n"),
        answer_prompt=prompt,
        eos_token=tokenizer.eos_token_id if tokenizer.eos_token_id is not None else min(eos),
        eos=eos,
        special=special,
        blank=frozenset(i for i, text in enumerate(texts) if not text.strip()) | special | frozenset(unseen),
        line_end=frozenset(i for i, text in enumerate(texts) if text.endswith("\n")),
        sentence_end=frozenset(i for i, text in enumerate(texts) if _ends_sentence(text)),
        unknown=frozenset(unseen),
        end_is_text=end_is_text,
        texts=tuple(texts) if end_is_text else (),
    )
    _check(ids, tokenizer, rounds=rounds)
    return ids


def encode_marker(tokenizer: Tokenizer, text: str) -> tuple[int, ...]:
    """A marker's token ids. Mistral's own tokenizer takes `[THINK]` for text unless it is looked up."""
    token_ids = _encode(tokenizer, text)
    vocabulary, special = tokenizer.get_vocab(), frozenset(tokenizer.all_special_ids)
    parts = [part for part in _MARKER_PART.split(text) if part]
    if not any(vocabulary.get(part) in special - set(token_ids) for part in parts):
        return token_ids
    found = (
        (vocabulary[part],) if vocabulary.get(part) in special else _encode(tokenizer, part) for part in parts
    )
    return tuple(token for part in found for token in part)


def wait_ids(
    texts: Sequence[str],
    encode: Callable[[str], Sequence[int]],
    *,
    reserved: frozenset[int],
    think_end: str,
) -> tuple[tuple[int, ...], ...]:
    """A request's own wait texts as token ids.

    Args:
        encode: the model's tokenizer, adding no special tokens.
        reserved: `MarkerIds.reserved`.
        think_end: the end marker; not every tokenizer makes reserved tokens of its text.

    Raises:
        BudgetError: a text is too long, or contains a marker, an end token or a special token.
    """
    return tuple(_wait(text, tuple(encode(text)), reserved, think_end) for text in texts)


def _wait(text: str, token_ids: tuple[int, ...], reserved: frozenset[int], think_end: str) -> tuple[int, ...]:
    if not 0 < len(token_ids) <= MAX_WAIT_TOKENS:
        raise BudgetError(
            WAIT_TEXT,
            f"`{WAIT_TEXT}` must be 1 to {MAX_WAIT_TOKENS} tokens of this model. "
            f"Given: {text!r}, {len(token_ids)} tokens",
            text,
        )
    if think_end in text or not reserved.isdisjoint(token_ids):
        raise BudgetError(
            WAIT_TEXT,
            f"`{WAIT_TEXT}` can't contain a marker, an end token or a special token. Given: {text!r}",
            text,
        )
    return token_ids


def _encode(tokenizer: Tokenizer, text: str) -> tuple[int, ...]:
    return tuple(tokenizer.encode(text, add_special_tokens=False)) if text else ()


def _single(tokenizer: Tokenizer, text: str) -> int:
    ids = _encode(tokenizer, text)
    if len(ids) != 1:
        raise FamilyError(f"{text!r} must be one token of this tokenizer. Given: {len(ids)} tokens")
    return ids[0]


def _known_ids(tokenizer: Tokenizer) -> int:
    # Mistral's own vocabulary leaves out all but one of several tokens with the same text.
    return max(max(tokenizer.get_vocab().values()) + 1, getattr(tokenizer, "vocab_size", 0))


def _ends_sentence(text: str) -> bool:
    bare = text.rstrip(" \t\"')]*")
    return bare.endswith((".", "!", "?", "\n", "。", "！", "？"))


def _check(ids: MarkerIds, tokenizer: Tokenizer, *, rounds: bool) -> None:
    family = ids.family
    for label, text, marker in (
        ("start marker", family.think_start, ids.start),
        ("end marker", family.think_end, ids.end),
        ("wait text", family.wait_text, ids.wait),
    ):
        if not marker:
            raise FamilyError(f"the {label} of family {family.name} is empty. Given: {text!r}")
        shown = tokenizer.decode(list(marker), skip_special_tokens=False)
        if shown.strip() != text.strip():
            raise FamilyError(
                f"the {label} of family {family.name} does not survive this tokenizer: "
                f"{text!r} becomes {shown!r}"
            )
    if len(ids.wait) > MAX_WAIT_TOKENS:
        raise FamilyError(
            f"the wait text of family {family.name} must be at most {MAX_WAIT_TOKENS} tokens. "
            f"Given: {family.wait_text!r}, {len(ids.wait)} tokens"
        )
    if rounds:
        return
    elsewhere = (
        "Serve the model with an engine without the plugin (vllm serve MODEL) and let the gateway enforce "
        f"budgets in rounds: s1 serve --engine-url URL{as_options(family)}"
    )
    if family.rounds_only:
        raise FamilyError(
            f"family {family.name} can't be served by the plugin: {family.rounds_only}. {elsewhere}"
        )
    if ids.end_is_text:
        first = tokenizer.decode([ids.end[0]], skip_special_tokens=False)
        raise FamilyError(
            f"the end marker {family.think_end!r} begins with the ordinary token {first!r}: the sampler "
            f"can't tell it from text before it is complete. {elsewhere}"
        )
