"""Speed of fine-tuning on random weights and random text: tokens per second, and share of the GPU's peak.

``python -m training.bench_sft --shape 1.5b --matrix`` measures packing, Liger kernels and recomputed
activations on and off; ``torchrun … -m training.bench_sft --shape 7b`` one of them on several GPUs. It goes
through the same trainer and arguments as ``s1 sft``. Model FLOPs utilization counts what the model needs,
not what is recomputed, and no padding (Chowdhery et al. 2022, appendix B).
"""

import itertools
import json
import os
import random
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated, Any, Literal, NoReturn, cast

import typer
from rich.console import Console
from rich.markup import escape
from rich.table import Table

app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)

ShapeName = Literal["tiny", "1.5b", "7b"]
_SKIPPED_STEPS = 3
"""The first steps compile kernels and grow buffers."""


@dataclass(frozen=True, slots=True)
class Shape:
    """A Qwen2 model's dimensions; 1.5b and 7b are those of Qwen2.5."""

    hidden_size: int
    intermediate_size: int
    num_layers: int
    num_heads: int
    num_kv_heads: int
    vocab_size: int
    tied: bool

    @property
    def matmul_weights(self) -> int:
        """Weights that every token is multiplied with: the blocks' matrices and the output layer."""
        head_size = self.hidden_size // self.num_heads
        attention = self.hidden_size * head_size * 2 * (self.num_heads + self.num_kv_heads)
        feed_forward = 3 * self.hidden_size * self.intermediate_size
        return self.num_layers * (attention + feed_forward) + self.vocab_size * self.hidden_size


SHAPES: dict[ShapeName, Shape] = {
    "tiny": Shape(64, 128, 2, 2, 1, 448, tied=True),
    "1.5b": Shape(1536, 8960, 28, 12, 2, 151936, tied=True),
    "7b": Shape(3584, 18944, 28, 28, 4, 152064, tied=False),
}

_PEAK_BF16_TFLOPS = {"H200": 989.4, "H100 PCIe": 756.0, "H100": 989.4, "A100": 311.9}
"""Dense bf16, from NVIDIA's data sheets; the first name that the GPU's name contains."""


@dataclass(frozen=True, slots=True)
class Options:
    shape: ShapeName
    packing: bool
    liger: bool
    checkpointing: bool
    attention: str
    max_length: int
    steps: int
    weights: Literal["float32", "bfloat16"]
    sharding: Literal["none", "fsdp2"]
    seed: int


@dataclass(frozen=True, slots=True)
class Speed:
    """``mfu`` is None where the peak is not known; rates are per process."""

    options: Options
    machine: str
    num_processes: int
    precision: str
    parameters: int
    tokens_per_step: float
    step_s: float
    tokens_per_second: float
    model_tflops_per_second: float
    mfu: float | None
    peak_memory_gib: float | None
    versions: dict[str, str]


def training_flops(shape: Shape, lengths: Sequence[int]) -> float:
    """Forward and backward: 6 per weight and token; attention sees, on average, half of its sequence."""
    pairs = sum(length * (length + 1) / 2 for length in lengths)
    return 6.0 * shape.matmul_weights * sum(lengths) + 12.0 * shape.num_layers * shape.hidden_size * pairs


def peak_tflops(gpu: str | None) -> float | None:
    """By the GPU's name; None for a CPU and for GPUs that are not in the table."""
    names = (name for name in _PEAK_BF16_TFLOPS if gpu is not None and all(p in gpu for p in name.split()))
    found = next(names, None)
    return None if found is None else _PEAK_BF16_TFLOPS[found]


def draw_lengths(rng: random.Random, max_length: int, total: int) -> list[int]:
    """Spread like reasoning traces: many of a quarter of the longest, a few as long as that."""
    lengths: list[int] = []
    while sum(lengths) < total:
        lengths.append(max(8, min(max_length, int(rng.lognormvariate(0.0, 0.6) * max_length / 4))))
    return lengths


