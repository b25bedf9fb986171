"""Another vLLM stops the start of the V1 runner's worker; `test_processor_v2.py` holds the same of V2's."""

from __future__ import annotations

from typing import Any

import pytest
import torch

pytest.importorskip("vllm")

from vllm.v1.sample.sampler import Sampler
from vllm.v1.worker.gpu_model_runner import GPUModelRunner

from server.engine import sampler_hook
from server.engine.processor_v1 import BudgetForcing
from server.engine.sampler_hook import UnsupportedEngineError


def unwrapped(method: Any) -> Any:
    """vLLM's own, if another test has hooked it in this process."""
    while hasattr(method, "__wrapped__"):
        method = method.__wrapped__
    return method


@pytest.fixture(autouse=True)
def unhooked(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Sampler, "sample", unwrapped(Sampler.sample))
    monkeypatch.setattr(GPUModelRunner, "_bookkeeping_sync", unwrapped(GPUModelRunner._bookkeeping_sync))


def other(self: Any, something_else: int) -> None: ...


def test_another_sampler_stops_the_worker_before_it_looks_at_its_configuration(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(Sampler, "sample", other)
    says = r"other of vLLM .* takes \(self, something_else\), not \(self, logits, .*Install the pinned vLLM 0"
    with pytest.raises(UnsupportedEngineError, match=says):
        BudgetForcing(None, torch.device("cpu"), False)
    assert Sampler.sample is other


def test_another_bookkeeping_stops_the_worker_on_a_cpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(GPUModelRunner, "_bookkeeping_sync", other)
    with pytest.raises(
        UnsupportedEngineError, match=r"takes \(self, something_else\), not \(self, scheduler"
    ):
        BudgetForcing(None, torch.device("cpu"), False)


def test_the_installed_vllm_is_hooked_once() -> None:
    sampler_hook.install()
    sampler_hook.install_cpu_generator_rewind()
    hooked = Sampler.sample, GPUModelRunner._bookkeeping_sync
    assert all(hasattr(method, "__wrapped__") for method in hooked)
    sampler_hook.install()
    sampler_hook.install_cpu_generator_rewind()
    assert hooked == (Sampler.sample, GPUModelRunner._bookkeeping_sync)
