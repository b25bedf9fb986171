"""Small tokenizers and models of the families that are fine-tuned, and samples for them."""

from __future__ import annotations

import json
import random
from importlib import resources
from pathlib import Path
from typing import Any

from tests.support.engines import DEMO

# The special tokens of the real tokenizers, and their chat templates as trl ships them.
SPECIALS = {
    "qwen2_5": ["<|endoftext|>", "<|im_start|>", "<|im_end|>", "<|fim_pad|>"],
    "qwen3": ["<|endoftext|>", "<|im_start|>", "<|im_end|>", "<|fim_pad|>"],
    "deepseek_r1_distill": [
        "<｜begin▁of▁sentence｜>",
        "<｜end▁of▁sentence｜>",
        "<｜User｜>",
        "<｜Assistant｜>",
        "<|fim_pad|>",
    ],
}
# Added but not special, as in those tokenizers: decoding shows them.
ADDED = {"qwen2_5": [], "qwen3": ["<think>", "</think>"], "deepseek_r1_distill": ["<think>", "</think>"]}
END = {"qwen2_5": "<|im_end|>", "qwen3": "<|im_end|>", "deepseek_r1_distill": "<｜end▁of▁sentence｜>"}
PAD = {"qwen2_5": "<|endoftext|>", "qwen3": "<|endoftext|>", "deepseek_r1_distill": "<｜end▁of▁sentence｜>"}
_CORPUS = "What is two plus three? Two and three make five. Wait, I check: five. The answer is 5."


def save_tokenizer(family: str, folder: Path) -> Path:
    """A byte-level BPE with the family's special tokens, as files that AutoTokenizer reads.

    Text is split as Qwen's tokenizers split it: beside a Qwen2 configuration transformers builds that in,
    whatever tokenizer.json says.
    """
    from tokenizers import (
        AddedToken,
        Regex,
        Tokenizer,
        decoders,
        models,
        normalizers,
        pre_tokenizers,
        trainers,
    )
    from transformers.models.qwen2.tokenization_qwen2 import PRETOKENIZE_REGEX

    tokenizer = Tokenizer(models.BPE())
    tokenizer.normalizer = normalizers.NFC()
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(PRETOKENIZE_REGEX), behavior="isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(vocab_size=320, initial_alphabet=alphabet, show_progress=False)
    tokenizer.train_from_iterator([_CORPUS] * 4, trainer)
    tokenizer.add_special_tokens([AddedToken(t, special=True, normalized=False) for t in SPECIALS[family]])
    tokenizer.add_tokens([AddedToken(t, special=False, normalized=False) for t in ADDED[family]])
    folder.mkdir(parents=True, exist_ok=True)
    tokenizer.save(str(folder / "tokenizer.json"))
    config = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "eos_token": END[family],
        "pad_token": PAD[family],
        "clean_up_tokenization_spaces": False,
    }
    if family == "deepseek_r1_distill":
        config["bos_token"] = "<｜begin▁of▁sentence｜>"
    (folder / "tokenizer_config.json").write_text(json.dumps(config))
    (folder / "chat_template.jinja").write_text(chat_template(family))
    return folder


def chat_template(family: str) -> str:
    return resources.files("trl").joinpath(f"chat_templates/{family}.jinja").read_text(encoding="utf-8")


def tokenizer_of(family: str, folder: Path) -> Any:
    from transformers import AutoTokenizer

    return AutoTokenizer.from_pretrained(DEMO if family == "demo" else save_tokenizer(family, folder))


def save_tiny_model(folder: Path, *, layers: int = 2) -> Path:
    """The demo checkpoint's tokenizer with a smaller Llama of random weights."""
    import shutil

    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    folder.mkdir(parents=True, exist_ok=True)
    fields = json.loads((DEMO / "config.json").read_text())
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=fields["vocab_size"],
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=layers,
        num_attention_heads=2,
        num_key_value_heads=2,
        max_position_embeddings=512,
        tie_word_embeddings=True,
        initializer_range=0.1,
        bos_token_id=None,
        eos_token_id=fields["eos_token_id"],
        pad_token_id=fields["pad_token_id"],
    )
    LlamaForCausalLM(config).save_pretrained(folder)
    for name in ("tokenizer.json", "tokenizer_config.json", "chat_template.jinja", "generation_config.json"):
        shutil.copyfile(DEMO / name, folder / name)
    return folder


def sample_rows(count: int, seed: int = 0) -> list[dict[str, str]]:
    """Little sums; the longest has about three times the tokens of the shortest."""
    rng = random.Random(seed)
    rows = []
    for _ in range(count):
        numbers = [rng.randint(0, 9) for _ in range(rng.randint(2, 9))]
        lines = [f"{a} + {b} = {a + b}" for a, b in zip(numbers, numbers[1:], strict=False)]
        rows.append(
            {
                "question": "Add " + " ".join(map(str, numbers)) + ".",
                "thinking": "\n".join(lines),
                "answer": str(sum(numbers)),
            }
        )
    return rows


def write_jsonl(path: Path, rows: list[dict[str, Any]]) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


def write_recipe(path: Path, base: Path, file: Path, **sections: Any) -> Path:
    """A recipe with one thread and small numbers; ``sections`` are merged into it."""
    import yaml

    fields: dict[str, Any] = {
        "kind": "sft",
        "name": path.stem,
        "seed": 7,
        "threads": 1,
        "model": {"path": str(base), "attention": "eager"},
        "data": {"files": [str(file)], "format": "s1", "max_length": 256},
        "optimization": {"epochs": 2, "effective_batch_size": 4, "learning_rate": 0.003},
    }
    for name, change in sections.items():
        fields[name] = {**fields.get(name, {}), **change} if isinstance(change, dict) else change
    path.write_text(yaml.safe_dump(fields))
    return path
