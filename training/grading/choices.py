"""Multiple choice: which letter an attempt names. None is None: never a default."""

from __future__ import annotations

import re
from collections.abc import Sequence

from training.grading import forms
from training.grading.stated import answer_part, stated

LETTERS = "ABCDEFGHIJ"
_LEAD = r"(?:(?:the\s+)?(?:correct\s+|right\s+|best\s+)?(?:option|choice|answer|letter)\s*(?:is|:)?\s*)?"
_ALONE = re.compile(
    rf"\s*{_LEAD}[(\[{{*_\"'`]*(?P<letter>[A-J])[)\]}}*_\"'`]*(?:\s*[.):,;\-–—].*|\s*)",
    re.DOTALL | re.IGNORECASE,
)
_IN_PROSE = re.compile(
    r"(?:option|choice|answer|select|choose|pick)\s*(?:is|:)?\s*[(\[*_\"'`]*(?P<letter>[A-J])\b(?![' ]\w)",
    re.I,
)
_LAST_LINE = re.compile(r"[(\[*_]*(?P<letter>[A-J])[)\]*_.:]*")


def chosen_letter(attempt: str, options: Sequence[str] = ()) -> str | None:
    """The letter of the option that an attempt ends on.

    Args:
        options: the options' texts in the order of their letters; a text given instead of a letter counts, if
            it is one option's alone. Without them letters up to J are possible.
    """
    allowed = LETTERS[: len(options)] if options else LETTERS
    said = stated(attempt)
    if said.how == "nothing":
        return None
    candidates = (_alone(said.text), _by_text(said.text, options), _in_prose(answer_part(attempt)))
    found = next((letter for letter in candidates if letter is not None), None)
    return found if found is not None and found in allowed else None


def _alone(text: str) -> str | None:
    bare = forms.plain(text)
    found = _ALONE.fullmatch(bare)
    if found is None:
        return None
    letter = found["letter"]
    # `a. glucose` is an option, `a` in prose an article; alone, a small letter is one that was written small.
    return letter.upper()


def _by_text(text: str, options: Sequence[str]) -> str | None:
    said = forms.words(text)
    matching = [LETTERS[at] for at, option in enumerate(options) if forms.words(option) == said]
    if len(matching) == 1:
        return matching[0]
    # "B Glucose", "(B) Glucose": the letter before its own text.
    for at, option in enumerate(options):
        if re.fullmatch(
            rf"[(\[]?{LETTERS[at]}[)\].:]?\s*{re.escape(forms.words(option))}", said, re.IGNORECASE
        ):
            return LETTERS[at]
    return None


def _in_prose(text: str) -> str | None:
    found = [match["letter"] for match in _IN_PROSE.finditer(text) if match["letter"].isupper()]
    if found:
        return found[-1]
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    last = _LAST_LINE.fullmatch(lines[-1]) if lines else None
    return last["letter"] if last else None
