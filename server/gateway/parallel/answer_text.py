"""The short answer in a message, if there is one that can be told. Pure; nothing is guessed.

In this order: the last `\\boxed{…}`; the last "answer is …" or "Answer: …"; `#### …`; the whole message if it
is one short line; its last line if that is a formula, a number or a choice. A message that has none of these
has no answer: it doesn't vote.
"""

from __future__ import annotations

import re

MAX_ANSWER_CHARACTERS = 400
_SHORT_LINE_CHARACTERS = 120
_BOX = re.compile(r"\\(?:boxed|fbox|framebox)\s*\{")
_BRACE = re.compile(r"[{}]")
_STATED = re.compile(
    r"(?:\banswer\s*(?:is|=|:)\s*:?|####)\s*(?P<answer>\S[^\n]*)",
    re.IGNORECASE,
)
_DECORATION = re.compile(r"\*\*|__|`")
_LINE_START = re.compile(r"^(?:[-*•>]\s+|(?:therefore|thus|so|hence)[,:]?\s+)", re.IGNORECASE)
_WORD = re.compile(r"[^\W\d_]{2,}")
_COMMAND = re.compile(r"\\[a-zA-Z]+")
_SENTENCE_END = re.compile(r"\.(?=\s+[A-Z])")


def extract_answer(content: str | None) -> str | None:
    """The answer's own text; None if the message states none."""
    text = (content or "").strip()
    if not text:
        return None
    found = _boxed(text) or _stated(text) or _only_line(text) or _last_formula(text)
    return found if found is not None and len(found) <= MAX_ANSWER_CHARACTERS else None


def _boxed(text: str) -> str | None:
    """Of the boxes that close, the one that begins last.

    Each brace is looked at once: a model that loops writes thousands of boxes and closes none.
    """
    boxes = {match.end() for match in _BOX.finditer(text)}
    opened: list[int] = []
    last_begin, last_end = 0, 0
    for brace in _BRACE.finditer(text):
        if brace[0] == "{":
            opened.append(brace.end())
        elif opened and (begin := opened.pop()) in boxes and begin > last_begin:
            last_begin, last_end = begin, brace.start()
    return text[last_begin:last_end].strip() or None


def _stated(text: str) -> str | None:
    # Stripped, because the pattern tries every length of white space that nothing follows.
    for match in reversed(list(_STATED.finditer(_DECORATION.sub("", text).strip()))):
        answer = _SENTENCE_END.split(match["answer"], maxsplit=1)[0]
        if cleaned := _clean(answer):
            return cleaned
    return None


def _only_line(text: str) -> str | None:
    return None if "\n" in text or len(text) > _SHORT_LINE_CHARACTERS else _clean(_DECORATION.sub("", text))


def _last_formula(text: str) -> str | None:
    line = _LINE_START.sub("", _DECORATION.sub("", text.splitlines()[-1]).strip())
    return _clean(line) if _WORD.search(_COMMAND.sub(" ", line)) is None else None


def _clean(answer: str) -> str | None:
    cleaned = answer.strip().rstrip(".").strip()
    return cleaned or None
