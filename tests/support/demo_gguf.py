"""The demo checkpoint as a GGUF file, for engines that load nothing else.

llama.cpp has no byte-level pre-tokenizer that both splits like GPT-2's and takes whole words before merges
(the demo's `ignore_merges`). `llama-bpe` takes whole words, but splits a blank off the number behind it. So
the numbers with a blank are written as user-defined tokens, which are found before anything is split. This is
exact for the demo's questions, whose numbers are all in its vocabulary; `tests/e2e` holds it to that.
"""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import gguf
import numpy as np
from safetensors import safe_open

_BLANK = "\u0120"
"""How byte-level vocabularies write a space."""
_BLANK_AND_NUMBER = re.compile(rf"{_BLANK}[0-9]+")
_PER_LAYER = {
    "input_layernorm": "attn_norm",
    "self_attn.q_proj": "attn_q",
    "self_attn.k_proj": "attn_k",
    "self_attn.v_proj": "attn_v",
    "self_attn.o_proj": "attn_output",
    "post_attention_layernorm": "ffn_norm",
    "mlp.gate_proj": "ffn_gate",
    "mlp.up_proj": "ffn_up",
    "mlp.down_proj": "ffn_down",
}


def write_gguf(checkpoint: Path, file: Path) -> None:
    """Write `checkpoint` (of the llama architecture) to `file`, in float32."""
    config = json.loads((checkpoint / "config.json").read_text())
    writer = gguf.GGUFWriter(file, "llama")
    _add_shape(writer, config)
    _add_tokenizer(writer, checkpoint, config)
    with safe_open(checkpoint / "model.safetensors", framework="pt") as weights:
        for name in weights.keys():  # noqa: SIM118 - not a dict
            values = weights.get_tensor(name).float().numpy()
            if name.endswith(("q_proj.weight", "k_proj.weight")):
                values = _interleaved(values, config["num_attention_heads"])
            writer.add_tensor(_gguf_name(name), np.ascontiguousarray(values))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def _add_shape(writer: gguf.GGUFWriter, config: dict[str, Any]) -> None:
    writer.add_name("tiny-reasoner")
    writer.add_context_length(config["max_position_embeddings"])
    writer.add_embedding_length(config["hidden_size"])
    writer.add_block_count(config["num_hidden_layers"])
    writer.add_feed_forward_length(config["intermediate_size"])
    writer.add_head_count(config["num_attention_heads"])
    writer.add_head_count_kv(config["num_key_value_heads"])
    writer.add_layer_norm_rms_eps(config["rms_norm_eps"])
    writer.add_rope_dimension_count(config["head_dim"])
    writer.add_rope_freq_base(config["rope_parameters"]["rope_theta"])
    writer.add_vocab_size(config["vocab_size"])
    writer.add_file_type(gguf.LlamaFileType.ALL_F32)


def _add_tokenizer(writer: gguf.GGUFWriter, checkpoint: Path, config: dict[str, Any]) -> None:
    tokenizer = json.loads((checkpoint / "tokenizer.json").read_text())
    texts = [f"[unused{i}]" for i in range(config["vocab_size"])]
    types = [gguf.TokenType.UNUSED] * len(texts)
    for text, token in tokenizer["model"]["vocab"].items():
        is_number = _BLANK_AND_NUMBER.fullmatch(text) is not None
        texts[token] = text.replace(_BLANK, " ") if is_number else text
        types[token] = gguf.TokenType.USER_DEFINED if is_number else gguf.TokenType.NORMAL
    for added in tokenizer["added_tokens"]:
        texts[added["id"]], types[added["id"]] = added["content"], gguf.TokenType.CONTROL
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("llama-bpe")
    writer.add_token_list(texts)
    writer.add_token_types(types)
    # The reader wants merges; none of the vocabulary's words needs one.
    writer.add_token_merges(["! !"])
    writer.add_eos_token_id(config["eos_token_id"])
    writer.add_pad_token_id(config["pad_token_id"])
    writer.add_add_bos_token(False)
    writer.add_chat_template((checkpoint / "chat_template.jinja").read_text())


def _gguf_name(name: str) -> str:
    if name == "model.embed_tokens.weight":
        return "token_embd.weight"
    if name == "model.norm.weight":
        return "output_norm.weight"
    layer, part = re.fullmatch(r"model\.layers\.(\d+)\.(.+)\.weight", name).groups()  # type: ignore[union-attr]
    return f"blk.{layer}.{_PER_LAYER[part]}.weight"


def _interleaved(weight: np.ndarray, heads: int) -> np.ndarray:
    """Rotary pairs side by side, as llama.cpp's llama wants them; Hugging Face keeps the halves apart."""
    rows, columns = weight.shape
    halves = weight.reshape(heads, 2, rows // heads // 2, columns)
    return halves.swapaxes(1, 2).reshape(rows, columns)
