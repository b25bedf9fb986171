"""The held-out questions every model is measured on: a fixed set, whatever a recipe or seed may say."""

import hashlib
import random
from dataclasses import replace

from training.tiny.tasks import FAMILIES, MAX_CHUNKS, Question, is_held_out, make_question

SUITE_SEED = 7
SUITE_SIZE = 400


def held_out_questions(count: int = SUITE_SIZE) -> list[Question]:
    """Distinct held-out questions, the families in turn, every number of chunks equally likely."""
    rng = random.Random(SUITE_SEED)  # noqa: S311 -- a fixed test set, not cryptography
    chosen: dict[str, Question] = {}
    while len(chosen) < count:
        family = FAMILIES[len(chosen) % len(FAMILIES)]
        question = make_question(rng, family, rng.randint(1, MAX_CHUNKS[family]))
        if is_held_out(question):
            chosen.setdefault(question.key, replace(question, text=question.key))
    return list(chosen.values())


def fingerprint(questions: list[Question]) -> str:
    """Which questions a result is about: a hash of their texts and answers."""
    lines = "\n".join(f"{question.text}\t{question.truth}" for question in questions)
    return hashlib.sha256(lines.encode()).hexdigest()[:16]
