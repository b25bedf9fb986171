"""Which engines run in one process, and with what."""

from __future__ import annotations

from pathlib import Path

import pytest

from server.engine import launch, one_process
from server.engine.launch import EngineOptions, command, engine_environment
from server.engine.reward import reward_command, reward_environment

FLAG = "--distributed-executor-backend"


@pytest.fixture(autouse=True)
def two_cores_without_a_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(one_process, "cpus", lambda: 2)
    monkeypatch.setattr(launch, "on_gpu", lambda: False)
    for name in ("OMP_NUM_THREADS", "VLLM_CPU_OMP_THREADS_BIND"):
        monkeypatch.delenv(name, raising=False)


def argv(*extra_args: str, **options: int) -> list[str]:
    return command(EngineOptions(model="m", extra_args=extra_args, **options), host="h", port=1)


def test_one_worker_on_few_cores_needs_no_second_process(tmp_path: Path) -> None:
    assert argv()[argv().index(FLAG) + 1].endswith("UniProcExecutor")
    variables = engine_environment(EngineOptions(model="m"), run_dir=tmp_path, base={})
    assert variables["OMP_NUM_THREADS"] == "1"
    assert FLAG in reward_command("m", host="h", port=1, tag_id=3)
    assert reward_environment((), {})["OMP_NUM_THREADS"] == "1"


@pytest.mark.parametrize(
    "flag",
    [
        "--distributed-executor-backend=mp",
        "--distributed_executor_backend",
        "-dp=2",
        "--data-parallel-size=2",
    ],
)
def test_who_asks_for_something_else_gets_it(flag: str, tmp_path: Path) -> None:
    assert not any(argument.endswith("UniProcExecutor") for argument in argv(flag))
    variables = engine_environment(EngineOptions(model="m", extra_args=(flag,)), run_dir=tmp_path, base={})
    assert "OMP_NUM_THREADS" not in variables
    assert not any(
        part.endswith("UniProcExecutor")
        for part in reward_command("m", host="h", port=1, tag_id=3, extra_args=[flag])
    )


def test_several_workers_have_a_process_each() -> None:
    assert FLAG not in argv(tensor_parallel_size=2)
    assert FLAG not in argv(pipeline_parallel_size=2)


def test_threads_that_are_bound_to_cores_need_vllms_own_process(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("VLLM_CPU_OMP_THREADS_BIND", "0-1")
    assert FLAG not in argv()


def test_the_users_threads_win(tmp_path: Path) -> None:
    variables = engine_environment(EngineOptions(model="m"), run_dir=tmp_path, base={"OMP_NUM_THREADS": "2"})
    assert variables["OMP_NUM_THREADS"] == "2"


def test_many_cores_and_gpus_are_left_as_they_are(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(one_process, "cpus", lambda: 16)
    assert FLAG not in argv()
    monkeypatch.setattr(one_process, "cpus", lambda: 2)
    monkeypatch.setattr(launch, "on_gpu", lambda: True)
    assert FLAG not in argv()


@pytest.mark.parametrize(
    ("written", "most"), [("max 100000", None), ("150000 100000", 2), ("10000 100000", 1), ("nonsense", None)]
)
def test_a_containers_limit_counts(tmp_path: Path, written: str, most: int | None) -> None:
    quota = tmp_path / "cpu.max"
    quota.write_text(written)
    unlimited = CPUS(tmp_path / "none")
    assert CPUS(quota) == (unlimited if most is None else min(most, unlimited))


CPUS = one_process.cpus
