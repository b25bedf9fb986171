"""The engines' configurations: small where a part needs many of them, quick to start everywhere."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from loadtest.gpu_check.machine import GIB, Gpu, engine_bytes, weight_bytes
from loadtest.gpu_check.options import Options

SMALL_CACHE_BYTES = 2 * GIB
_GRAPH_SIZES = [1, 2, 4, 8, 16, 32, 64, 128, 256]
CPU_ENVIRONMENT = {
    "VLLM_CPU_KVCACHE_SPACE": "1",
    "VLLM_TARGET_DEVICE": "cpu",
    # One process per engine: half the imports, and nothing that could outlive a killed worker.
    "VLLM_ENABLE_V1_MULTIPROCESSING": "0",
    # Engines share the cores: threads that spin for one another would starve them all.
    "VLLM_CPU_OMP_THREADS_BIND": "nobind",
    "OMP_NUM_THREADS": "1",
}


def graphs() -> dict[str, Any]:
    """CUDA graphs for decoding without torch.compile, which would take most of the check's time."""
    return {"mode": 0, "cudagraph_mode": "FULL_DECODE_ONLY", "cudagraph_capture_sizes": _GRAPH_SIZES}


def environment(options: Options) -> dict[str, str]:
    return CPU_ENVIRONMENT if options.device == "cpu" else {"VLLM_USE_FLASHINFER_SAMPLER": "0"}


def arguments(options: Options, gpu: Gpu | None, *, weights: int, cache: int) -> dict[str, Any]:
    """Of an engine that leaves room for others: its share of the GPU is what it needs."""
    if gpu is None:
        return {"enforce_eager": True}
    share = min(0.95, (engine_bytes(weights, cache)) / gpu.memory_bytes)
    return {
        "compilation_config": graphs(),
        "gpu_memory_utilization": round(share, 3),
        "kv_cache_memory_bytes": cache,
    }


def exact_arguments(options: Options, gpu: Gpu | None) -> dict[str, Any]:
    """Of the engines whose outputs must be equal: the same kernels, as few ties as there can be."""
    weights = weight_bytes(Path(options.model), options.dtype)
    chosen = arguments(options, gpu, weights=weights, cache=SMALL_CACHE_BYTES)
    if gpu is not None and options.dtype == "float32":
        # FlashAttention knows 16-bit numbers only.
        chosen["attention_backend"] = "TRITON_ATTN"
    return {
        **chosen,
        "model": options.model,
        "dtype": options.dtype,
        "seed": 0,
        "max_model_len": context_tokens(options),
        "max_num_seqs": 64,
        "max_num_batched_tokens": 512,
    }


def context_tokens(options: Options) -> int:
    """Context of the exactness part's engines: enough for its prompts and answers."""
    config = json.loads((Path(options.model) / "config.json").read_text())
    return min(1024, int(config.get("max_position_embeddings", 1024)))
