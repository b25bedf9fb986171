"""What fits on given GPUs: weights, KV cache, and how many thinking requests at once. Pure arithmetic.

vLLM reserves `gpu_memory_utilization` of each GPU, loads its share of the weights, and gives what is left,
less the working memory that it measures at its start, to the KV cache. Here the weights are counted exactly;
the working memory (activations, CUDA graphs, communicators) is an assumption, `working_gib`, until an
engine's log tells.

Only what this arithmetic covers is answered: decoders with full attention, grouped or not. Latent attention,
sliding windows and state-space layers store something else, and are refused.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

GIB = 1024**3

GPU_GIB = {
    "l4": 22,
    "l40s": 44,
    "a100-40": 39,
    "a100-80": 79,
    "h100": 79,
    "h200": 139,
    "b200": 178,
}
"""What CUDA reports as a device's memory, in GiB, rounded down: a GB of the data sheet is not a GiB."""

_DTYPE_BYTES = {"float32": 4, "bfloat16": 2, "float16": 2, "fp8": 1}
_CONVENTIONAL = frozenset({"llama", "qwen2", "qwen3", "mistral"})
"""Model types whose weights `_count_parameters` counts. Those of others come from the checkpoint's files."""

_QWEN2 = {"model_type": "qwen2", "dtype": "bfloat16", "max_position_embeddings": 32768}
KNOWN: Mapping[str, Mapping[str, Any]] = {
    "s1.1-1.5b": _QWEN2 | {
        "hidden_size": 1536, "intermediate_size": 8960, "num_hidden_layers": 28, "num_attention_heads": 12,
        "num_key_value_heads": 2, "vocab_size": 151936, "tie_word_embeddings": True,
    },
    "s1.1-7b": _QWEN2 | {
        "hidden_size": 3584, "intermediate_size": 18944, "num_hidden_layers": 28, "num_attention_heads": 28,
        "num_key_value_heads": 4, "vocab_size": 152064, "tie_word_embeddings": False,
    },
    "s1.1-14b": _QWEN2 | {
        "hidden_size": 5120, "intermediate_size": 13824, "num_hidden_layers": 48, "num_attention_heads": 40,
        "num_key_value_heads": 8, "vocab_size": 152064, "tie_word_embeddings": False,
    },
    "s1.1-32b": _QWEN2 | {
        "hidden_size": 5120, "intermediate_size": 27648, "num_hidden_layers": 64, "num_attention_heads": 40,
        "num_key_value_heads": 8, "vocab_size": 152064, "tie_word_embeddings": False,
    },
}  # fmt: skip
"""The dimensions of s1.1's checkpoints, which are Qwen2.5's: nothing has to be fetched for them."""


class SizingError(ValueError):
    """The question can't be answered by this arithmetic; the message names field, limit and value."""


