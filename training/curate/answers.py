"""Finding the short answer in a solution, and telling which answers a program can check."""

from __future__ import annotations

import re

_BOX = re.compile(r"\\(?:boxed|fbox|framebox)\s*\{")
_GSM8K_MARK = "####"
_MATH = re.compile(r"\$\$.*?\$\$|\$[^$]*\$|\\\[.*?\\\]|\\\(.*?\\\)", re.DOTALL)
_TEXT_COMMAND = re.compile(r"\\(?:text|textbf|textit|mathrm|operatorname|mbox)\s*\{([^{}]*)\}")
_COMMAND = re.compile(r"\\[a-zA-Z]+")
_WORD = re.compile(r"[^\W\d_]{3,}")
_SHORT_WORD = re.compile(r"[^\W\d_]{2,}")
_JOINING_WORDS = frozenset({"and"})
_MAX_CHECKABLE_CHARS = 400


def last_boxed(text: str) -> str | None:
    """The content of the last `\\boxed{…}` whose braces match."""
    for match in reversed(list(_BOX.finditer(text))):
        depth = 1
        for at in range(match.end(), len(text)):
            depth += {"{": 1, "}": -1}.get(text[at], 0)
            if depth == 0:
                return text[match.end() : at].strip() or None
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
    outside = _MATH.sub(" ", answer)
    bare = _COMMAND.sub(" ", _TEXT_COMMAND.sub(" ", outside))
    if set(_WORD.findall(bare.casefold())) - _JOINING_WORDS:
        return False
    quoted = _WORD.findall(" ".join(_TEXT_COMMAND.findall(answer)))
    return len(quoted) == 0 or (len(quoted) == 1 and any(map(str.isdigit, answer)))


def is_bare_formula(text: str) -> bool:
    """One line without any word: `35, 36, 37`, `x=2`."""
    line = _COMMAND.sub(" ", text)
    return "\n" not in text.strip() and _SHORT_WORD.search(line) is None
