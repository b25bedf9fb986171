"""`s1 size`: the arithmetic against published counts and the demo checkpoint's own files."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from server.sizing import GIB, KNOWN, Layout, ModelShape, SizingError, size_of_cache, size_on_gpus
from tests.support.commands import s1_fails, s1_ok
from tests.support.engines import DEMO

# As Qwen2.5's model cards and files count them.
PUBLISHED = {
    "s1.1-1.5b": 1_543_714_304,
    "s1.1-7b": 7_615_616_512,
    "s1.1-14b": 14_770_033_664,
    "s1.1-32b": 32_763_876_352,
}


def test_weights_are_counted_as_published() -> None:
    counted = {name: ModelShape.known(name).weight_bytes // 2 for name in KNOWN}
    assert counted == PUBLISHED


def test_the_demo_checkpoint_is_counted_alike_from_its_dimensions_and_its_files() -> None:
    config = json.loads((DEMO / "config.json").read_text())
    counted = ModelShape.from_config("demo", config)
    stored = ModelShape.from_directory(DEMO)
    assert counted.weight_bytes == stored.weight_bytes
    assert stored.name == "tiny-reasoner"


def test_a_token_of_32b_takes_a_quarter_of_a_mebibyte() -> None:
    model = ModelShape.known("simplescaling/s1.1-32B")
    whole = size_of_cache(model, Layout(1), kv_gib=1)
    assert whole.kv_bytes_per_token == 2 * 64 * 8 * 128 * 2 == 256 * 1024
    assert whole.kv_cache_tokens == 4096
    # Cut over 4 GPUs and 2 stages, a GPU stores an eighth of each token.
    assert size_of_cache(model, Layout(4, 2), kv_gib=1).kv_cache_tokens == 8 * 4096
    assert size_of_cache(model, Layout(1), kv_gib=1, kv_dtype="fp8").kv_cache_tokens == 2 * 4096


def test_heads_fewer_than_gpus_are_stored_several_times() -> None:
    model = ModelShape.known("s1.1-1.5b")
    assert model.kv_heads == 2
    two, four = (size_of_cache(model, Layout(gpus), kv_gib=1).kv_cache_tokens for gpus in (2, 4))
    assert two == four


def test_what_weights_and_work_leave_is_cache() -> None:
    model = ModelShape.known("s1.1-7b")
    sizing = size_on_gpus(model, Layout(1), gpu_gib=79, gpu_memory_utilization=0.9, working_gib=5)
    assert sizing.kv_bytes_per_gpu == int((79 * 0.9 - 5) * GIB) - model.weight_bytes
    replicas = size_on_gpus(model, Layout(1, 1, 3), gpu_gib=79, gpu_memory_utilization=0.9, working_gib=5)
    assert replicas.concurrent(tokens=1000) == 3 * sizing.concurrent(tokens=1000)


def test_gpus_left_over_by_a_replica_are_replicas() -> None:
    assert Layout.over(8, tensor=None, pipeline=1) == Layout(8, 1, 1)
    assert Layout.over(8, tensor=2, pipeline=2) == Layout(2, 2, 2)


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"kv_lora_rank": 512}, "kv_lora_rank"),
        ({"layer_types": ["full_attention", "sliding_attention"]}, "layer_types"),
        ({"sliding_window": 4096}, "4096"),
        ({"model_type": "deepseek_v3"}, "deepseek_v3"),
        ({"dtype": "int4"}, "int4"),
    ],
)
def test_other_caches_are_refused(change: dict[str, Any], named: str) -> None:
    with pytest.raises(SizingError, match=named):
        ModelShape.from_config("other", {**KNOWN["s1.1-7b"], **change})


def test_the_command_as_json() -> None:
    output = s1_ok("size", "s1.1-32b", "--gpus", "4", "--thinking-tokens", "8192", "--json")
    answer = json.loads(output)
    assert answer["tensor_parallel_size"] == 4
    assert answer["budgets"] == [
        {
            "thinking_tokens": 8192,
            "request_tokens": 8192 + 512 + 2048,
            "concurrent_requests": answer["kv_cache_tokens"] // (8192 + 512 + 2048),
        }
    ]


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["s1.1-32b", "--gpu", "l4"], "61.0 GiB of weights"),
        (["s1.1-32b"], "--max-model-len must be <= 27248"),
        (["s1.1-32b", "--gpus", "3"], "divide 40 attention heads. Given: 3"),
        (["s1.1-32b", "--gpus", "3", "-tp", "2"], "multiple of tensor x pipeline = 2 x 1. Given: 3"),
        (["s1.1-7b", "--gpu", "potato"], "--gpu must be one of l4,"),
        (["s1.1-7b", "--max-model-len", "40000"], "--max-model-len must be <= 32768"),
        (["s1.1-7b", "--thinking-tokens", "32768"], "--thinking-tokens must be <= 30208"),
        (["nobody/knows"], "MODEL must be one of s1.1-1.5b,"),
        (["s1.1-7b", "--kv-cache-dtype", "int2"], "--kv-cache-dtype must be auto or one of"),
    ],
)
def test_wrong_questions_are_refused_by_name(arguments: list[str], said: str) -> None:
    assert said in s1_fails(2, "size", *arguments)


def test_a_directory_without_a_model_is_refused(tmp_path: Path) -> None:
    assert "config.json can't be read" in s1_fails(2, "size", tmp_path)
