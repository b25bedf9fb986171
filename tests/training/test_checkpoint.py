"""The committed demo checkpoint: what it is made of, and that budgets on it are exact."""

import asyncio
import json
import re
from pathlib import Path
from typing import Any

import pytest

from training.evaluate.demo_curve.results import Setting
from training.evaluate.suite import held_out_questions
from training.tiny.tokenizer import build_tokenizer
from training.tiny.words import HELD_OUT_WORDS

pytest.importorskip("torch")
pytest.importorskip("transformers")

CHECKPOINT = Path(__file__).parents[2] / "training" / "checkpoints" / "tiny-reasoner"
README_QUESTION = "How many r in raspberry?"
TEXTS = (
    "So 4.\nWait, check at a 4 +7 = 1 *3 = 3\n<|im_start|>answer\n3<|im_end|>",
    README_QUESTION,
    '{"answer": 3} Grüße',
)


@pytest.fixture(scope="module")
def local_model() -> Any:
    from training.evaluate.demo_curve.local import LocalModel

    return LocalModel(CHECKPOINT)


def transcript_of(model: Any, question: str, setting: Setting) -> str:
    """Everything that was generated, markers included."""
    sequence = model._open(question, setting)
    model._generate([sequence])
    return str(model.tokenizer.decode(sequence.output_ids, skip_special_tokens=False))


def test_committed_size() -> None:
    files = [path for path in CHECKPOINT.rglob("*") if path.is_file()]
    assert {"model.safetensors", "tokenizer.json", "chat_template.jinja", "README.md"} <= {
        p.name for p in files
    }
    assert sum(path.stat().st_size for path in files) < 3_000_000


def test_auto_tokenizer_gives_the_ids_of_the_tokenizer_file() -> None:
    from tokenizers import Tokenizer
    from transformers import AutoTokenizer

    auto = AutoTokenizer.from_pretrained(CHECKPOINT)
    raw = Tokenizer.from_file(str(CHECKPOINT / "tokenizer.json"))
    for text in TEXTS:
        assert auto.encode(text, add_special_tokens=False) == raw.encode(text).ids
        assert auto.encode(text) == build_tokenizer().encode(text).ids
        assert auto.decode(auto.encode(text), skip_special_tokens=False) == text


def test_config_can_be_served() -> None:
    config = json.loads((CHECKPOINT / "config.json").read_text())
    generation = json.loads((CHECKPOINT / "generation_config.json").read_text())
    tokenizer = build_tokenizer()
    assert config["model_type"] == "llama"
    assert config["dtype"] == "bfloat16"
    assert config["max_position_embeddings"] == 2048
    assert config["eos_token_id"] == tokenizer.token_to_id("<|im_end|>")
    assert set(generation["eos_token_id"]) == {
        tokenizer.token_to_id("<|im_end|>"),
        tokenizer.token_to_id("<|endoftext|>"),
    }


def test_card_and_manifest_agree_and_name_no_machine() -> None:
    manifest = json.loads((CHECKPOINT / "training_manifest.json").read_text())
    card = (CHECKPOINT / "README.md").read_text()
    assert f"--recipe {manifest['recipe']['name']} --seed {manifest['seed']}" in card
    assert "Not measured yet" not in card
    for path in CHECKPOINT.glob("*.[jm]*"):
        assert not re.search(r"/(home|root|tmp|work)/", path.read_text(errors="ignore")), path.name


@pytest.mark.parametrize("budget", [0, 1, 2, 5, 31])
def test_thinking_never_passes_its_maximum_and_an_answer_follows(local_model: Any, budget: int) -> None:
    questions = held_out_questions(6)
    outcomes = asyncio.run(local_model.answer_all(questions, Setting(4, budget), lambda: None))
    assert [outcome.thinking_tokens for outcome in outcomes] == [budget] * 6
    assert all(outcome.answer for outcome in outcomes)


def test_a_minimum_is_kept(local_model: Any) -> None:
    outcomes = asyncio.run(
        local_model.answer_all(held_out_questions(6), Setting(min_thinking_tokens=128), lambda: None)
    )
    assert all(128 <= outcome.thinking_tokens < 400 for outcome in outcomes)


def test_waits_are_appended_and_everything_is_counted(local_model: Any) -> None:
    transcript = transcript_of(local_model, README_QUESTION, Setting(num_waits=2))
    thinking, _, answer = transcript.partition("<|im_start|>answer")
    assert thinking.count("\nWait, ") >= 2
    assert answer == "\n3<|im_end|>"
    question = next(q for q in held_out_questions(3) if q.family == "letters")
    (outcome,) = asyncio.run(local_model.answer_all([question], Setting(num_waits=2), lambda: None))
    thinking, _, _ = transcript_of(local_model, question.text, Setting(num_waits=2)).partition(
        "<|im_start|>answer"
    )
    assert outcome.thinking_tokens == len(build_tokenizer().encode(thinking).ids)


def test_batched_and_single_answers_agree(local_model: Any) -> None:
    questions = held_out_questions(9)
    together = asyncio.run(local_model.answer_all(questions, Setting(num_waits=1), lambda: None))
    for question, outcome in zip(questions, together, strict=True):
        assert asyncio.run(local_model.answer_all([question], Setting(num_waits=1), lambda: None)) == [
            outcome
        ]


def test_long_thinking_stays_sane(local_model: Any) -> None:
    transcript = transcript_of(local_model, README_QUESTION, Setting(min_thinking_tokens=600))
    assert transcript.endswith("<|im_start|>answer\n3<|im_end|>")
    assert "raspberry" in HELD_OUT_WORDS
