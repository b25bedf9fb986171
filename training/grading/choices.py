"""Multiple choice: which letter an attempt names. None is None: never a default."""

from __future__ import annotations

import re
from collections.abc import Sequence

from training.grading import forms
from training.grading.stated import answer_part, stated

LETTERS = "ABCDEFGHIJ"
_LEAD = r"(?:(?:the\s+)?(?:correct\s+|right\s+|best\s+)?(?:option|choice|answer|letter)\s*(?:is|:)?\s*)?"
_ALONE = re.compile(
    rf"\s*{_LEAD}[(\[{{*_\"'`]*(?P<letter>[A-J])[)\]}}*_\"'`]*(?:\s*[.):,;\-–—](?P<rest>.*)|\s*)",
    re.DOTALL | re.IGNORECASE,
)
_BARE = (
    r"(?<![^\W_])(?P<letter>[A-J])(?![^\W_]|_\w|['’]\w|-\w\w)"
    # Before a word `A` is an article and `I` a pronoun, unless a list goes on or the option is spoken of.
    r"(?!(?<=[AI])\s+(?!(?:and|or|nor|is|are|too)\b)\w)"
)
_MENTION = re.compile(_BARE)
_MENTION_OF_ANY_CASE = re.compile(_BARE, re.IGNORECASE)
_LIST_GOES_ON = re.compile(rf"[)\]*_\"'`]*\s*(?:[,;/&+]|and\b|or\b)(?:[^\w\n]|and\b|or\b)*{_BARE}")
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

    Returns:
        None if there is none, or several: `A, B` names no option, whichever comes first.
    """
    allowed = LETTERS[: len(options)] if options else LETTERS
    said = stated(attempt)
    if said.how == "nothing":
        return None
    found = _ALONE.fullmatch(forms.plain(said.text))
    if found is None:
        letter = _by_text(said.text, options) or _in_prose(answer_part(attempt), allowed)
    elif _names_another(found, allowed, options):
        letter = _by_text(said.text, options)
    else:
        # `a. glucose` is an option, `a` in prose an article; alone, a small letter was written small.
        letter = found["letter"].upper()
    return letter if letter is not None and letter in allowed else None


def _names_another(found: re.Match[str], allowed: str, options: Sequence[str]) -> bool:
    """Whether a second letter follows the first one and, where it stands there, the text of its option."""
    letter, rest = found["letter"].upper(), found["rest"] or ""
    mention = _MENTION if found["letter"].isupper() else _MENTION_OF_ANY_CASE
    begin = _end_of_text(rest, dict(zip(LETTERS, options, strict=False)).get(letter, ""))
    return any(_is_other(match, letter, allowed) for match in mention.finditer(rest, begin))


def _end_of_text(rest: str, option: str) -> int:
    """Where `option` ends in what follows its letter; 0 if it doesn't stand there."""
    own = re.match(rf"[\W_]*?{re.escape(forms.plain(option))}(?![^\W_])", rest, re.IGNORECASE)
    return own.end() if own else 0


def _is_other(mention: re.Match[str] | None, letter: str, allowed: str) -> bool:
    return mention is not None and mention["letter"].upper() in allowed.replace(letter, "")


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


def _in_prose(text: str, allowed: str) -> str | None:
    found = [match for match in _IN_PROSE.finditer(text) if match["letter"].isupper()]
    if found:
        letter = found[-1]["letter"]
        return None if _is_other(_LIST_GOES_ON.match(text, found[-1].end()), letter, allowed) else letter
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    last = _LAST_LINE.fullmatch(lines[-1]) if lines else None
    return last["letter"] if last else None