def measure(options: Options, peak: float | None) -> Speed:
    """Trains ``options.steps`` steps of one micro batch per process after those that are skipped."""
    from training.sft.machine import check_machine, resolved_precision, this_machine
    from training.sft.manifest import package_versions

    machine = this_machine()
    recipe = _recipe(options, machine.num_processes)
    check_machine(recipe, machine)
    model, timer, parameters = _train(options, recipe, machine)
    median = statistics.median(timer.seconds[_SKIPPED_STEPS:])
    lengths = timer.lengths[_SKIPPED_STEPS:]
    seconds = sum(timer.seconds[_SKIPPED_STEPS:])
    tokens = sum(map(sum, lengths))
    rate = sum(training_flops(SHAPES[options.shape], step) for step in lengths) / seconds / 1e12
    limit = peak if peak is not None else peak_tflops(machine.gpu)
    return Speed(
        options=options,
        machine=machine.gpu or "CPU",
        num_processes=machine.num_processes,
        precision=resolved_precision(recipe, machine),
        parameters=parameters,
        tokens_per_step=tokens / len(lengths),
        step_s=median,
        tokens_per_second=tokens / seconds,
        model_tflops_per_second=rate,
        mfu=None if limit is None else rate / limit,
        peak_memory_gib=_peak_memory_gib(machine.gpu is not None),
        versions=package_versions(),
    )


def _recipe(options: Options, num_processes: int) -> Any:
    from training.sft.recipe import SftRunRecipe

    return SftRunRecipe.model_validate(
        {
            "kind": "sft",
            "name": "bench",
            "seed": options.seed,
            "sharding": options.sharding,
            "model": {
                "path": "demo",
                "weights": options.weights,
                "attention": options.attention,
                "liger": options.liger,
                "gradient_checkpointing": options.checkpointing,
            },
            "data": {"format": "s1", "max_length": options.max_length, "packing": options.packing},
            "optimization": {
                "epochs": 1,
                "effective_batch_size": num_processes,
                "learning_rate": 1e-5,
            },
        }
    )


def _train(options: Options, recipe: Any, machine: Any) -> tuple[Any, Any, int]:
    from transformers import AutoTokenizer, PrinterCallback
    from transformers.trainer_utils import SaveStrategy
    from transformers.utils.logging import disable_progress_bar

    from training.sft.plan import make_plan
    from training.sft.recipe import model_path
    from training.sft.trainer import (
        ReasoningTrainer,
        StepTimer,
        expected_warnings_hidden,
        training_arguments,
    )

    disable_progress_bar()
    dataset = _dataset(options, machine.num_processes)
    plan = make_plan(recipe.optimization, len(dataset), machine.num_processes)
    with tempfile.TemporaryDirectory() as scratch:
        arguments = training_arguments(recipe, plan, machine, Path(scratch))
        arguments.save_strategy = SaveStrategy.NO
        model = _random_model(options)
        timer = StepTimer()
        with expected_warnings_hidden():
            trainer = ReasoningTrainer(
                model=model,
                args=arguments,
                train_dataset=dataset,
                processing_class=AutoTokenizer.from_pretrained(model_path(recipe)),
                callbacks=[timer],
            )
        trainer.remove_callback(PrinterCallback)
        timer.watch(trainer)
        parameters = model.num_parameters()
        trainer.train()
    return model, timer, parameters


def _dataset(options: Options, num_processes: int) -> Any:
    """As many rows as steps: packs, or single samples."""
    from array import array

    from training.sft.examples import Examples
    from training.sft.setup import make_dataset

    rng = random.Random(options.seed)  # noqa: S311 -- random text, not cryptography
    rows = (options.steps + _SKIPPED_STEPS) * num_processes
    lengths = draw_lengths(rng, options.max_length, rows * options.max_length * 2)
    vocabulary = SHAPES[options.shape].vocab_size
    examples = Examples("columns")
    for length in lengths:
        examples.input_ids.append(array("i", (rng.randrange(vocabulary) for _ in range(length))))
        examples.first_learned.append(0)
    dataset = make_dataset(examples, pack_to=options.max_length if options.packing else None)
    return dataset.select(range(rows))


def _random_model(options: Options) -> Any:
    import torch
    from transformers import AutoModelForCausalLM, Qwen2Config

    shape = SHAPES[options.shape]
    torch.manual_seed(options.seed)
    config = Qwen2Config(
        vocab_size=shape.vocab_size,
        hidden_size=shape.hidden_size,
        intermediate_size=shape.intermediate_size,
        num_hidden_layers=shape.num_layers,
        num_attention_heads=shape.num_heads,
        num_key_value_heads=shape.num_kv_heads,
        tie_word_embeddings=shape.tied,
        max_position_embeddings=max(options.max_length, 32768),
    )
    return AutoModelForCausalLM.from_config(
        config, dtype=getattr(torch, options.weights), attn_implementation=options.attention
    )


def _peak_memory_gib(has_gpu: bool) -> float | None:
    import torch

    return torch.cuda.max_memory_allocated() / (1 << 30) if has_gpu else None


