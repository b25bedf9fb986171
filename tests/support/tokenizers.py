"""Tokenizers of model families, rebuilt: real bytes or a real vocabulary, with the families' added tokens."""

from __future__ import annotations

import json
from importlib.resources import files
from pathlib import Path
from typing import Any

from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast


def byte_tokenizer(*added: AddedToken, eos: str = "<|im_end|>") -> PreTrainedTokenizerFast:
    """Bytes as tokens, so that only added tokens are whole words."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    tokenizer = Tokenizer(models.BPE(vocab={c: i for i, c in enumerate(alphabet)}, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_tokens(list(added))
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token=eos)


def special(text: str) -> AddedToken:
    return AddedToken(text, special=True, normalized=False)


def plain(text: str) -> AddedToken:
    return AddedToken(text, special=False, normalized=False)


def mistral_tokenizer(directory: Path) -> Any:
    """vLLM's wrapper of Mistral's own tokenizer: a published vocabulary, the special tokens of v13."""
    from mistral_common.tokens.tokenizers.tekken import Tekkenizer
    from vllm.tokenizers.mistral import MistralTokenizer

    tekken = json.loads((files("mistral_common") / "data" / "tekken_240911.json").read_text())
    tekken["config"]["version"] = "v13"
    tekken.pop("image", None)
    tokens = [dict(token) for token in Tekkenizer.DEPRECATED_SPECIAL_TOKENS]
    names = ["[ARGS]", "[CALL_ID]", "[THINK]", "[/THINK]"]
    tokens += [
        {"rank": len(tokens) + i, "token_str": name, "is_control": True} for i, name in enumerate(names)
    ]
    tekken["special_tokens"] = tokens
    (directory / "tekken.json").write_text(json.dumps(tekken))
    return MistralTokenizer.from_pretrained(str(directory))
