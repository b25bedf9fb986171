"""The demo's reward model: its labels, its documents, its training, and the checkpoint that is committed."""

from __future__ import annotations

import random
from pathlib import Path

import pytest

from training.prm.documents import STEP_TAG, make_documents, rated_document, rating_tokenizer, step_tag_id
from training.prm.model import fit_reward_model, new_reward_model, rate, save_reward_model
from training.prm.quality import auc, read_sample
from training.prm.recipe import parse_prm_recipe
from training.prm.run import policy_folder
from training.prm.steps import labelled_steps, states_after
from training.recipe import TRAIN_KINDS, read_recipe_file
from training.tiny.tasks import FAMILIES, Question, Step, chain_question, is_held_out, make_question
from training.tiny.traces import write_trace
from training.train import TrainError

CHECKPOINT = Path(__file__).parents[2] / "training" / "checkpoints" / "tiny-prm"
RECIPE = parse_prm_recipe(read_recipe_file("tiny-prm", kinds=TRAIN_KINDS))
CHAIN = chain_question("4", [(Step("+", "7"), Step("*", "3")), (Step("-", "2"), Step("+", "9"))])


def rights(question: Question, thinking: str, answer: str | None = None) -> list[bool]:
    return [step.right for step in labelled_steps(question, thinking, answer)]


def test_a_step_is_right_if_the_true_state_is_reached() -> None:
    assert states_after(CHAIN) == {"a": "3", "b": "0"}
    assert rights(CHAIN, "a 4 +7 *3 = 3\nb 3 -2 +9 = 0\nSo 0.\n", "0") == [True] * 4
    assert rights(CHAIN, "a 4 +7 *3 = 3\nb 3 -2 +9 = 1\nSo 1.\n", "1") == [True, False, False, False]


def test_after_a_mistake_all_is_wrong_until_a_check_repairs_it() -> None:
    thinking = (
        "a 4 +7 *3 = 5\nb 5 -2 +9 = 2\nSo 2.\n"
        "Wait, check at a 4 +7 = 1 *3 = 3\nb 3 -2 +9 = 0\nSo 0.\n"
        "Wait, check at b 3 -2 = 1 +9 = 0\nSo 0.\nWait, all checked.\nSo 0.\n"
    )
    assert rights(CHAIN, thinking) == [False] * 3 + [True] * 7


def test_what_no_trace_has_is_wrong() -> None:
    assert rights(CHAIN, "a 4 +7 *3 = 3\nnonsense\nc 3 = 3\na 4 +7 *3\n", "") == [
        True,
        False,
        False,
        False,
        False,
    ]
    assert labelled_steps(CHAIN, "\n\n") == []


@pytest.mark.parametrize("family", FAMILIES)
def test_faultless_traces_of_every_kind_are_right_throughout(family: str) -> None:
    rng = random.Random(5)
    for _ in range(20):
        question = make_question(rng, family)  # type: ignore[arg-type]
        trace = write_trace(question, rng, 0.0, rng.randint(0, 6))
        assert all(rights(question, trace.thinking, trace.answer))
        slipped = write_trace(question, rng, 1.0, 0)
        assert rights(question, slipped.thinking)[0] is False


def test_documents_have_a_label_at_every_tag() -> None:
    rng = random.Random(0)
    documents = make_documents(rng, 200, RECIPE.data)
    assert rating_tokenizer().decode([step_tag_id()], skip_special_tokens=False) == STEP_TAG
    for document in documents:
        assert [document.ids[at] for at in document.tag_positions] == [step_tag_id()] * len(document.labels)
        assert document.ids.count(step_tag_id()) == len(document.labels)
    share = sum(map(sum, (d.labels for d in documents))) / sum(len(d.labels) for d in documents)
    assert 0.5 < share < 0.9
    again = make_documents(random.Random(0), 200, RECIPE.data)
    assert again == documents


def test_the_served_template_makes_what_training_saw() -> None:
    from transformers import AutoTokenizer

    steps = labelled_steps(CHAIN, "a 4 +7 *3 = 3\nSo 3.\n", "3")
    tagged = "".join(f"{step.text}{STEP_TAG}" for step in steps)
    messages = [{"role": "user", "content": CHAIN.text}, {"role": "assistant", "content": tagged}]
    tokenizer = AutoTokenizer.from_pretrained(CHECKPOINT)
    text = tokenizer.apply_chat_template(messages, tokenize=False)
    assert tokenizer.encode(text, add_special_tokens=False) == rated_document(CHAIN.text, steps).ids


def test_a_sample_is_cut_where_its_answer_begins() -> None:
    sample = read_sample(CHAIN, "a 4 +7 *3 = 3\nSo 3.\n<|im_start|>answer\n3<|im_end|>")
    assert sample.answer == "3" and [step.text for step in sample.steps] == ["a 4 +7 *3 = 3", "So 3.", "3"]
    unfinished = read_sample(CHAIN, "a 4 +7 *3 = 3\nb 3")
    assert unfinished.answer is None and len(unfinished.steps) == 2


def test_auc_against_pairs_counted_by_hand() -> None:
    # Pairs of right and wrong: 0.9>0.8, 0.9>0.1, 0.4<0.8, 0.4>0.1: 3 of 4; a tie counts half.
    assert auc([0.9, 0.8, 0.4, 0.1], [True, False, True, False]) == 0.75
    assert auc([0.5, 0.5], [True, False]) == 0.5
    assert auc([0.5], [True]) == 0.5


def test_a_policy_that_is_not_there_is_named() -> None:
    with pytest.raises(TrainError, match="nobody"):
        policy_folder("nobody")


def test_training_moves_the_scores_and_survives_its_files(tmp_path: Path) -> None:
    from transformers import LlamaForSequenceClassification

    model = new_reward_model(policy_folder(RECIPE.policy), 0)
    quick = RECIPE.fit.model_copy(
        update={"steps": 6, "tokens_per_step": 512, "documents_per_epoch": 60, "warmup_steps": 1}
    )
    losses = fit_reward_model(model, RECIPE.data, quick, random.Random(1), lambda *_: None)
    assert len(losses) == 6 and all(loss > 0 for loss in losses)
    save_reward_model(model, tmp_path / "prm")
    loaded = LlamaForSequenceClassification.from_pretrained(tmp_path / "prm")
    assert loaded.config.id2label == {0: "wrong", 1: "right"}
    documents = make_documents(random.Random(2), 4, RECIPE.data)
    scores = rate(loaded.float().eval(), documents)
    assert [len(of_one) for of_one in scores] == [len(document.labels) for document in documents]


def test_the_committed_checkpoint_tells_right_from_wrong() -> None:
    import torch
    from transformers import LlamaForSequenceClassification

    model = LlamaForSequenceClassification.from_pretrained(CHECKPOINT, dtype=torch.float32).eval()
    rng, scores, labels = random.Random(11), [], []
    while len(scores) < 60:
        question = make_question(rng, rng.choice(FAMILIES))
        if not is_held_out(question):
            continue
        trace = write_trace(question, rng, 0.3, rng.randint(0, 3))
        document = rated_document(question.text, labelled_steps(question, trace.thinking, trace.answer))
        scores.append(rate(model, [document])[0])
        labels.append(document.labels)
    flat = auc([s for one in scores for s in one], [label for one in labels for label in one])
    assert flat >= 0.7
