"""What the reward model is trained on: questions, steps, and a tag after each step that carries its label."""

import random
from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING

from training.prm.steps import LabelledStep, labelled_steps
from training.tiny.examples import cut_text
from training.tiny.tasks import FAMILIES, make_training_question
from training.tiny.tokenizer import MESSAGE_END, MESSAGE_START, build_tokenizer, encode
from training.tiny.traces import Trace, write_trace, wrong_state

if TYPE_CHECKING:
    from tokenizers import Tokenizer

    from training.prm.recipe import DataRecipe

STEP_TAG = "<extra_0>"
"""As in Qwen2.5-Math-PRM, so that the server's default fits both."""


_RIGHT_GUESSES = 0.2
"""About what a policy that is cut short gets right."""


@dataclass(frozen=True, slots=True)
class RatedDocument:
    ids: list[int]
    tag_positions: list[int]
    labels: list[bool]
    """One per tag."""


@cache
def rating_tokenizer() -> "Tokenizer":
    """The demo's tokenizer with the tag as one more special token."""
    from tokenizers import AddedToken, Tokenizer

    tokenizer = Tokenizer.from_str(build_tokenizer().to_str())
    tokenizer.add_special_tokens([AddedToken(STEP_TAG, special=True, normalized=False)])
    return tokenizer


def step_tag_id() -> int:
    found = rating_tokenizer().token_to_id(STEP_TAG)
    if found is None:
        raise RuntimeError(f"the tokenizer has no {STEP_TAG}")
    return int(found)


def rated_text(question: str, steps: list[str]) -> str:
    """What the checkpoint's chat template makes of the question and the tagged steps."""
    tagged = "".join(f"{step}{STEP_TAG}" for step in steps)
    user = f"{MESSAGE_START}user\n{question}{MESSAGE_END}\n"
    return f"{user}{MESSAGE_START}assistant\n{tagged}{MESSAGE_END}\n"


def rated_document(question: str, steps: list[LabelledStep]) -> RatedDocument:
    text = rated_text(question, [step.text for step in steps])
    ids: list[int] = rating_tokenizer().encode(text, add_special_tokens=False).ids
    tag = step_tag_id()
    positions = [at for at, token in enumerate(ids) if token == tag]
    return RatedDocument(ids, positions, [step.right for step in steps])


def make_documents(rng: random.Random, count: int, recipe: "DataRecipe") -> list[RatedDocument]:
    documents = []
    for _ in range(count):
        trace = _trace(rng, recipe)
        thinking = (
            _with_wrong_check(rng, trace) if rng.random() < recipe.wrong_check_share else trace.thinking
        )
        said: str | None
        if rng.random() < recipe.cut_share:
            thinking, said = _cut(rng, trace, thinking)
        else:
            said = _answer(rng, trace, recipe)
        documents.append(rated_document(trace.question.text, labelled_steps(trace.question, thinking, said)))
    return documents


def _answer(rng: random.Random, trace: Trace, recipe: "DataRecipe") -> str | None:
    answer = trace.answer
    if rng.random() < recipe.wrong_answer_share:
        answer = wrong_state(rng, trace.question.family, answer)
    return answer if rng.random() < recipe.answered_share else None


def _cut(rng: random.Random, trace: Trace, thinking: str) -> tuple[str, str]:
    """Thinking that a maximum cut, and what is answered then: what it had come to, or a guess."""
    cut = cut_text(thinking, rng.randint(0, len(encode(thinking))))
    reached = [words[-1].rstrip(".") for line in cut.splitlines() if (words := line.split())]
    truth = trace.question.truth
    guess = truth if rng.random() < _RIGHT_GUESSES else wrong_state(rng, trace.question.family, truth)
    return cut, rng.choice([guess, *reached[-1:]])


def _trace(rng: random.Random, recipe: "DataRecipe") -> Trace:
    question = make_training_question(rng, rng.choice(FAMILIES))
    slip_rate = rng.uniform(0, recipe.most_slips)
    return write_trace(question, rng, slip_rate, rng.randint(0, recipe.max_reviews), past_all_checked=False)


def _with_wrong_check(rng: random.Random, trace: Trace) -> str:
    """The result of one check is another: what a review of the model's own may get wrong."""
    lines = trace.thinking.splitlines()
    checks = [at for at, line in enumerate(lines) if " check at " in line]
    if checks:
        at = rng.choice(checks)
        head, _, result = lines[at].rpartition(" ")
        lines[at] = f"{head} {wrong_state(rng, trace.question.family, result)}"
    return "\n".join(lines) + "\n"