@app.command()
def bench(
    shape: Annotated[str, typer.Option(help=f"One of {', '.join(SHAPES)}.")] = "tiny",
    packing: Annotated[bool, typer.Option(help="Samples share rows of --max-length tokens.")] = True,
    liger: Annotated[bool, typer.Option(help="Liger kernels (NVIDIA GPUs).")] = False,
    checkpointing: Annotated[bool, typer.Option(help="Recompute activations.")] = False,
    attention: Annotated[
        str, typer.Option(help="eager, sdpa, flash_attention_2, flash_attention_3.")
    ] = "sdpa",
    max_length: Annotated[
        int, typer.Option(min=16, help="Tokens of the longest sample, and of a pack.")
    ] = 8192,
    steps: Annotated[int, typer.Option(min=1, help="Measured steps, after three that are not.")] = 10,
    weights: Annotated[
        str, typer.Option(help="float32 or bfloat16: 16 or 8 bytes a weight in all.")
    ] = "float32",
    sharding: Annotated[str, typer.Option(help="none, or fsdp2 under torchrun.")] = "none",
    peak: Annotated[float | None, typer.Option("--peak-tflops", help="The GPU's bf16 peak.")] = None,
    seed: Annotated[int, typer.Option(min=0)] = 0,
    matrix: Annotated[bool, typer.Option("--matrix", help="All eight of the three switches.")] = False,
    json_path: Annotated[
        Path | None, typer.Option("--json", dir_okay=False, help="Results, one a line.")
    ] = None,
) -> None:
    """Measure how fast `s1 sft` trains a model of this shape here."""
    from pydantic import ValidationError

    from training.recipe import readable
    from training.sft.machine import MachineError

    if shape not in SHAPES:
        _fail(f"--shape must be one of {', '.join(SHAPES)}. Given: {shape}")
    if matrix:
        _matrix(sys.argv[1:], json_path)
        return
    options = Options(
        shape=shape,
        packing=packing,
        liger=liger,
        checkpointing=checkpointing,
        attention=attention,
        max_length=max_length,
        steps=steps,
        weights=cast(Any, weights),
        sharding=cast(Any, sharding),
        seed=seed,
    )
    try:
        speed = measure(options, peak)
    except MachineError as error:
        _fail(str(error))
    except ValidationError as error:
        _fail(readable(error))
    if int(os.environ.get("RANK", "0")) == 0:
        _report([asdict(speed)], json_path)


def _matrix(arguments: Sequence[str], json_path: Path | None) -> None:
    """Each in a process of its own: Liger patches the model's classes, and memory is measured from zero."""
    results = []
    for packing, liger, checkpointing in itertools.product((False, True), repeat=3):
        chosen = (("packing", packing), ("liger", liger), ("checkpointing", checkpointing))
        with tempfile.TemporaryDirectory() as scratch:
            found = Path(scratch) / "speed.json"
            argv = [sys.executable, "-m", "training.bench_sft"]
            argv += [argument for argument in arguments if argument != "--matrix"]
            argv += [f"--{name}" if on else f"--no-{name}" for name, on in chosen] + ["--json", str(found)]
            done = subprocess.run(argv, capture_output=True, text=True, check=False)  # noqa: S603
            if done.returncode != 0:
                setting = ", ".join(f"{name} {'on' if on else 'off'}" for name, on in chosen)
                reason = (done.stderr.strip().splitlines() or ["no message"])[-1]
                Console(stderr=True).print(f"{setting}: {escape(reason)}", soft_wrap=True)
                continue
            results.append(json.loads(found.read_text()))
    if not results:
        _fail("none of the eight could be measured")
    _report(results, json_path)


def _report(results: list[dict[str, Any]], json_path: Path | None) -> None:
    first = results[0]
    table = Table(title=f"{first['options']['shape']} on {first['num_processes']} x {first['machine']}")
    for column in ("packing", "liger", "recompute", "tokens/s per process", "s per step", "MFU", "GiB"):
        table.add_column(column)
    for result in results:
        options = result["options"]
        table.add_row(
            *("on" if options[name] else "off" for name in ("packing", "liger", "checkpointing")),
            f"{result['tokens_per_second']:,.0f}",
            f"{result['step_s']:.3f}",
            "-" if result["mfu"] is None else f"{100 * result['mfu']:.1f} %",
            "-" if result["peak_memory_gib"] is None else f"{result['peak_memory_gib']:.1f}",
        )
    Console().print(table)
    if json_path is not None:
        json_path.write_text("".join(json.dumps(result) + "\n" for result in results))


def _fail(message: str) -> NoReturn:
    Console(stderr=True).print(f"[bold red]bench_sft:[/bold red] {escape(message)}", soft_wrap=True)
    raise typer.Exit(2)


if __name__ == "__main__":
    app()
