"""How good the reward model is on the policy's own thinking about questions that neither was trained on."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from training.evaluate.intervals import wilson_interval
from training.prm.documents import rated_document
from training.prm.model import rate
from training.prm.recipe import MeasureRecipe
from training.prm.steps import LabelledStep, labelled_steps
from training.tiny.documents import question_prompt
from training.tiny.tasks import Question

_ANSWER_MARKER = "<|im_start|>answer\n"
_MAX_NEW_TOKENS = 512
_BATCH_SIZE = 64


@dataclass(frozen=True, slots=True)
class Sample:
    question: Question
    steps: list[LabelledStep]
    """The last one is the answer, if it came to one."""
    answer: str | None


@dataclass(frozen=True, slots=True)
class Quality:
    """Shares from 0 to 1. Accuracies are of ``questions`` questions, with ``samples`` samples each."""

    questions: int
    samples: int
    temperature: float
    steps: int
    right_steps: float
    step_auc: float
    """The chance that a right step scores above a wrong one."""
    answer_auc: float
    one_sample: float
    majority_vote: float
    weighted_vote: float
    best_of: float
    any_right: float

    def told(self) -> dict[str, Any]:
        return {name: round(value, 4) for name, value in asdict(self).items()}


def measure_quality(
    model: Any, policy: Path, questions: Sequence[Question], recipe: MeasureRecipe, seed: int
) -> Quality:
    samples = sample_policy(policy, questions, recipe, seed)
    scores = rate(model, [rated_document(sample.question.text, sample.steps) for sample in samples])
    labels = [step.right for sample in samples for step in sample.steps]
    flat = [score for of_sample in scores for score in of_sample]
    answered = [at for at, sample in enumerate(samples) if sample.answer is not None]
    groups = [range(at, at + recipe.samples) for at in range(0, len(samples), recipe.samples)]
    chosen = [_choose([(samples[at].answer, scores[at][-1]) for at in group]) for group in groups]
    truths = [samples[group[0]].question.truth for group in groups]

    def accuracy(method: str) -> float:
        return sum(choice[method] == truth for choice, truth in zip(chosen, truths, strict=True)) / len(
            groups
        )

    return Quality(
        questions=len(questions),
        samples=recipe.samples,
        temperature=recipe.temperature,
        steps=len(labels),
        right_steps=sum(labels) / len(labels),
        step_auc=auc(flat, labels),
        answer_auc=auc([scores[at][-1] for at in answered], [samples[at].steps[-1].right for at in answered]),
        one_sample=sum(sample.answer == sample.question.truth for sample in samples) / len(samples),
        majority_vote=accuracy("majority_vote"),
        weighted_vote=accuracy("weighted_vote"),
        best_of=accuracy("best_of"),
        any_right=sum(
            any(samples[at].answer == truth for at in group)
            for group, truth in zip(groups, truths, strict=True)
        )
        / len(groups),
    )


def sample_policy(
    policy: Path, questions: Sequence[Question], recipe: MeasureRecipe, seed: int
) -> list[Sample]:
    """`recipe.samples` for every question, one question's after another's; without waits or a budget."""
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    torch.manual_seed(seed)
    tokenizer = AutoTokenizer.from_pretrained(policy, padding_side="left")
    model = AutoModelForCausalLM.from_pretrained(
        policy, dtype=torch.float32, attn_implementation="eager"
    ).eval()
    asked = [question for question in questions for _ in range(recipe.samples)]
    samples = []
    for begin in range(0, len(asked), _BATCH_SIZE):
        batch = asked[begin : begin + _BATCH_SIZE]
        inputs = tokenizer(
            [question_prompt(question.text) for question in batch],
            return_tensors="pt",
            padding=True,
            add_special_tokens=False,
        )
        with torch.inference_mode():
            outputs = model.generate(
                input_ids=inputs["input_ids"],
                attention_mask=inputs["attention_mask"],
                do_sample=True,
                temperature=recipe.temperature,
                top_k=0,
                max_new_tokens=_MAX_NEW_TOKENS,
            )
        texts = tokenizer.batch_decode(outputs[:, inputs["input_ids"].shape[1] :], skip_special_tokens=False)
        samples += [read_sample(question, text) for question, text in zip(batch, texts, strict=True)]
    return samples


def read_sample(question: Question, text: str) -> Sample:
    """Thinking and answer of one output; without the end marker there is no answer."""
    thinking, marker, answer = text.partition(_ANSWER_MARKER)
    said = answer.partition("<|im_end|>")[0].strip() if marker else None
    return Sample(question, labelled_steps(question, thinking.partition("<|im_end|>")[0], said), said)


def auc(scores: Sequence[float], labels: Sequence[bool]) -> float:
    """The area under the ROC curve; equal scores count half. 0.5 if there is only one class."""
    right = sum(labels)
    wrong = len(labels) - right
    if not right or not wrong:
        return 0.5
    ordered = sorted(zip(scores, labels, strict=True))
    rank_sum, at = 0.0, 0
    while at < len(ordered):
        end = at
        while end < len(ordered) and ordered[end][0] == ordered[at][0]:
            end += 1
        rank_sum += (at + 1 + end) / 2 * sum(label for _, label in ordered[at:end])
        at = end
    return (rank_sum - right * (right + 1) / 2) / (right * wrong)


def interval(share: float, count: int) -> tuple[float, float]:
    return wilson_interval(round(share * count), count)


def _choose(said: Sequence[tuple[str | None, float]]) -> dict[str, str | None]:
    """What the server's methods would answer; of equal candidates the first."""
    answers = [(answer, score) for answer, score in said if answer is not None]
    if not answers:
        return dict.fromkeys(("majority_vote", "weighted_vote", "best_of"))
    votes: dict[str, float] = {}
    weights: dict[str, float] = {}
    for answer, score in answers:
        votes[answer] = votes.get(answer, 0) + 1
        weights[answer] = weights.get(answer, 0) + score
    return {
        "majority_vote": max(votes, key=lambda answer: votes[answer]),
        "weighted_vote": max(weights, key=lambda answer: weights[answer]),
        "best_of": max(answers, key=lambda pair: pair[1])[0],
    }
