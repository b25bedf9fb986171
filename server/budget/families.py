"""Model families: how a model opens and closes its thinking, as text; built in, found, or described.

Strings of the s1 family: "s1: Simple test-time scaling", appendix D, and its evaluation code. Of every
built-in family, docs/families.md says where its strings are from and how they were checked.
"""

from __future__ import annotations

import re
import shlex
from collections.abc import Callable, Collection
from dataclasses import dataclass, replace
from typing import Any

NO_FAMILY = "none"
"""Named instead of a family: serve without thinking budgets."""
FAMILY_TEXTS = ("think_start", "think_end", "wait_text", "answer_prompt")
"""Fields of a family that can be given on their own."""
DESCRIBED = "custom"
"""The name of a family that both markers describe."""

_BRACKETED = re.compile(r"<[^<>\s]+>|\[[^\[\]\s]+\]")
_LIKE_A_MARKER = re.compile(r"[<\[][^<>\[\]]*(think|thought|reason)[^<>\[\]]*[>\]]", re.IGNORECASE)
_MOST_CANDIDATES = 8


class FamilyError(ValueError):
    """The model's family is unknown or ill described, or its markers do not survive this tokenizer."""


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
    turn_ends: tuple[str, ...] = ()
    """Tokens, beside end-of-sequence tokens, after which an earlier marker says nothing of this turn."""
    rounds_only: str = ""
    """Why the plugin can't serve this family; empty if it can."""

    @property
    def bracketed(self) -> tuple[str, ...]:
        """The parts of both markers that are written like tokens of their own: `<…>` and `[…]`."""
        return tuple(dict.fromkeys(_BRACKETED.findall(self.think_start + self.think_end)))


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
        Family(
            "mistral",
            think_start="[THINK]",
            think_end="[/THINK]",
            # Its recommended system prompt shows both markers.
            turn_ends=("[/INST]", "[/TOOL_RESULTS]"),
        ),
        Family("seed_oss", think_start="<seed:think>", think_end="</seed:think>"),
        Family(
            "harmony",
            think_start="<|channel|>analysis<|message|>",
            think_end="<|end|><|start|>assistant<|channel|>final<|message|>",
            marker_ends_answer=True,
            rounds_only="vLLM reads its channels with a parser that takes no other beside it",
        ),
        Family("granite", think_start="Here is my thought process:", think_end="Here is my response:"),
    )
}
_CHATML = "<|im_start|>"
_HARMONY_END = "<|return|>"
OTHER_SIGNS = frozenset({_CHATML, _HARMONY_END})
"""Tokens that help to tell families apart, beside those in markers."""


def detect_family(
    *, model: str, chat_template: str | None, vocabulary: Collection[str], prompt: str = ""
) -> Family:
    """Find the family from the chat template, the vocabulary and, last, the model's name.

    A vocabulary alone proves little: models that don't think share their tokenizer with others that do. Where
    the template's source is known, it has to mention the markers.

    Args:
        chat_template: its source; None if there is none, or if it can't be seen.
        vocabulary: the texts of the tokenizer's tokens; of the added tokens at least.
        prompt: a chat as the model sees it, where that is all that can be seen of the template.

    Raises:
        FamilyError: nothing identifies it; the message says what was looked for and how to describe it.
    """
    source, seen = chat_template, (chat_template or "") + prompt
    if FAMILIES["s1"].think_start in seen:
        return FAMILIES["s1"]
    for name in ("harmony", "mistral", "seed_oss"):
        family = FAMILIES[name]
        if all(token in vocabulary for token in family.bracketed) and _shown(
            family, source, seen, vocabulary
        ):
            return family
    tags, chatml = FAMILIES["deepseek_r1"], _CHATML in vocabulary
    whole = all(token in vocabulary for token in tags.bracketed)
    if tags.think_start in seen or (whole and (source is None or tags.think_end in source)):
        return FAMILIES["qwen3" if chatml else "deepseek_r1"]
    if FAMILIES["granite"].think_start in seen:
        return FAMILIES["granite"]
    if family_by_name(model) == "s1" and chatml:
        return FAMILIES["s1"]
    raise FamilyError(_unknown(model, vocabulary))


def family_by_name(model: str) -> str | None:
    """What a model's name says; used where template and vocabulary say nothing."""
    if re.search(r"(^|[/_-])s1(\.\d+)?([_-]|$)", model.lower()):
        return "s1"
    # Their own repositories have no chat template: Mistral's tokenizer renders chats by itself.
    return "mistral" if "magistral" in model.lower() else None


def _shown(family: Family, source: str | None, seen: str, vocabulary: Collection[str]) -> bool:
    if family.name == "mistral":
        # Every recent Mistral tokenizer has the tokens, whether or not the model thinks.
        return family.think_start in seen
    if family.name == "harmony" and _HARMONY_END not in vocabulary:
        return False
    return source is None or family.think_start in source


