"""What the parts know of the checkpoint: its tokenizer, and its markers as the engine sees them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from server.budget.markers import MarkerIds
from server.engine.config import engine_marker_ids


def load_tokenizer(directory: str) -> Any:
    from transformers import AutoTokenizer

    return AutoTokenizer.from_pretrained(directory)


def markers(directory: str, tokenizer: Any) -> MarkerIds:
    """The markers' ids, found as the plugin finds them."""
    vocab_size = json.loads((Path(directory) / "config.json").read_text())["vocab_size"]
    return engine_marker_ids(
        model=directory, tokenizer=tokenizer, vocab_size=vocab_size, eos=_end_tokens(Path(directory))
    )


def prompt_ids(tokenizer: Any, question: str) -> list[int]:
    """A chat with one question, up to where the model goes on."""
    messages = [{"role": "user", "content": question}]
    text = tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
    ids: list[int] = tokenizer.encode(text, add_special_tokens=False)
    return ids


def _end_tokens(directory: Path) -> list[int]:
    path = directory / "generation_config.json"
    eos = json.loads(path.read_text()).get("eos_token_id") if path.is_file() else None
    return [] if eos is None else [eos] if isinstance(eos, int) else list(eos)
