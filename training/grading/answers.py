"""Finding the short answer in a solution, and telling which answers a program can check."""

from __future__ import annotations

import re
from collections.abc import Iterator

from training.grading import forms

_BOX = re.compile(r"\\(?:boxed|fbox|framebox)\s*(?:\{|(?P<bare>[^\s{}$\\.,;]+))")
_BETWEEN_BOXES = re.compile(r"(?:\s|[,;$&]|\\(?:quad|qquad|text\s*\{\s*(?:and|or)\s*\}|[,;!()])|and\b|or\b)*")
_GSM8K_MARK = "####"
_MATH = re.compile(r"\$\$.*?\$\$|\$[^$]*\$|\\\[.*?\\\]|\\\(.*?\\\)", re.DOTALL)
_TEXT_COMMAND = re.compile(r"\\(?:text|textbf|textit|mathrm|operatorname|mbox)\s*\{([^{}]*)\}")
_COMMAND = re.compile(r"\\[a-zA-Z]+")
_ENVIRONMENT = re.compile(r"\\(?:begin|end)\s*\{[a-z]+\*?\}")
_VERDICT_WORDS = frozenset({"no", "yes", "dne", "na"})
_WORD = re.compile(r"[^\W\d_]{3,}")
_SHORT_WORD = re.compile(r"(?<![^\W\d_])(?!and\b|or\b)[^\W\d_]{2,}")
_JOINING_WORDS = frozenset({"and"})
_MAX_CHECKABLE_CHARS = 400


def last_boxed(text: str) -> str | None:
    """The content of the last `\\boxed{…}` whose braces match; `\\boxed 5` is one, too."""
    boxes = list(_boxes(text))
    return boxes[-1][2] if boxes else None


def last_boxes(text: str) -> str | None:
    """As `last_boxed`, but boxes that only `,`, `and` or `or` keep apart are one list: `2, 3`.

    What is boxed twice is said once.
    """
    boxes = list(_boxes(text))
    if not boxes:
        return None
    group = [boxes[-1]]
    for begin, end, content in reversed(boxes[:-1]):
        if _BETWEEN_BOXES.fullmatch(text, end, group[0][0]) is None:
            break
        group.insert(0, (begin, end, content))
    said: dict[str, str] = {}
    for _, _, content in group:
        said.setdefault(forms.plain(content), content)
    return ", ".join(said.values())


def has_open_box(text: str) -> bool:
    """Whether the last box is never closed, as where the output was cut off."""
    matches = list(_BOX.finditer(text))
    return bool(matches) and matches[-1]["bare"] is None and closing_brace(text, matches[-1].end()) is None


def _boxes(text: str) -> Iterator[tuple[int, int, str]]:
    """Begin, end and content of every box that has one."""
    for match in _BOX.finditer(text):
        if match["bare"] is not None:
            yield match.start(), match.end(), match["bare"]
            continue
        end = closing_brace(text, match.end())
        if end is not None and (content := text[match.end() : end].strip()):
            yield match.start(), end + 1, content


def closing_brace(text: str, begin: int) -> int | None:
    """Where the brace that was opened before `begin` is closed; escaped braces don't count."""
    depth, at = 1, begin
    while at < len(text):
        if text[at] == "\\":
            at += 2
            continue
        depth += {"{": 1, "}": -1}.get(text[at], 0)
        if depth == 0:
            return at
        at += 1
    return None


def split_gsm8k(answer: str) -> tuple[str, str] | None:
    """Solution and short answer of `… #### 42`."""
    solution, mark, short = answer.rpartition(_GSM8K_MARK)
    if not mark or not short.strip() or "\n" in short.strip():
        return None
    return solution.strip(), short.strip()


def looks_checkable(answer: str) -> bool:
    """Whether an answer is mathematics or a single choice, so that math-verify can compare it.

    Words, sentences and proofs are not: as formulas they would be products of their letters. One unit beside
    a number does no harm.
    """
    if not answer.strip() or len(answer) > _MAX_CHECKABLE_CHARS:
        return False
    if answer.strip("$. ").casefold() in _VERDICT_WORDS:
        return False
    outside = _MATH.sub(" ", _ENVIRONMENT.sub(" ", answer))
    bare = _COMMAND.sub(" ", _TEXT_COMMAND.sub(" ", outside))
    if set(_WORD.findall(bare.casefold())) - _JOINING_WORDS:
        return False
    quoted = _WORD.findall(" ".join(_TEXT_COMMAND.findall(answer)))
    return len(quoted) == 0 or (len(quoted) == 1 and any(map(str.isdigit, answer)))


def is_bare_formula(text: str) -> bool:
    """One line without any word: `35, 36, 37`, `x=2`."""
    line = _COMMAND.sub(" ", text)
    return "\n" not in text.strip() and _SHORT_WORD.search(line) is None
