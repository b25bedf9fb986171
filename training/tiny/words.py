"""Words of the letter-counting questions."""

from functools import cache
from pathlib import Path

HELD_OUT_WORDS = frozenset(
    ["raspberry", "strawberry", "butterfly", "committee", "assessment", "tomorrow", "mississippi", "banana"]
)
"""Words that no training document contains, so that a right answer about them is not memory."""

_TRAINING_WORDS = Path(__file__).with_name("words.txt")


@cache
def training_words() -> tuple[str, ...]:
    """In the order of the alphabet: the order decides what a seed draws."""
    return tuple(sorted(set(_TRAINING_WORDS.read_text().split()) - HELD_OUT_WORDS))
