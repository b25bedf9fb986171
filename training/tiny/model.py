"""The demo model's architecture: a Llama small enough to train and serve on one CPU core."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

from training.tiny.tokenizer import (
    END_OF_TEXT,
    MAX_POSITIONS,
    MESSAGE_END,
    SPECIAL_TOKENS,
    save_tokenizer,
    token_id,
    vocabulary,
)

if TYPE_CHECKING:
    from training.tiny.recipe import ModelRecipe

_VOCABULARY_MULTIPLE = 64


def padded_vocabulary_size() -> int:
    used = len(vocabulary()) + len(SPECIAL_TOKENS)
    return -(-used // _VOCABULARY_MULTIPLE) * _VOCABULARY_MULTIPLE


def new_model(recipe: "ModelRecipe", seed: int) -> Any:
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(seed)
    return LlamaForCausalLM(
        LlamaConfig(
            vocab_size=padded_vocabulary_size(),
            hidden_size=recipe.hidden_size,
            intermediate_size=recipe.intermediate_size,
            num_hidden_layers=recipe.num_layers,
            num_attention_heads=recipe.num_heads,
            num_key_value_heads=recipe.num_heads,
            max_position_embeddings=MAX_POSITIONS,
            tie_word_embeddings=True,
            rope_parameters={"rope_type": "default", "rope_theta": recipe.rope_theta},
            initializer_range=recipe.initializer_range,
            bos_token_id=None,
            eos_token_id=token_id(MESSAGE_END),
            pad_token_id=token_id(END_OF_TEXT),
            use_cache=True,
            attn_implementation="eager",  # the fastest on CPU at this size
        )
    )


def save_checkpoint(model: Any, folder: Path, dtype: Any) -> None:
    """Weights as ``dtype`` of torch, configuration, generation defaults and tokenizer."""
    from transformers import GenerationConfig

    folder.mkdir(parents=True, exist_ok=True)
    model.generation_config = GenerationConfig(
        eos_token_id=[token_id(MESSAGE_END), token_id(END_OF_TEXT)], pad_token_id=token_id(END_OF_TEXT)
    )
    model.to(dtype).save_pretrained(folder)
    (folder / "model.safetensors").chmod(
        0o644
    )  # written for its owner only, but a server may be another user
    save_tokenizer(folder)
