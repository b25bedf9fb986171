"""Points and sets: what order an answer gives its values in, which no comparison of values sees."""

from __future__ import annotations

import re

from training.grading import forms

_NAMED = re.compile(r"(?:^|,|;|\band\b) *(?P<name>\\?[^\W\d_]+(?:_\{?\w+\}?)?) *=")
_SET = re.compile(r"(?:[^=,]*=)?\\\{[^{}]*\\\}")
_POINT = re.compile(r"(?:[^=,]*=)?\([^()]*,[^()]*\)")


def is_out_of_order(reference: str, text: str) -> bool:
    """Whether an answer to a point names its coordinates in another order than the alphabet's: `y=2, x=1`."""
    names = [found["name"] for found in _NAMED.finditer(forms.plain(text))]
    return _POINT.fullmatch(forms.plain(reference)) is not None and names != sorted(names)


def are_set_and_point(reference: str, text: str) -> bool:
    """Whether one is a set, such as `\\{1,2\\}`, and the other a point or interval, such as `(2,1)`."""
    one, other = forms.plain(reference), forms.plain(text)
    return any(
        _SET.fullmatch(first) is not None and _POINT.fullmatch(second) is not None
        for first, second in ((one, other), (other, one))
    )
