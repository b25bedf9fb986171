"""One fine-tuning run, from recipe to served folder; at any moment it can be killed and resumed."""

import json
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from training.sft.checkpoints import discard_incomplete, latest_complete, step_of
from training.sft.machine import Machine, check_machine
from training.sft.manifest import differences, identity, make_manifest
from training.sft.recipe import SftRunRecipe
from training.sft.setup import Setup, prepare

_RUN = "run.json"
_DROPPED = "dropped.jsonl"
_TORCH_WRITERS = ("PytorchStreamWriter", "inline_container")
"""How torch.save speaks of a disk that is full: as a RuntimeError without an errno."""


class RunError(RuntimeError):
    """The run can't start; what it had saved is kept."""


class RunStopped(RunError):
    """Something outside failed while it ran; the same run, resumed, goes on from its last checkpoint."""


def run_sft(
    recipe: SftRunRecipe,
    out: Path,
    machine: Machine,
    *,
    resume: bool = False,
    console: Console | None = None,
    callbacks: Sequence[Any] = (),
) -> Path:
    """Returns the folder of the exported model.

    Raises:
        MachineError, DataError, TokenizerError, PlanError, BaseModelError: before any training.
        RunError: the folder is taken, or the run differs from the one to resume.
        RunStopped: training stopped.
    """
    check_machine(recipe, machine)
    setup = prepare(recipe, machine.num_processes)
    with _threads(recipe.threads), _one_line_errors():
        resumed_from = _claim(setup, machine, out, resume=resume) if machine.is_main else []
        checkpoint = latest_complete(out / "checkpoints")
        return _train(setup, machine, out, checkpoint, resumed_from, console, callbacks)


def _train(
    setup: Setup,
    machine: Machine,
    out: Path,
    checkpoint: Path | None,
    resumed_from: list[int],
    console: Console | None,
    callbacks: Sequence[Any],
) -> Path:
    from transformers.utils.logging import disable_progress_bar

    from training.sft.export import export
    from training.sft.trainer import StepReport, build_trainer, same_everywhere

    disable_progress_bar()
    with _progress(console if machine.is_main else None, setup.plan.total_steps) as on_step:
        trainer = build_trainer(setup, machine, out, [*callbacks, StepReport(on_step)])
        checkpoint = same_everywhere(checkpoint, setup)
        began = time.monotonic()
        trainer.train(resume_from_checkpoint=str(checkpoint) if checkpoint else None)
        seconds = time.monotonic() - began
    if trainer.state.max_steps != setup.plan.total_steps:
        raise RunError(f"{trainer.state.max_steps} steps were made, {setup.plan.total_steps} were planned")
    manifest = make_manifest(
        setup,
        machine,
        losses=[entry["loss"] for entry in trainer.state.log_history if "loss" in entry],
        seconds=seconds,
        resumed_from=resumed_from,
        peak_gpu_bytes=_peak_gpu_bytes(machine),
    )
    return export(trainer, setup, out, manifest)


def _claim(setup: Setup, machine: Machine, out: Path, *, resume: bool) -> list[int]:
    """Takes ``out`` for this run, or checks that the run in it is the same; returns where it was resumed."""
    now, path = identity(setup, machine), out / _RUN
    partial = out / f"{_RUN}.partial"
    partial.unlink(missing_ok=True)
    if (out / "model").exists():
        raise RunError(f"{out} holds a finished model already; choose another --out")
    if path.is_file():
        if not resume:
            raise RunError(f"{out} holds a run that began already; pass --resume, or choose another --out")
        before = json.loads(path.read_text())
        if changed := differences(before["identity"], now):
            raise RunError(f"{out} holds a different run; changed since: {'; '.join(changed)}")
    elif out.is_dir() and any(out.iterdir()):
        raise RunError(f"{out} is not empty; choose another --out")
    else:
        before = {"resumed_from_steps": []}
    out.mkdir(parents=True, exist_ok=True)
    discard_incomplete(out / "checkpoints")
    checkpoint = latest_complete(out / "checkpoints")
    resumed = [*before["resumed_from_steps"], *([step_of(checkpoint)] if checkpoint else [])]
    partial.write_text(json.dumps({"identity": now, "resumed_from_steps": resumed}, indent=2) + "\n")
    partial.replace(path)
    dropped = [json.dumps(asdict(row), ensure_ascii=False) + "\n" for row in setup.examples.dropped]
    (out / _DROPPED).write_text("".join(dropped), encoding="utf-8")
    return resumed


@contextmanager
def _one_line_errors() -> Iterator[None]:
    """What stops a run from outside becomes one line that says how to go on."""
    import torch
    from safetensors import SafetensorError

    try:
        yield
    except FloatingPointError as error:
        raise RunError(f"{error}: lower the learning rate, or look at the data") from error
    except torch.OutOfMemoryError as error:
        raise RunError(
            "the GPU's memory is full: set model.gradient_checkpointing: true, a smaller data.max_length, "
            f"sharding: fsdp2 over more GPUs, or lora. ({str(error).splitlines()[0]})"
        ) from error
    except (OSError, SafetensorError) as error:
        raise RunStopped(f"stopped while reading or writing: {error}") from error
    except RuntimeError as error:
        if not any(name in str(error) for name in _TORCH_WRITERS):
            raise
        raise RunStopped(f"stopped while writing: {error}") from error


@contextmanager
def _threads(count: int | None) -> Iterator[None]:
    import torch

    before = torch.get_num_threads()
    if count is not None:
        torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)


@contextmanager
def _progress(console: Console | None, total: int) -> Iterator[Any]:
    if console is None:
        yield lambda step, of, loss: None
        return
    columns = (
        TextColumn("sft"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("loss {task.fields[loss]:.4f}"),
        TextColumn("ETA"),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=console) as progress:
        task = progress.add_task("sft", total=total, loss=float("nan"))
        yield lambda step, of, loss: progress.update(task, completed=step, total=of, loss=loss)


def _peak_gpu_bytes(machine: Machine) -> int | None:
    import torch

    return torch.cuda.max_memory_allocated() if machine.gpu is not None else None
