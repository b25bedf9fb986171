"""Which worker of a replica publishes receipts, and under which replica's number."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from tests.support.toy_markers import toy_markers

pytest.importorskip("vllm")

from server.engine import config, plugin


def publishers(
    monkeypatch: pytest.MonkeyPatch,
    directory: Path,
    *,
    index: int = 0,
    tp: int = 1,
    pcp: int = 1,
    pp: int = 1,
) -> dict[int, int]:
    """By rank of the workers that publish: the replica that they name."""
    monkeypatch.setenv(config.RUN_DIR_VARIABLE, str(directory))
    named: list[int] = []

    def publisher(directory: Path, info: Any, *, replica: int, address: str | None) -> object:
        named.append(replica)
        return object()

    monkeypatch.setattr(plugin, "ReceiptPublisher", publisher)
    model = SimpleNamespace(
        max_model_len=1000,
        model=str(directory),
        revision=None,
        tokenizer="t",
        runner_type="generate",
        tokenizer_mode="auto",
        tokenizer_revision=None,
        trust_remote_code=False,
    )
    found = {}
    for rank in range(tp * pcp * pp):
        parallel = SimpleNamespace(
            rank=rank,
            tensor_parallel_size=tp,
            prefill_context_parallel_size=pcp,
            pipeline_parallel_size=pp,
            # vLLM gives every replica of a dense model the rank 0.
            data_parallel_rank=0,
            data_parallel_index=index,
            distributed_executor_backend="mp",
            worker_extension_cls=None,
        )
        settings = SimpleNamespace(parallel_config=parallel, model_config=model)
        if plugin.open_receipts(settings, toy_markers(), processor="v2") is not None:
            found[rank] = named.pop()
    return found


@pytest.mark.parametrize(
    ("sizes", "rank"),
    [({}, 0), ({"tp": 4}, 0), ({"pp": 2}, 1), ({"tp": 8, "pp": 2}, 8), ({"pcp": 2, "pp": 2}, 2)],
)
def test_one_worker_of_the_last_stage(
    sizes: dict[str, int], rank: int, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    assert publishers(monkeypatch, tmp_path, **sizes) == {rank: 0}


def test_replicas_of_a_dense_model_have_numbers_of_their_own(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    assert [publishers(monkeypatch, tmp_path, index=i) for i in range(3)] == [{0: 0}, {0: 1}, {0: 2}]


def test_the_names_that_are_asked_for_exist_in_the_pinned_vllm() -> None:
    from dataclasses import fields

    from vllm.config import ParallelConfig

    names = {field.name for field in fields(ParallelConfig)}
    assert {"data_parallel_index", "prefill_context_parallel_size"} <= names
