"""What vLLM's V2 runner has no room for: its tables have a fixed size, and more ends the engine."""

from __future__ import annotations

from collections.abc import Sequence

import vllm.envs as envs
from vllm.exceptions import VLLMValidationError
from vllm.sampling_params import SamplingParams
from vllm.tokenizers import cached_get_tokenizer
from vllm.v1.worker.gpu.sample.logit_bias import (
    MAX_NUM_ALLOWED_TOKEN_IDS,
    MAX_NUM_LOGIT_BIAS_TOKENS,
    MAX_NUM_STOP_TOKEN_IDS,
)

from server.engine.config import run_dir
from server.engine.receipts import admission_info

_END_TOKENS = 8
"""Room for the model's own end tokens, which vLLM counts among a request's stops."""


def check_limits(params: SamplingParams) -> None:
    """Refuse what would end the engine.

    Raises:
        VLLMValidationError: naming field, limit and value.
    """
    _at_most(MAX_NUM_LOGIT_BIAS_TOKENS, "logit_bias", len(params.logit_bias or ()), "entries")
    allowed = len(params.allowed_token_ids or ())
    _at_most(MAX_NUM_ALLOWED_TOKEN_IDS, "allowed_token_ids", allowed, "entries")
    if params.min_tokens:
        stops = len(params.stop_token_ids or ())
        most = MAX_NUM_STOP_TOKEN_IDS - _END_TOKENS
        _at_most(most, "stop_token_ids", stops, "entries where `min_tokens` is given")
    if params.bad_words:
        tokens = _bad_word_tokens(params.bad_words)
        _at_most(envs.VLLM_MAX_BAD_WORDS_TOTAL_TOKENS, "bad_words", tokens, "tokens in all")


def _bad_word_tokens(words: Sequence[str]) -> int:
    """An upper bound: vLLM bans each word with a space before it and without. Bytes, without a tokenizer."""
    texts = [text for word in words for text in (word.lstrip(), f" {word.lstrip()}")]
    info = admission_info(run_dir())
    if info is None:
        return sum(len(text.encode()) for text in texts)
    tokenizer = cached_get_tokenizer(**info.tokenizer)
    return sum(len(tokenizer.encode(text, add_special_tokens=False)) for text in texts)


def _at_most(most: int, name: str, given: int, what: str) -> None:
    if given > most:
        message = f"`{name}` must have at most {most} {what}. Given: {given}"
        raise VLLMValidationError(message, parameter=name, value=given)
