"""Markers are checked on real tokenizers' ids."""

from __future__ import annotations

from dataclasses import replace

import pytest
from tokenizers import Tokenizer, models
from transformers import PreTrainedTokenizerFast

from server.budget.markers import FAMILIES, FamilyError, marker_ids
from tests.support.tokenizers import byte_tokenizer, plain, special


def test_s1_markers_on_ids() -> None:
    tokenizer = byte_tokenizer(special("<|im_start|>"), special("<|im_end|>"))
    ids = marker_ids(FAMILIES["s1"], tokenizer, vocab_size=300, eos_token_ids=[7])
    assert tokenizer.decode(list(ids.end)) == "<|im_start|>answer"
    assert tokenizer.decode(list(ids.answer_prompt)) == "\nFinal Answer:"
    assert ids.end_attempt == {ids.start[0], tokenizer.eos_token_id, 7}
    assert {tokenizer.eos_token_id, ids.newline, 299} <= ids.blank
    assert ids.newline in ids.line_end
    prompt = tokenizer.encode("<|im_start|>user\nhi<|im_end|>\n<|im_start|>think\n", add_special_tokens=False)
    assert ids.opened(prompt)
    closed = tokenizer.encode("<|im_start|>answer\n5", add_special_tokens=False)
    assert not ids.opened(prompt + closed)
    assert not ids.opened(tokenizer.encode("<|im_start|>user\nhi<|im_end|>\n<|im_start|>assistant\n"))
    assert not ids.opened([])


def test_think_tags_need_not_be_special() -> None:
    tokenizer = byte_tokenizer(
        special("<|im_end|>"), plain("<think>"), plain("</think>"), plain("<tool_call>")
    )
    ids = marker_ids(FAMILIES["qwen3"], tokenizer, vocab_size=len(tokenizer))
    assert len(ids.end) == 1
    tool_call = tokenizer.convert_tokens_to_ids("<tool_call>")
    assert tool_call not in ids.not_first_in_answer


def test_a_marker_of_ordinary_text_is_refused_and_rounds_are_named() -> None:
    tokenizer = byte_tokenizer(special("<|im_end|>"))
    with pytest.raises(FamilyError, match="'</think>' begins with the ordinary token '<'") as refused:
        marker_ids(FAMILIES["qwen3"], tokenizer, vocab_size=len(tokenizer))
    assert "s1 serve --engine-url URL --family qwen3" in str(refused.value)


def test_rounds_take_a_marker_of_ordinary_text_and_mask_no_letter_for_it() -> None:
    tokenizer = byte_tokenizer(special("<|im_end|>"))
    ids = marker_ids(FAMILIES["qwen3"], tokenizer, vocab_size=len(tokenizer), rounds=True)
    assert ids.end_is_text
    assert tokenizer.decode(list(ids.end)) == "</think>"
    assert ids.end_attempt == {tokenizer.eos_token_id}
    assert tokenizer.convert_tokens_to_ids("<") not in ids.not_first_in_answer


def test_a_marker_that_the_vocabulary_cannot_write_is_refused() -> None:
    words = Tokenizer(models.WordLevel({"[UNK]": 0, "Wait": 1, "\n": 2, "</s>": 3}, unk_token="[UNK]"))
    words.add_tokens([special("</s>")])
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=words, eos_token="</s>", unk_token="[UNK]")
    with pytest.raises(
        FamilyError, match=r"the start marker .* survive this tokenizer: '<think>' becomes '\[UNK"
    ):
        marker_ids(FAMILIES["qwen3"], tokenizer, vocab_size=4, rounds=True)


def test_an_empty_wait_is_refused() -> None:
    tokenizer = byte_tokenizer(special("<|im_start|>"), special("<|im_end|>"))
    with pytest.raises(FamilyError, match="the wait text of family s1 is empty"):
        marker_ids(replace(FAMILIES["s1"], wait_text=""), tokenizer, vocab_size=300)