def _unknown(model: str, vocabulary: Collection[str]) -> str:
    known = ", ".join(dict.fromkeys(f"{family.think_start!r}" for family in FAMILIES.values()))
    candidates = sorted(token for token in vocabulary if _LIKE_A_MARKER.fullmatch(token))[:_MOST_CANDIDATES]
    found = f" Its vocabulary has {', '.join(map(repr, candidates))}." if candidates else ""
    return (
        f"cannot tell how {model!r} marks its thinking: its chat template and vocabulary show none of "
        f"{known}.{found} Describe it with --think-start TEXT --think-end TEXT (and, if they differ, "
        "--wait-text, by default 'Wait', and --answer-prompt, by default nothing); or name a family with "
        f"--family {{{'|'.join(FAMILIES)}}}; or serve it without thinking budgets with --family {NO_FAMILY}"
    )


@dataclass(frozen=True, slots=True)
class FamilyOptions:
    """What whoever starts a server says of the model's markers; None: not said.

    Raises FamilyError at construction, naming option, value and what was expected.
    """

    family: str | None = None
    think_start: str | None = None
    think_end: str | None = None
    wait_text: str | None = None
    answer_prompt: str | None = None

    @classmethod
    def read(cls, **options: str | None) -> FamilyOptions:
        r"""From a command line or the environment, where `\n` is a newline and `\\` a backslash."""
        family = options.pop("family", None)
        texts = {name: None if text is None else _unescape(text) for name, text in options.items()}
        return cls(family=family, **texts)

    def __post_init__(self) -> None:
        names = (*FAMILIES, NO_FAMILY)
        if self.family is not None and self.family not in names:
            raise FamilyError(f"--family must be one of {', '.join(names)}. Given: {self.family}")
        for name, text in self.texts.items():
            if self.off:
                raise FamilyError(
                    f"{_option(name)} can't be combined with --family {NO_FAMILY}, which serves without "
                    f"thinking budgets. Given: {text!r}"
                )
            if name != "answer_prompt" and not text.strip():
                raise FamilyError(f"{_option(name)} must have visible characters. Given: {text!r}")
        known = self._known()
        if known is not None:
            self._apply(known)

    @property
    def off(self) -> bool:
        """Budgets are not wanted."""
        return self.family == NO_FAMILY

    @property
    def texts(self) -> dict[str, str]:
        given = {name: getattr(self, name) for name in FAMILY_TEXTS}
        return {name: text for name, text in given.items() if text is not None}

    @property
    def given(self) -> dict[str, str]:
        return ({} if self.family is None else {"family": self.family}) | self.texts

    def resolve(self, detect: Callable[[], Family]) -> Family:
        """The family that is meant; `detect` is asked where these options leave it open.

        Raises:
            FamilyError: the texts contradict each other, or whatever `detect` raises.
        """
        return self._apply(self._known() or detect())

    def _known(self) -> Family | None:
        if self.think_start is not None and self.think_end is not None and self.family is None:
            return Family(DESCRIBED, self.think_start, self.think_end)
        return FAMILIES.get(self.family or "")

    def _apply(self, family: Family) -> Family:
        changes: dict[str, Any] = dict(self.texts)
        family = replace(family, **changes)
        if self.think_start is not None or self.think_end is not None:
            family = replace(family, marker_ends_answer=_share_a_turn_token(family), rounds_only="")
        _check(family)
        return family


def as_options(family: Family) -> str:
    """The command line's options that mean this family, each with a space before it."""
    known = FAMILIES.get(family.name)
    like = known or Family("", think_start="", think_end="")
    shown = "" if known is None else f" --family {family.name}"
    for name in FAMILY_TEXTS:
        text = getattr(family, name)
        if text != getattr(like, name):
            shown += f" {_option(name)} {shlex.quote(_escape(text))}"
    return shown


def _check(family: Family) -> None:
    start, end = family.think_start, family.think_end
    if start == end:
        raise FamilyError(f"--think-end must differ from --think-start. Given: {end!r}")
    for name in ("wait_text", "answer_prompt"):
        text = getattr(family, name)
        for marker in (start, end):
            if marker in text:
                raise FamilyError(f"{_option(name)} can't contain the marker {marker!r}. Given: {text!r}")


def _share_a_turn_token(family: Family) -> bool:
    first = [_BRACKETED.match(marker) for marker in (family.think_start, family.think_end)]
    return first[0] is not None and first[1] is not None and first[0][0] == first[1][0]


def _option(name: str) -> str:
    return "--" + name.replace("_", "-")


def _escape(text: str) -> str:
    return text.replace("\\", "\\\\").replace("\n", "\\n")


def _unescape(text: str) -> str:
    return re.sub(r"\\([n\\])", lambda found: "\n" if found[1] == "n" else "\\", text)
