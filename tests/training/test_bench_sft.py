"""The speed measurement counts what a model needs, and runs on a CPU."""

import json
import random
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

pytest.importorskip("torch")
pytest.importorskip("trl")

from training.bench_sft import SHAPES, Options, app, draw_lengths, peak_tflops, training_flops


def options(**fields: Any) -> Options:
    defaults: dict[str, Any] = {
        "shape": "tiny",
        "packing": True,
        "liger": False,
        "checkpointing": False,
        "attention": "sdpa",
        "max_length": 128,
        "steps": 2,
        "weights": "float32",
        "sharding": "none",
        "seed": 0,
    }
    return Options(**defaults | fields)


@pytest.mark.parametrize(("shape", "billions"), [("tiny", 0.0), ("1.5b", 1.54), ("7b", 7.62)])
def test_shapes_have_the_weights_they_are_named_for(shape: Any, billions: float) -> None:
    import torch

    from training.bench_sft import _random_model

    with torch.device("meta"):
        model = _random_model(options(shape=shape))
    assert model.num_parameters() / 1e9 == pytest.approx(billions, abs=0.01)
    matrices = {name: weight for name, weight in model.named_parameters() if weight.ndim == 2}
    untied = 0 if SHAPES[shape].tied else matrices["model.embed_tokens.weight"].numel()
    assert SHAPES[shape].matmul_weights == sum(weight.numel() for weight in matrices.values()) - untied


def test_flops_equal_those_that_torch_counts() -> None:
    """Forward only, a third of the whole; torch counts the full square of attention, half of it masked."""
    import torch
    from torch.utils.flop_counter import FlopCounterMode

    from training.bench_sft import _random_model

    shape, length = SHAPES["tiny"], 64
    model = _random_model(options(attention="eager"))
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        model(torch.zeros(1, length, dtype=torch.long))
    square = 4.0 * shape.num_layers * shape.hidden_size * length * length
    needed = counter.get_total_flops() - square + square * (length + 1) / (2 * length)
    assert training_flops(shape, [length]) / 3 == pytest.approx(needed)


def test_lengths_fill_what_is_asked_and_stay_in_bounds() -> None:
    lengths = draw_lengths(random.Random(0), 1000, 100_000)
    assert sum(lengths) >= 100_000 and max(lengths) <= 1000 and len(set(lengths)) > 50


@pytest.mark.parametrize(
    ("gpu", "peak"),
    [("NVIDIA H100 80GB HBM3", 989.4), ("NVIDIA H100 PCIe", 756.0), ("NVIDIA T4", None), (None, None)],
)
def test_peaks_are_known_by_name_or_not_at_all(gpu: str | None, peak: float | None) -> None:
    assert peak_tflops(gpu) == peak


def test_it_runs_on_a_cpu_and_writes_what_it_measured(tmp_path: Path) -> None:
    path = tmp_path / "speed.json"
    arguments = ["--max-length", "128", "--steps", "2", "--checkpointing", "--peak-tflops", "1000"]
    result = CliRunner().invoke(app, [*arguments, "--json", str(path)])
    assert result.exit_code == 0, result.output
    speed = json.loads(path.read_text())
    assert speed["machine"] == "CPU" and speed["options"]["checkpointing"] and speed["parameters"] > 100_000
    assert 64 < speed["tokens_per_step"] <= 128 and 0 < speed["mfu"] < 1
    assert "MFU" in result.output


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--shape", "70b"], "--shape must be one of tiny, 1.5b, 7b"),
        (["--liger"], "model.liger needs an NVIDIA GPU"),
        (["--attention", "none"], "model.attention"),
    ],
)
def test_what_can_not_be_measured_is_refused(arguments: list[str], message: str) -> None:
    result = CliRunner().invoke(app, arguments, env={"COLUMNS": "200"})
    assert result.exit_code == 2 and message in result.output
