"""The base model's tokenizer, checked: it must read text as the server will, and keep padding apart."""

from collections.abc import Iterable
from pathlib import Path
from typing import Any

from training.sft.rendering import TraceFormat

_NEVER_USED = (
    "<|fim_pad|>",  # Qwen2.5 and later: what s1 pads with
    "<|finetune_right_pad_id|>",  # Llama 3.1 and later
    "<|reserved_special_token_5|>",  # Llama 3: what s1's code pads with there
    "<|vision_pad|>",
    "<｜▁pad▁｜>",
    "<pad>",
)


class TokenizerError(ValueError):
    """The tokenizer can't be used for this training; the message says why."""


def load_tokenizer(folder: Path, trace_format: TraceFormat, pad_token: str | None) -> Any:
    """The tokenizer of ``folder`` with a pad token that is no end token.

    Raises:
        TokenizerError: see :func:`check_markers`, :func:`choose_pad_token`, :func:`check_same_as_file`.
    """
    from transformers import AutoTokenizer

    try:
        tokenizer = AutoTokenizer.from_pretrained(folder)
    except (OSError, ValueError) as error:
        raise TokenizerError(
            f"no tokenizer can be read from {folder}: {str(error).splitlines()[0]}"
        ) from error
    if not tokenizer.is_fast:
        raise TokenizerError(f"{folder.name} has no fast tokenizer (tokenizer.json): masks need offsets")
    if not tokenizer.chat_template:
        raise TokenizerError(f"{folder.name} has no chat template")
    check_markers(tokenizer, trace_format, folder.name)
    tokenizer.pad_token = choose_pad_token(tokenizer, trace_format, pad_token)
    return tokenizer


def check_markers(tokenizer: Any, trace_format: TraceFormat, model: str) -> None:
    """Each marker must begin with a token of its own: else the server could not tell it from text."""
    begins = {
        "<|im_start|>" if marker.startswith("<|im_start|>") else marker
        for marker in (trace_format.think_start, trace_format.think_end, trace_format.turn_end)
    }
    for marker in sorted(begins):
        if len(tokenizer.encode(marker, add_special_tokens=False)) != 1:
            raise TokenizerError(
                f"data.format: {trace_format.name} needs {marker!r} as one token; {model} has no such token"
            )


def choose_pad_token(tokenizer: Any, trace_format: TraceFormat, wanted: str | None) -> str:
    """``wanted``, or the tokenizer's own, or one that its authors reserved; never an end token."""
    ends = {tokenizer.eos_token, trace_format.turn_end}
    vocabulary = tokenizer.get_vocab()
    if wanted is not None:
        if wanted not in vocabulary:
            raise TokenizerError(f"data.pad_token {wanted!r} is not a token of this model")
        if wanted in ends:
            raise TokenizerError(f"data.pad_token must not be an end token. Given: {wanted!r}")
        return wanted
    for candidate in (tokenizer.pad_token, *_NEVER_USED):
        if candidate in vocabulary and candidate not in ends:
            return str(candidate)
    raise TokenizerError("the tokenizer pads with its end token and has no reserved one: give data.pad_token")


def check_pad_unused(tokenizer: Any, samples: Iterable[Iterable[int]]) -> None:
    for sample in samples:
        if tokenizer.pad_token_id in sample:
            raise TokenizerError(
                f"the pad token {tokenizer.pad_token!r} occurs in the data: give another as data.pad_token"
            )


def check_same_as_file(tokenizer: Any, folder: Path, texts: Iterable[str]) -> None:
    """``AutoTokenizer`` must agree with ``tokenizer.json``.

    It does not always: by the configuration's model type transformers may rebuild a tokenizer in a way that
    drops options such as ``ignore_merges``, and a model trained on one reading is served with the other.
    """
    from tokenizers import Tokenizer

    path = folder / "tokenizer.json"
    if not path.is_file():
        return
    from_file = Tokenizer.from_file(str(path))
    for text in texts:
        ids = tokenizer(text, add_special_tokens=False)["input_ids"]
        if ids != from_file.encode(text, add_special_tokens=False).ids:
            raise TokenizerError(
                f"{folder.name}: transformers rebuilds this tokenizer by the model type in config.json, and "
                "then reads text differently from its tokenizer.json, in the server too. Use the one that "
                "belongs to this model type, or a model type whose tokenizer is read as it is (llama, qwen3)"
            )
