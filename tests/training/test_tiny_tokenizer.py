"""The tokenizer by itself, its single tokens, and the chat template."""

import pytest
from jinja2.sandbox import ImmutableSandboxedEnvironment

from server.budget.markers import FAMILIES
from training.tiny.documents import question_prompt
from training.tiny.model import padded_vocabulary_size
from training.tiny.tokenizer import SPECIAL_TOKENS, build_tokenizer, encode, token_id, vocabulary

SINGLE = (
    *SPECIAL_TOKENS,
    *("Wait", "think", "answer", "assistant", "user", "system", "Final", " Answer", " check", "\n"),
    *(" 3", "3", " =", " +", " PQ", " P", " r"),
)


@pytest.mark.parametrize(
    "text",
    [
        "How many r in raspberry?",
        '{"answer": "3", "nested": [1, 2.5, null]}',
        "Grüße, 世界! \U0001f353\r\n\ttabs  and   spaces \n\n\n",
        "<|im_start|>assistant\n<|im_start|>think\na 0<|im_end|>",
        "",
    ],
)
def test_round_trip(text: str) -> None:
    assert build_tokenizer().decode(encode(text), skip_special_tokens=False) == text


@pytest.mark.parametrize("text", SINGLE)
def test_single_tokens(text: str) -> None:
    assert build_tokenizer().decode([token_id(text)], skip_special_tokens=False) == text


def test_markers_are_the_tokens_the_server_forces() -> None:
    family = FAMILIES["s1"]
    end = [token_id("<|im_start|>"), token_id("answer")]
    assert encode(family.think_end) == end
    assert encode(family.think_end + family.answer_prompt) == [*end, *encode("\nFinal Answer:")]
    assert encode(family.wait_text) == [token_id("Wait")]
    assert encode("So 3.\nWait, check at a")[4:6] == [token_id("Wait"), token_id(",")]


def test_a_word_that_is_not_an_entry_is_seen_letter_by_letter() -> None:
    assert [build_tokenizer().id_to_token(token) for token in encode(" berry")] == ["\u0120", *"berry"]


def test_every_byte_is_an_entry_and_entries_are_distinct() -> None:
    entries = vocabulary()
    assert len(set(entries)) == len(entries)
    assert sum(len(entry) == 1 for entry in entries) == 256
    assert len(entries) + len(SPECIAL_TOKENS) <= padded_vocabulary_size() == 448


def render(messages: list[dict[str, object]], *, add_generation_prompt: bool) -> str:
    from training.tiny.tokenizer import _CHAT_TEMPLATE

    template = ImmutableSandboxedEnvironment(trim_blocks=True, lstrip_blocks=True).from_string(
        _CHAT_TEMPLATE.read_text()
    )
    return template.render(messages=messages, add_generation_prompt=add_generation_prompt)


def test_chat_template_is_what_training_prompts_are() -> None:
    messages: list[dict[str, object]] = [
        {"role": "system", "content": "You are a helpful assistant."},
        {"role": "user", "content": "One?"},
        {"role": "assistant", "content": "3"},
        {"role": "user", "content": "Two?"},
    ]
    prompt = question_prompt("Two?", system="You are a helpful assistant.", earlier=("One?", "3"))
    assert render(messages, add_generation_prompt=True) == prompt
    assert prompt.endswith("<|im_start|>user\nTwo?<|im_end|>\n<|im_start|>assistant\n<|im_start|>think\n")


def test_chat_template_takes_text_parts_and_empty_content() -> None:
    parts = [{"type": "text", "text": "One "}, {"type": "text", "text": "two?"}]
    messages: list[dict[str, object]] = [
        {"role": "user", "content": parts},
        {"role": "assistant", "content": None},
    ]
    assert render(messages, add_generation_prompt=False) == (
        "<|im_start|>user\nOne two?<|im_end|>\n<|im_start|>assistant\n<|im_end|>\n"
    )
