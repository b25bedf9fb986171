"""The mistral family on Mistral's own tokenizer, as vLLM wraps it: it takes `[THINK]` in a text for text."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from server.budget.markers import FAMILIES, marker_ids
from server.engine import config
from server.engine.launch import EngineOptions, engine_environment
from tests.support.tokenizers import mistral_tokenizer


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory: pytest.TempPathFactory) -> Any:
    return mistral_tokenizer(tmp_path_factory.mktemp("tekken"))


def test_markers_are_its_control_tokens(tokenizer: Any) -> None:
    ids = marker_ids(FAMILIES["mistral"], tokenizer, vocab_size=tokenizer.vocab_size)
    assert len(tokenizer.encode("[THINK]", add_special_tokens=False)) > 1
    for marker, text in ((ids.start, "[THINK]"), (ids.end, "[/THINK]")):
        assert marker == (tokenizer.get_vocab()[text],)
    assert ids.end_attempt == {*ids.end, tokenizer.eos_token_id}
    assert not ids.end_is_text
    prompt = [
        *tokenizer.encode("[INST]hi[/INST]"),
        *ids.start,
        *tokenizer.encode("so", add_special_tokens=False),
    ]
    assert ids.opened(prompt)
    assert not ids.opened([*prompt, *ids.end])


@pytest.fixture
def launched(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It has no chat template, and doesn't know the model's name: the launcher does."""
    options = EngineOptions(model="mistralai/Magistral-Small-2509")
    variables = engine_environment(options, run_dir=tmp_path, base={})
    monkeypatch.setenv(config.FAMILY_VARIABLE, variables[config.FAMILY_VARIABLE])


@pytest.mark.usefixtures("launched")
def test_thinking_is_split_off_what_it_generates(tokenizer: Any) -> None:
    from server.engine.reasoning_parser import ThinkingParser

    parser = ThinkingParser(tokenizer)
    vocabulary = tokenizer.get_vocab()
    thought, answer = (tokenizer.encode(text, add_special_tokens=False) for text in ("2+2 is 4.", "4"))
    output = [vocabulary["[THINK]"], *thought, vocabulary["[/THINK]"], *answer]
    # As vLLM's detokenizer does, with the special tokens that our parser asks to keep.
    text = tokenizer.convert_tokens_to_string(tokenizer.convert_ids_to_tokens(output))
    assert parser.extract_reasoning(text, None) == ("2+2 is 4.", "4")
    assert parser.count_reasoning_tokens(output) == len(thought)
    assert parser.is_reasoning_end(output)
    assert not parser.is_reasoning_end(output[:-2])


@pytest.mark.usefixtures("launched")
def test_markers_of_the_system_prompt_do_not_end_this_turns_thinking(tokenizer: Any) -> None:
    from server.engine.reasoning_parser import ThinkingParser

    parser = ThinkingParser(tokenizer)
    vocabulary = tokenizer.get_vocab()
    system = [vocabulary[mark] for mark in ("[SYSTEM_PROMPT]", "[THINK]", "[/THINK]", "[/SYSTEM_PROMPT]")]
    prompt = [1, *system, *(vocabulary[mark] for mark in ("[INST]", "[/INST]"))]
    assert not parser.is_reasoning_end(prompt)
    thinking = [*prompt, vocabulary["[THINK]"], 5000]
    assert not parser.is_reasoning_end(thinking)
    answering = [*thinking, vocabulary["[/THINK]"], 6000]
    assert parser.is_reasoning_end(answering)
    assert parser.is_reasoning_end([*answering, vocabulary["[TOOL_CALLS]"]])
    assert parser.is_reasoning_end([*answering, tokenizer.eos_token_id])
    assert not parser.is_reasoning_end([*answering, tokenizer.eos_token_id, vocabulary["[INST]"]])
