"""The demo model's three question families, their true answers, and which questions are held out.

A question is a start state and a few labelled chunks of steps:

* ``chain``: arithmetic modulo ten. ``Start at 4. a: +7 *3; b: -2 +9. Last digit?``
* ``cups``: a ball under swapped cups. ``The ball is under P. Swap a: PQ QR RS; b: RS PR QS. Which cup?``
* ``letters``: letters counted in words. ``How many r in raspberry?``
"""

import hashlib
import random
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from training.tiny.words import HELD_OUT_WORDS, training_words

Family = Literal["chain", "cups", "letters"]
FAMILIES: tuple[Family, ...] = ("chain", "cups", "letters")
CHUNK_LABELS = "abcde"
MAX_CHUNKS: dict[Family, int] = {"chain": 5, "cups": 5, "letters": 3}
CUPS = "PQRS"
SWAPS = tuple(left + right for left in CUPS for right in CUPS if left < right)
HELD_OUT_ONE_IN = 20

_CONSONANTS = "bcdfghjklmnprstvwyz"
_VOWELS = "aeiou"
_LONGEST_INVENTED_WORD = 12
_LETTER_PHRASINGS = (
    "How many {letter} in {words}?",
    "How many {letter}'s in {words}?",
    "How many {letter} are in {words}?",
    "How many {letter}'s are in {words}?",
)
_PLAIN_PHRASING_SHARE = 0.7


@dataclass(frozen=True, slots=True)
class Step:
    """``("+", "7")`` in a chain, ``("P", "Q")`` for cups, ``(letter seen, letter counted)`` for letters."""

    symbol: str
    operand: str


Chunk = tuple[Step, ...]


@dataclass(frozen=True, slots=True)
class Question:
    """``text`` is what is asked; ``key`` is its plain phrasing, by which it is held out or not."""

    family: Family
    text: str
    key: str
    start: str
    chunks: tuple[Chunk, ...]

    @property
    def truth(self) -> str:
        state = self.start
        for chunk in self.chunks:
            state = apply_chunk(self.family, state, chunk)
        return state


def apply_step(family: Family, state: str, step: Step) -> str:
    if family == "letters":
        return str(int(state) + (step.symbol == step.operand))
    if family == "cups":
        return {step.symbol: step.operand, step.operand: step.symbol}.get(state, state)
    number, operand = int(state), int(step.operand)
    result = {"+": number + operand, "-": number - operand, "*": number * operand}[step.symbol]
    return str(result % 10)


def apply_chunk(family: Family, state: str, chunk: Chunk) -> str:
    for step in chunk:
        state = apply_step(family, state, step)
    return state


def step_text(family: Family, step: Step) -> str:
    return f" {step.symbol}" if family == "letters" else f" {step.symbol}{step.operand}"


def chunk_text(family: Family, chunk: Chunk) -> str:
    if family == "letters":
        return " " + "".join(step.symbol for step in chunk)
    return "".join(step_text(family, step) for step in chunk)


def is_held_out(question: Question) -> bool:
    """One question in twenty by hash, and every question about a held-out word, is never trained on."""
    if question.family == "letters" and HELD_OUT_WORDS.intersection(words_of(question)):
        return True
    digest = hashlib.sha256(question.key.encode()).hexdigest()
    return int(digest[:8], 16) % HELD_OUT_ONE_IN == 0


def words_of(question: Question) -> list[str]:
    return [chunk_text("letters", chunk).strip() for chunk in question.chunks]


def make_question(rng: random.Random, family: Family, num_chunks: int | None = None) -> Question:
    """A random question; more chunks than the family allows are cut down to its limit."""
    limit = MAX_CHUNKS[family]
    count = rng.randint(1, limit) if num_chunks is None else min(num_chunks, limit)
    if family == "chain":
        return chain_question(str(rng.randint(0, 9)), [_chain_chunk(rng) for _ in range(count)])
    if family == "cups":
        return cups_question(rng.choice(CUPS), [_cups_chunk(rng) for _ in range(count)])
    words = [_word(rng) for _ in range(count)]
    return letters_question(_letter_to_count(rng, "".join(words)), words, phrasing=_phrasing(rng))


def make_training_question(rng: random.Random, family: Family, num_chunks: int | None = None) -> Question:
    while is_held_out(question := make_question(rng, family, num_chunks)):
        pass
    return question


def chain_question(start: str, chunks: Sequence[Chunk]) -> Question:
    text = f"Start at {start}. {_labelled('chain', chunks)}. Last digit?"
    return Question("chain", text, text, start, tuple(chunks))


def cups_question(start: str, chunks: Sequence[Chunk]) -> Question:
    text = f"The ball is under {start}. Swap {_labelled('cups', chunks)}. Which cup?"
    return Question("cups", text, text, start, tuple(chunks))


def letters_question(letter: str, words: Sequence[str], phrasing: str = _LETTER_PHRASINGS[0]) -> Question:
    fields = {"letter": letter, "words": " ".join(words)}
    chunks = tuple(tuple(Step(seen, letter) for seen in word) for word in words)
    key = _LETTER_PHRASINGS[0].format(**fields)
    return Question("letters", phrasing.format(**fields), key, "0", chunks)


def _labelled(family: Family, chunks: Sequence[Chunk]) -> str:
    return "; ".join(
        f"{label}:{chunk_text(family, chunk)}" for label, chunk in zip(CHUNK_LABELS, chunks, strict=False)
    )


def _chain_chunk(rng: random.Random) -> Chunk:
    return tuple(_chain_step(rng, rng.choice("+-*")) for _ in range(2))


def _chain_step(rng: random.Random, symbol: str) -> Step:
    """Only factors that keep all ten digits apart, so that no step forgets its input."""
    return Step(symbol, rng.choice("379") if symbol == "*" else str(rng.randint(1, 9)))


def drill_chunk(rng: random.Random, num_steps: int) -> Chunk:
    """Chain steps to practise one by one: sums are harder to learn than the few products."""
    return tuple(_chain_step(rng, rng.choice("++--*")) for _ in range(num_steps))


def _cups_chunk(rng: random.Random) -> Chunk:
    return tuple(Step(*rng.choice(SWAPS)) for _ in range(rng.randint(3, 4)))


def _word(rng: random.Random) -> str:
    if rng.random() < 0.4:
        return rng.choice(training_words())
    while (word := _invented_word(rng)) in HELD_OUT_WORDS:
        pass
    return word


def _invented_word(rng: random.Random) -> str:
    word = ""
    for _ in range(rng.choice([2, 2, 3, 3, 4, 5])):
        consonant, vowel = rng.choice(_CONSONANTS), rng.choice(_VOWELS)
        ending = rng.choices(["", vowel, consonant, rng.choice(_CONSONANTS)], [45, 15, 15, 25])[0]
        word += consonant + vowel + ending
        if rng.random() < 0.2:
            word += word[-1]
    return word[:_LONGEST_INVENTED_WORD]


def _letter_to_count(rng: random.Random, letters: str) -> str:
    """Mostly a letter that occurs, repeated ones preferred; sometimes any letter."""
    if rng.random() < 0.07:
        return rng.choice("abcdefghijklmnopqrstuvwxyz")
    repeated = [letter for letter in sorted(set(letters)) if letters.count(letter) > 1]
    return rng.choice(list(letters) + repeated * 2)


def _phrasing(rng: random.Random) -> str:
    return _LETTER_PHRASINGS[0] if rng.random() < _PLAIN_PHRASING_SHARE else rng.choice(_LETTER_PHRASINGS[1:])
