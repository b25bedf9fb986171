"""Checkpoints without weights, for `--load-format dummy`: public shapes, with another model's tokenizer."""

from __future__ import annotations

import json
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

_TOKENIZER_FILES = (
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "vocab.json",
    "merges.txt",
    "chat_template.jinja",
    "generation_config.json",
)


@dataclass(frozen=True, slots=True)
class Shape:
    """A decoder's dimensions.

    Written down as a Llama: the same layers as Qwen2 but for the bias of its attention's projections. Beside
    a Qwen2 configuration, transformers rebuilds another model's tokenizer, and splits its words otherwise.
    """

    hidden_size: int
    intermediate_size: int
    layers: int
    heads: int
    kv_heads: int
    vocab_size: int
    head_size: int = 128
    bytes_per_number: int = 2

    @property
    def weights(self) -> int:
        """Parameters, embedding and output layer apart."""
        attention = self.hidden_size * self.head_size * (2 * self.heads + 2 * self.kv_heads)
        mlp = 3 * self.hidden_size * self.intermediate_size
        return self.layers * (attention + mlp) + 2 * self.vocab_size * self.hidden_size

    @property
    def weight_bytes(self) -> int:
        return self.weights * self.bytes_per_number

    @property
    def cache_bytes_per_token(self) -> int:
        return 2 * self.layers * self.kv_heads * self.head_size * self.bytes_per_number

    def config(self) -> dict[str, Any]:
        return {
            "architectures": ["LlamaForCausalLM"],
            "model_type": "llama",
            "hidden_size": self.hidden_size,
            "intermediate_size": self.intermediate_size,
            "num_hidden_layers": self.layers,
            "num_attention_heads": self.heads,
            "num_key_value_heads": self.kv_heads,
            "head_dim": self.head_size,
            "vocab_size": self.vocab_size,
            "max_position_embeddings": 32768,
            "rms_norm_eps": 1e-6,
            "rope_theta": 1000000.0,
            "hidden_act": "silu",
            "tie_word_embeddings": False,
            "torch_dtype": "bfloat16",
        }

    def write(self, directory: Path, tokenizer_from: Path) -> None:
        """Make `directory` a checkpoint without weights."""
        directory.mkdir(parents=True)
        (directory / "config.json").write_text(json.dumps(self.config(), indent=1))
        for name in _TOKENIZER_FILES:
            if (tokenizer_from / name).is_file():
                shutil.copy(tokenizer_from / name, directory / name)


SHAPES = {
    # huggingface.co/Qwen/Qwen2.5-1.5B-Instruct, -7B-Instruct and -32B-Instruct, config.json
    "qwen2.5-1.5b": Shape(1536, 8960, 28, 12, 2, 151936),
    "qwen2.5-7b": Shape(3584, 18944, 28, 28, 4, 152064),
    "qwen2.5-32b": Shape(5120, 27648, 64, 40, 8, 152064),
    "tiny": Shape(64, 128, 2, 2, 1, 512, head_size=32),
}
