"""Model families: how a model opens and closes its thinking, as text and as this tokenizer's ids.

Strings of the s1 family: "s1: Simple test-time scaling", appendix D, and its evaluation code.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Protocol

from server.budget.spec import MAX_WAIT_TOKENS, WAIT_TEXT, BudgetError


@dataclass(frozen=True, slots=True)
class Family:
    """The marker texts of a model family."""

    name: str
    think_start: str
    think_end: str
    answer_prompt: str = ""
    """Forced after the end marker of an early exit; never part of the answer's content."""
    wait_text: str = "Wait"
    marker_ends_answer: bool = False
    """The markers begin with a turn token: sampled inside an answer, it means the turn is over."""


FAMILIES: dict[str, Family] = {
    family.name: family
    for family in (
        Family(
            "s1",
            think_start="<|im_start|>think",
            think_end="<|im_start|>answer",
            answer_prompt="\nFinal Answer:",
            marker_ends_answer=True,
        ),
        Family("deepseek_r1", think_start="<think>", think_end="</think>", answer_prompt="\n\n"),
        Family("qwen3", think_start="<think>", think_end="</think>", answer_prompt="\n\n"),
    )
}


class FamilyError(ValueError):
    """The model's family is unknown, or its markers do not survive this tokenizer."""


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

    @property
    def reserved(self) -> frozenset[int]:
        """Tokens that no wait text may contain: markers, end tokens, special tokens."""
        return self.not_first_in_answer

    @property
    def end_attempt(self) -> frozenset[int]:
        """Tokens that, sampled while thinking, are an attempt to end it (rule 2)."""
        return self.eos | {self.end[0]}

    @property
    def not_first_in_answer(self) -> frozenset[int]:
        """Tokens that may not come before an answer's first visible token (rule 5)."""
        return self.end_attempt | self.special | {self.start[0]}

    def exit_tokens(self, *, answer_prompt: bool = True) -> int:
        """Length of the end marker with or without the answer prompt."""
        return len(self.end) + (len(self.answer_prompt) if answer_prompt else 0)

    def opened(self, prompt_token_ids: Sequence[int]) -> bool:
        """Whether the prompt ends inside open thinking."""
        start, ends = list(self.start), self.end_attempt
        for i in range(len(prompt_token_ids) - len(start), -1, -1):
            if list(prompt_token_ids[i : i + len(start)]) == start:
                return True
            if prompt_token_ids[i + len(start) - 1] in ends:
                return False
        return False


def detect_family(*, model: str, chat_template: str | None, vocabulary: dict[str, int]) -> Family:
    """Find the family from the chat template, the vocabulary and, last, the model's name.

    Raises:
        FamilyError: nothing identifies it; the message says how to name it.
    """
    template = chat_template or ""
    if FAMILIES["s1"].think_start in template:
        return FAMILIES["s1"]
    if "<think>" in vocabulary and "</think>" in vocabulary:
        return FAMILIES["qwen3" if "<|im_start|>" in vocabulary else "deepseek_r1"]
    if "<|im_start|>" in vocabulary and re.search(r"(^|[/_-])s1(\.\d+)?([_-]|$)", model.lower()):
        return FAMILIES["s1"]
    raise FamilyError(
        f"cannot tell the thinking markers of {model!r} from its tokenizer and chat template; "
        f"name its family with --family {{{'|'.join(FAMILIES)}}}"
    )


def family_named(name: str, **overrides: str) -> Family:
    """The family called `name`, with marker texts replaced where given."""
    if name not in FAMILIES:
        raise FamilyError(f"--family must be one of {', '.join(FAMILIES)}. Given: {name}")
    changes: dict[str, Any] = dict(overrides)
    return replace(FAMILIES[name], **changes)


def marker_ids(
    family: Family, tokenizer: Tokenizer, *, vocab_size: int, eos_token_ids: Sequence[int] = ()
) -> MarkerIds:
    """Tokenize the family's markers and check that they can be enforced on ids.

    Args:
        vocab_size: rows of the model's output layer; ids the tokenizer does not know are never visible.
        eos_token_ids: the model's own end tokens (its generation config), beside the tokenizer's.

    Raises:
        FamilyError: a marker is empty, a newline is not one token, or the end marker's first token
            also occurs in ordinary text, so that it can't be intercepted.
    """
    added = tokenizer.added_tokens_decoder
    special = frozenset(tokenizer.all_special_ids) | {i for i, token in added.items() if token.special}
    eos = frozenset(eos_token_ids) | (
        {tokenizer.eos_token_id} if tokenizer.eos_token_id is not None else set()
    )
    if not eos:
        raise FamilyError("neither tokenizer nor generation config names an end-of-sequence token")
    end = _encode(tokenizer, family.think_end)
    joined = _encode(tokenizer, family.think_end + family.answer_prompt)
    prompt = joined[len(end) :] if joined[: len(end)] == end else _encode(tokenizer, family.answer_prompt)
    texts = [tokenizer.decode([i], skip_special_tokens=False) for i in range(_known_ids(tokenizer))]
    unseen = range(len(texts), vocab_size)
    ids = MarkerIds(
        family=family,
        start=_encode(tokenizer, family.think_start),
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
    )
    _check(ids, tokenizer, reserved=frozenset(added) | special)
    return ids


def wait_ids(
    texts: Sequence[str], encode: Callable[[str], Sequence[int]], *, reserved: frozenset[int]
) -> tuple[tuple[int, ...], ...]:
    """A request's own wait texts as token ids.

    Args:
        encode: the model's tokenizer, adding no special tokens.
        reserved: `MarkerIds.reserved`.

    Raises:
        BudgetError: a text is too long, or contains a marker, an end token or a special token.
    """
    return tuple(_wait(text, tuple(encode(text)), reserved) for text in texts)


def _wait(text: str, token_ids: tuple[int, ...], reserved: frozenset[int]) -> tuple[int, ...]:
    if not 0 < len(token_ids) <= MAX_WAIT_TOKENS:
        raise BudgetError(
            WAIT_TEXT,
            f"`{WAIT_TEXT}` must be 1 to {MAX_WAIT_TOKENS} tokens of this model. "
            f"Given: {text!r}, {len(token_ids)} tokens",
            text,
        )
    if not reserved.isdisjoint(token_ids):
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
    return max(tokenizer.get_vocab().values()) + 1


def _ends_sentence(text: str) -> bool:
    bare = text.rstrip(" \t\"')]*")
    return bare.endswith((".", "!", "?", "\n", "。", "！", "？"))


def _check(ids: MarkerIds, tokenizer: Tokenizer, *, reserved: frozenset[int]) -> None:
    family = ids.family
    for label, text, marker in (
        ("start marker", family.think_start, ids.start),
        ("end marker", family.think_end, ids.end),
        ("wait text", family.wait_text, ids.wait),
    ):
        if not marker:
            raise FamilyError(f"the {label} of family {family.name} is empty. Given: {text!r}")
    if len(ids.wait) > MAX_WAIT_TOKENS:
        raise FamilyError(
            f"the wait text of family {family.name} must be at most {MAX_WAIT_TOKENS} tokens. "
            f"Given: {family.wait_text!r}, {len(ids.wait)} tokens"
        )
    if ids.end[0] not in reserved:
        first = tokenizer.decode([ids.end[0]], skip_special_tokens=False)
        raise FamilyError(
            f"the end marker {family.think_end!r} begins with the ordinary token {first!r}: it can't be "
            "intercepted before it is complete. Use markers that begin with an added token"
        )