@dataclass(frozen=True, slots=True)
class ModelShape:
    name: str
    layers: int
    attention_heads: int
    kv_heads: int
    head_dim: int
    hidden_size: int
    vocab_size: int
    max_model_len: int
    tied: bool
    weight_bytes: int
    dtype_bytes: int

    @classmethod
    def known(cls, name: str) -> Self:
        """
        Raises:
            SizingError: the name is not in `KNOWN`.
        """
        short = name.rsplit("/", 1)[-1].lower()
        if short not in KNOWN:
            raise SizingError(
                f"MODEL must be one of {', '.join(KNOWN)}, or the directory of a checkpoint. Given: {name}"
            )
        return cls.from_config(short, KNOWN[short])

    @classmethod
    def from_directory(cls, directory: Path) -> Self:
        """From a checkpoint's config.json and the sizes of its safetensors files, if they are there.

        Raises:
            SizingError: there is no config.json, or it describes what this arithmetic doesn't cover.
        """
        path = directory / "config.json"
        try:
            config = json.loads(path.read_text())
        except (FileNotFoundError, json.JSONDecodeError) as error:
            raise SizingError(f"MODEL: {path} can't be read as JSON. Given: {directory}") from error
        stored = sum(_tensor_bytes(file) for file in sorted(directory.glob("*.safetensors")))
        return cls.from_config(directory.resolve().name, config, weight_bytes=stored or None)

    @classmethod
    def from_config(cls, name: str, config: Mapping[str, Any], *, weight_bytes: int | None = None) -> Self:
        """
        Args:
            config: a `config.json` of transformers.
            weight_bytes: counted from the dimensions if None.

        Raises:
            SizingError
        """
        _refuse_other_attention(config)
        try:
            heads = int(config["num_attention_heads"])
            shape = {
                "layers": int(config["num_hidden_layers"]),
                "attention_heads": heads,
                "kv_heads": int(config.get("num_key_value_heads") or heads),
                "head_dim": int(config.get("head_dim") or config["hidden_size"] // heads),
                "hidden_size": int(config["hidden_size"]),
                "vocab_size": int(config["vocab_size"]),
                "max_model_len": int(config["max_position_embeddings"]),
            }
        except KeyError as error:
            raise SizingError(f"the model's config.json has no {error.args[0]}") from None
        dtype = str(config.get("dtype") or config.get("torch_dtype") or "bfloat16")
        if dtype not in _DTYPE_BYTES:
            raise SizingError(f"dtype must be one of {', '.join(_DTYPE_BYTES)}. Given: {dtype}")
        dtype_bytes = _DTYPE_BYTES[dtype]
        if weight_bytes is None:
            weight_bytes = _count_parameters(config) * dtype_bytes
        tied = bool(config.get("tie_word_embeddings", False))
        return cls(name=name, tied=tied, weight_bytes=weight_bytes, dtype_bytes=dtype_bytes, **shape)

    @property
    def embedding_bytes(self) -> int:
        """Of one of the two embedding matrices."""
        return self.vocab_size * self.hidden_size * self.dtype_bytes


@dataclass(frozen=True, slots=True)
class Layout:
    """How one replica is cut, and how many replicas there are."""

    tensor: int
    pipeline: int = 1
    data: int = 1

    @classmethod
    def over(cls, gpus: int, *, tensor: int | None, pipeline: int) -> Self:
        """All GPUs used: by default one replica whose layers are cut over them; what remains are replicas.

        Raises:
            SizingError: the GPUs can't be shared out evenly.
        """
        tensor = tensor if tensor is not None else max(1, gpus // pipeline)
        if gpus % (tensor * pipeline):
            raise SizingError(
                f"--gpus must be a multiple of tensor x pipeline = {tensor} x {pipeline}. Given: {gpus}"
            )
        return cls(tensor, pipeline, gpus // (tensor * pipeline))


@dataclass(frozen=True, slots=True)
class Sizing:
    """One replica's memory on its fullest GPU, and the KV cache of all replicas together."""

    model: ModelShape
    layout: Layout
    weight_bytes_per_gpu: int
    kv_bytes_per_gpu: int
    kv_bytes_per_token: int
    """On one GPU of the fullest stage."""
    kv_cache_tokens: int
    """Of one replica."""

    def concurrent(self, *, tokens: int) -> int:
        """How many requests of `tokens` (prompt, thinking and answer) all replicas hold at once."""
        return self.layout.data * (self.kv_cache_tokens // tokens)


def size_on_gpus(
    model: ModelShape,
    layout: Layout,
    *,
    gpu_gib: float,
    gpu_memory_utilization: float,
    working_gib: float,
    kv_dtype: str = "auto",
) -> Sizing:
    """
    Raises:
        SizingError: the model can't be cut so, or doesn't leave room for a KV cache.
    """
    weights = _weights_per_gpu(model, layout)
    free = int((gpu_gib * gpu_memory_utilization - working_gib) * GIB) - weights
    if free <= 0:
        raise SizingError(
            f"{model.name} needs {weights / GIB:.1f} GiB of weights and {working_gib:g} GiB to work on each "
            f"GPU, and has {gpu_gib:g} x {gpu_memory_utilization:g} = "
            f"{gpu_gib * gpu_memory_utilization:.1f} GiB: use more GPUs or larger ones"
        )
    return _sizing(model, layout, weights=weights, kv_bytes=free, kv_dtype=kv_dtype)


def size_of_cache(model: ModelShape, layout: Layout, *, kv_gib: float, kv_dtype: str = "auto") -> Sizing:
    """With the KV cache's size given: on a CPU (`VLLM_CPU_KVCACHE_SPACE`), or from an engine's log.

    Raises:
        SizingError: the model can't be cut so.
    """
    weights = _weights_per_gpu(model, layout)
    return _sizing(model, layout, weights=weights, kv_bytes=int(kv_gib * GIB), kv_dtype=kv_dtype)


def _sizing(model: ModelShape, layout: Layout, *, weights: int, kv_bytes: int, kv_dtype: str) -> Sizing:
    if kv_dtype != "auto" and kv_dtype not in _DTYPE_BYTES:
        raise SizingError(
            f"--kv-cache-dtype must be auto or one of {', '.join(_DTYPE_BYTES)}. Given: {kv_dtype}"
        )
    width = model.dtype_bytes if kv_dtype == "auto" else _DTYPE_BYTES[kv_dtype]
    per_token = (
        2 * _layers_per_stage(model, layout) * _kv_heads_per_gpu(model, layout) * model.head_dim * width
    )
    return Sizing(
        model=model,
        layout=layout,
        weight_bytes_per_gpu=weights,
        kv_bytes_per_gpu=kv_bytes,
        kv_bytes_per_token=per_token,
        kv_cache_tokens=kv_bytes // per_token,
    )


def _layers_per_stage(model: ModelShape, layout: Layout) -> int:
    if layout.pipeline > model.layers:
        raise SizingError(
            f"--pipeline-parallel-size must be <= {model.layers} layers. Given: {layout.pipeline}"
        )
    return math.ceil(model.layers / layout.pipeline)


def _kv_heads_per_gpu(model: ModelShape, layout: Layout) -> int:
    """Fewer heads than GPUs are stored several times."""
    if model.attention_heads % layout.tensor:
        raise SizingError(
            f"--tensor-parallel-size must divide {model.attention_heads} attention heads. "
            f"Given: {layout.tensor}"
        )
    if layout.tensor > model.kv_heads:
        return 1
    if model.kv_heads % layout.tensor:
        raise SizingError(
            f"--tensor-parallel-size must divide {model.kv_heads} key-value heads. Given: {layout.tensor}"
        )
    return model.kv_heads // layout.tensor


def _weights_per_gpu(model: ModelShape, layout: Layout) -> int:
    """Of the stage that holds most: an embedding at each end of the pipeline, or both in the only stage."""
    embeddings = model.embedding_bytes * (1 if model.tied else 2)
    layers = (model.weight_bytes - embeddings) * _layers_per_stage(model, layout) / model.layers
    ends = embeddings if layout.pipeline == 1 else model.embedding_bytes
    return math.ceil((layers + ends) / layout.tensor)


def _refuse_other_attention(config: Mapping[str, Any]) -> None:
    for field in ("kv_lora_rank", "mamba_d_state", "ssm_cfg", "text_config"):
        if config.get(field) is not None:
            raise SizingError(
                f"a model with {field} is not covered: its cache isn't keys and values of all layers"
            )
    if any(kind != "full_attention" for kind in config.get("layer_types") or ()):
        raise SizingError("a model whose layer_types are not all full_attention is not covered")
    if config.get("sliding_window") and config.get("use_sliding_window", True):
        raise SizingError(f"a model with a sliding window is not covered. Given: {config['sliding_window']}")


def _count_parameters(config: Mapping[str, Any]) -> int:
    """Of Llama's form of a decoder: gated MLP, RMS norms, grouped attention."""
    kind = config.get("model_type")
    if kind not in _CONVENTIONAL:
        raise SizingError(
            f"model_type must be one of {', '.join(sorted(_CONVENTIONAL))} to count weights without the "
            f"checkpoint's files. Given: {kind}"
        )
    hidden, heads = config["hidden_size"], config["num_attention_heads"]
    head_dim = config.get("head_dim") or hidden // heads
    query, key = heads * head_dim, (config.get("num_key_value_heads") or heads) * head_dim
    attention = 2 * hidden * query + 2 * hidden * key
    attention += query + 2 * key if kind == "qwen2" else 2 * head_dim if kind == "qwen3" else 0
    layer = attention + 3 * hidden * config["intermediate_size"] + 2 * hidden
    embeddings = config["vocab_size"] * hidden * (1 if config.get("tie_word_embeddings") else 2)
    return int(config["num_hidden_layers"] * layer + embeddings + hidden)


def _tensor_bytes(file: Path) -> int:
    """All tensors of a safetensors file, which starts with its header's length: 8 bytes, little endian."""
    with file.open("rb") as opened:
        header = int.from_bytes(opened.read(8), "little")
    return file.stat().st_size - 8 - header
