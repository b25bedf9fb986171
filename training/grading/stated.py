"""What an attempt states as its answer (s1's rules: the last box, else what follows the last "Answer:")."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Literal

from training.grading.answers import has_open_box, is_bare_formula, last_boxes

How = Literal["boxed", "answer line", "whole", "prose", "nothing"]

_ANSWER_TURN = "<|im_start|>answer\n"
_TURN = "<|im_start|>"
_CLOSING_TAGS = ("</think>", "[/THINK]")
_END_MARKS = re.compile(r"(?:<\|im_end\|>|<\|endoftext\|>|</s>)\s*\Z")
_SHORT_TEXT_CHARS = 60

_ANSWER = re.compile(
    r"\b(?:answer|antwort)\b(?:\s+(?:to|for)\s+[^.:\n]{1,60}?)?\s*(?:\*\*|\*|_)?\s*"
    r"(?:(?:is|are)\b\s*(?:simply|therefore|thus|then|just)?\s*:?|[:=])\s*(?:\*\*|\*|_)?"
    r"|^[ \t#*_]*(?:the\s+)?(?:final\s+)?(?:answer|antwort)[ \t*_]*$",
    re.IGNORECASE | re.MULTILINE,
)
"""In a sentence, before a colon, or a heading of its own."""
_INLINE = r"\$(?:\\.|[^$\\\n])*?\w(?:\\.|[^$\\\n])*\$|\\\(.+?\\\)"
"""`\\$` is a dollar, and a formula without a letter or digit is half of one."""
_MATH_FIRST = re.compile(rf"\s*(\$\$.+?\$\$|{_INLINE}|\\\[.+?\\\])", re.DOTALL)
_JOINED_MATH = re.compile(rf"\s*(?:,|;|and|or|, and|, or)\s*({_INLINE})")
_UNIT_AFTER = re.compile(r"[ \t]*(?:(?:square|cubic)[ \t]+)?[^\W\d_]+(?:(?:/|[ \t]+per[ \t]+)[^\W\d_]+)?\b")
_SENTENCE_END = re.compile(r"[.!?](?:\*\*)?(?=\s|\Z)")
_REASON = re.compile(
    r"\s*(?:,\s*)?\b(?:because|since|as|which|that is|i\.e\.|so|where|when|but|not|hence|given|giving)\b",
    re.I,
)
_LEAD = re.compile(
    r"\A\s*(?P<quoted>\\(?:text|textbf|mathrm|mbox)\s*\{)?\s*(?:the\s+)?(?:final\s+)?answer\s*(?:is|:|=)+\s*(?P<end>\})?",
    re.I,
)
"""An "Answer:" inside a box, in a text command of its own or before what else stands there."""
_IT_IS = re.compile(
    r"\A(?:(?:so|thus|hence|therefore)\b,?\s+)?(?:(?:it|this|that)(?:\s+(?:is|equals)|['’]s)\s+)?(?=\S)",
    re.IGNORECASE,
)
"""Says no more than what follows it."""
_EDGES = " \t\r\n*_`\"'"


@dataclass(frozen=True, slots=True)
class Stated:
    """`text` is empty where nothing is stated; `how` says where it was found. `rest` is all that follows an
    "Answer:", reasons and further sentences included."""

    text: str
    how: How
    rest: str = ""


def stated(attempt: str | None, *, cut: bool = False) -> Stated:
    """The answer that a message's content states; thinking that was left in it is skipped.

    Args:
        cut: whether the message was cut off at a limit of tokens: then only a box or an "Answer:" states one.
    """
    text = answer_part(attempt or "").strip()
    if not text or has_open_box(text):
        return Stated("", "nothing")
    boxed = last_boxes(text)
    if boxed is not None:
        return Stated(_LEAD.sub(_opening, boxed).strip() or boxed, "boxed")
    found = list(_ANSWER.finditer(text))
    for match in reversed(found):
        rest = text[match.end() :]
        if statement := _first_statement(rest):
            return Stated(statement, "answer line", rest)
    if cut:
        return Stated("", "nothing")
    bare = text.strip(_EDGES)
    if is_bare_formula(bare) or ("\n" not in bare and len(bare) <= _SHORT_TEXT_CHARS):
        return Stated(_IT_IS.sub("", _without_full_stop(bare)), "whole")
    return Stated(text, "prose")


def answer_part(text: str) -> str:
    """What follows the thinking, where the markers of a model family are still in the text."""
    text = _END_MARKS.sub("", text)
    if _ANSWER_TURN in text:
        return text.rpartition(_ANSWER_TURN)[2]
    if _TURN in text:
        return text.rpartition(_TURN)[2].partition("\n")[2]
    for tag in _CLOSING_TAGS:
        if tag in text:
            return text.rpartition(tag)[2]
    return text


def _first_statement(rest: str) -> str:
    """The formula that `rest` begins with, or its first line up to the end of the sentence or a reason."""
    if math := _MATH_FIRST.match(rest):
        said, at = [math[1]], math.end()
        while joined := _JOINED_MATH.match(rest, at):
            said.append(joined[1])
            at = joined.end()
        unit = _UNIT_AFTER.match(rest, at)
        return ", ".join(said) + (unit[0] if unit and len(said) == 1 and not _REASON.match(unit[0]) else "")
    line = next((line for line in rest.splitlines() if line.strip(_EDGES)), "").strip(_EDGES)
    if end := _SENTENCE_END.search(line):
        line = line[: end.start()]
    if (reason := _REASON.search(line)) and reason.start() > 0:
        line = line[: reason.start()]
    return _without_full_stop(line.strip(_EDGES))


def _opening(lead: re.Match[str]) -> str:
    """Of a lead, the text command that goes on behind it."""
    return (lead["quoted"] or "") if lead["end"] is None else ""


def _without_full_stop(text: str) -> str:
    return text.strip(_EDGES).rstrip(".,;:").strip(_EDGES)
