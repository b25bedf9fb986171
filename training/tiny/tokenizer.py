"""The demo model's tokenizer: all bytes, plus whole words; nothing learned, so nothing to reproduce.

A word either is an entry of the vocabulary or falls apart into its bytes: the letters of a word that is
to be counted are therefore visible to the model, one token each.
"""

import json
import string
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

from training.tiny.tasks import CUPS, SWAPS

if TYPE_CHECKING:
    from tokenizers import Tokenizer

END_OF_TEXT = "<|endoftext|>"
MESSAGE_START = "<|im_start|>"
MESSAGE_END = "<|im_end|>"
SPECIAL_TOKENS = (END_OF_TEXT, MESSAGE_START, MESSAGE_END)
MAX_POSITIONS = 2048

_SPACE = "\u0120"  # how byte-level vocabularies write a leading space
# fmt: off
_WORDS = (
    "Wait", "Final", "Answer", "answer", "think", "assistant", "user", "system", "Question", "Review",
    "Start", "at", "Last", "digit", "The", "ball", "is", "under", "Swap", "Which", "cup", "How", "many",
    "in", "are", "So", "check", "all", "checked", "the", "of", "and", "to", "a", "you", "You",
    "helpful", "I", "what", "What", "Hello", "Hi",
)
# fmt: on
_SYMBOLS_AFTER_SPACE = "=+-*"
_CHAT_TEMPLATE = Path(__file__).with_name("chat_template.jinja")


def vocabulary() -> list[str]:
    """All 256 byte symbols first, then whole words with and without a leading space."""
    from tokenizers.pre_tokenizers import ByteLevel

    numbers = [str(number) for number in range(21)]
    words = [*_WORDS, *numbers, *string.ascii_lowercase, *SWAPS, *CUPS]
    entries = [*sorted(ByteLevel.alphabet()), *words, *(_SPACE + word for word in words)]
    entries += [_SPACE + symbol for symbol in _SYMBOLS_AFTER_SPACE]
    return list(dict.fromkeys(entries))


@cache
def build_tokenizer() -> "Tokenizer":
    from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers

    ids = {entry: index for index, entry in enumerate(vocabulary())}
    tokenizer = Tokenizer(models.BPE(vocab=ids, merges=[], ignore_merges=True))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=True)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens(
        [AddedToken(token, special=True, normalized=False) for token in SPECIAL_TOKENS]
    )
    return tokenizer


def token_id(text: str) -> int:
    """The id of ``text``, which must be one token."""
    (only_id,) = encode(text)
    return only_id


def encode(text: str) -> list[int]:
    ids: list[int] = build_tokenizer().encode(text, add_special_tokens=False).ids
    return ids


def decode(ids: list[int]) -> str:
    text: str = build_tokenizer().decode(ids, skip_special_tokens=False)
    return text


def save_tokenizer(folder: Path) -> None:
    """Writes ``tokenizer.json``, ``tokenizer_config.json`` and ``chat_template.jinja``.

    ``PreTrainedTokenizerFast`` is named as the class because that one takes ``tokenizer.json`` as it is;
    the Qwen2 tokenizer class would rebuild it without ``ignore_merges`` and split every word into bytes.
    """
    build_tokenizer().save(str(folder / "tokenizer.json"))
    config = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "eos_token": MESSAGE_END,
        "pad_token": END_OF_TEXT,
        "model_max_length": MAX_POSITIONS,
        "clean_up_tokenization_spaces": False,
    }
    (folder / "tokenizer_config.json").write_text(json.dumps(config, indent=2) + "\n")
    (folder / "chat_template.jinja").write_text(_CHAT_TEMPLATE.read_text())
