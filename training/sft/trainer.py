"""trl's trainer with our arguments: how a recipe becomes optimizer, precision, sharding and checkpoints.

Imported only when a run starts: it loads torch, transformers and trl.
"""

import logging
import math
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from transformers import AutoModelForCausalLM, PrinterCallback, TrainerCallback
from trl import SFTConfig, SFTTrainer

from training.sft.checkpoints import keep_latest, mark_complete
from training.sft.machine import Machine, resolved_precision
from training.sft.plan import Plan
from training.sft.recipe import LoraRecipe, SftRunRecipe
from training.sft.setup import Setup

CHECKPOINTS = "checkpoints"
OnStep = Callable[[int, int, float], None]


class ReasoningTrainer(SFTTrainer):  # type: ignore[misc]
    """trl's, minus what it sends and writes on its own, plus s1's average over samples."""

    average_over_samples = False

    def _send_telemetry(self) -> None:
        """trl reports every run to its authors' hub; this product sends nothing unasked."""

    def create_model_card(self, *args: Any, **options: Any) -> None:
        """trl's draft names neither data nor hyperparameters; ours is written with the export."""

    def _get_num_items_in_batch(self, batch_samples: list[Any], device: torch.device) -> Any:
        """None makes each micro batch, here one sample, average over its own tokens."""
        return None if self.average_over_samples else super()._get_num_items_in_batch(batch_samples, device)

    def training_step(self, *args: Any, **options: Any) -> torch.Tensor:
        loss: torch.Tensor = super().training_step(*args, **options)
        if not math.isfinite(loss.item()):
            raise FloatingPointError(f"the loss is {loss.item()} at step {self.state.global_step + 1}")
        return loss


class WholeCheckpoints(TrainerCallback):  # type: ignore[misc]
    """Marks a checkpoint when every process has written its part, and only then deletes older ones."""

    def __init__(self, keep: int) -> None:
        self._keep = keep

    def on_save(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        if dist.is_initialized():
            dist.barrier()
        if state.is_world_process_zero:
            folder = Path(args.output_dir)
            mark_complete(folder / f"checkpoint-{state.global_step}")
            keep_latest(folder, self._keep)


class StepReport(TrainerCallback):  # type: ignore[misc]
    def __init__(self, on_step: OnStep) -> None:
        self._on_step = on_step

    def on_log(self, args: Any, state: Any, control: Any, logs: dict[str, float], **_: Any) -> None:
        if "loss" in logs and state.is_world_process_zero:
            self._on_step(state.global_step, state.max_steps, logs["loss"])


class StepTimer(TrainerCallback):  # type: ignore[misc]
    """Seconds of each step and the lengths of the samples in it, of this process."""

    def __init__(self) -> None:
        self.seconds: list[float] = []
        self.lengths: list[list[int]] = []
        self._began = 0.0

    def watch(self, trainer: Any) -> None:
        """Rows are seen where the trainer collates them."""
        collate = trainer.data_collator

        def collate_and_count(rows: list[dict[str, Any]]) -> Any:
            self.lengths.append(
                [length for row in rows for length in row.get("seq_lengths") or [len(row["input_ids"])]]
            )
            return collate(rows)

        trainer.data_collator = collate_and_count

    def on_step_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        self._began = self._now()

    def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        self.seconds.append(self._now() - self._began)

    @staticmethod
    def _now() -> float:
        if torch.cuda.is_available():
            torch.cuda.synchronize()
        return time.monotonic()


def build_trainer(setup: Setup, machine: Machine, out: Path, callbacks: list[Any]) -> ReasoningTrainer:
    recipe = setup.recipe
    arguments = training_arguments(recipe, setup.plan, machine, out)  # before the model: FSDP loads by it
    model = load_base(recipe, setup.base, machine)
    if recipe.output.log_to == "tensorboard" and machine.is_main:
        callbacks = [*callbacks, _tensorboard(out / "logs")]
    with expected_warnings_hidden():
        trainer = ReasoningTrainer(
            model=model,
            args=arguments,
            train_dataset=setup.dataset,
            processing_class=setup.tokenizer,
            peft_config=peft_config(recipe.lora) if recipe.lora else None,
            callbacks=[*callbacks, WholeCheckpoints(recipe.output.keep_checkpoints)],
        )
    trainer.remove_callback(PrinterCallback)  # the progress line shows what it would print
    trainer.average_over_samples = recipe.optimization.loss_average == "sample"
    return trainer


class ProcessesDiffer(OSError):
    """The processes of a run do not see the same files."""


def same_everywhere(checkpoint: Path | None, setup: Setup) -> Path | None:
    """The checkpoint of the main process, for all of them; a process group must exist if there are several.

    Raises:
        ProcessesDiffer: this process lacks it, or has other data.
    """
    if not dist.is_initialized():
        return checkpoint
    said = [str(checkpoint) if checkpoint else None, setup.data_sha256]
    dist.broadcast_object_list(said, src=0)
    where, data_sha256 = said
    if data_sha256 != setup.data_sha256:
        raise ProcessesDiffer("the nodes were given different data")
    if where is not None and not Path(where).is_dir():
        raise ProcessesDiffer(f"{where} is not on every node: --out must be on a file system that all share")
    return None if where is None else Path(where)


@contextmanager
def expected_warnings_hidden() -> Iterator[None]:
    """trl warns that rows of one gain nothing from going without padding; ours are packs of many samples."""

    def is_unexpected(record: logging.LogRecord) -> bool:
        return "per_device_train_batch_size of 1 with padding-free" not in record.getMessage()

    logger = logging.getLogger("trl.trainer.sft_trainer")
    logger.addFilter(is_unexpected)
    try:
        yield
    finally:
        logger.removeFilter(is_unexpected)


def training_arguments(recipe: SftRunRecipe, plan: Plan, machine: Machine, out: Path) -> SFTConfig:
    optimization, output = recipe.optimization, recipe.output
    every = output.checkpoint_every_steps or plan.steps_per_epoch
    return SFTConfig(
        output_dir=str(out / CHECKPOINTS),
        seed=recipe.seed,
        data_seed=recipe.seed,
        use_cpu=machine.gpu is None,
        bf16=resolved_precision(recipe, machine) == "bf16",
        num_train_epochs=optimization.epochs,
        per_device_train_batch_size=optimization.micro_batch_size,
        gradient_accumulation_steps=plan.accumulation_steps,
        optim="adamw_torch",
        learning_rate=optimization.learning_rate,
        lr_scheduler_type=optimization.schedule,
        warmup_steps=plan.warmup_steps,
        adam_beta1=optimization.beta1,
        adam_beta2=optimization.beta2,
        adam_epsilon=optimization.epsilon,
        weight_decay=optimization.weight_decay,
        max_grad_norm=optimization.max_grad_norm,
        use_liger_kernel=recipe.model.liger,
        # Samples come tokenized and, if wanted, packed; packs go through as one row without a mask, and
        # positions that restart keep their samples apart.
        dataset_kwargs={"skip_prepare_dataset": True},
        max_length=None,
        packing=False,
        padding_free=recipe.data.packing,
        save_strategy="steps",
        save_steps=every,
        logging_steps=output.log_every_steps,
        logging_nan_inf_filter=False,
        report_to="wandb" if output.log_to == "wandb" else "none",
        run_name=recipe.name,
        disable_tqdm=True,
        dataloader_pin_memory=machine.gpu is not None,
        ddp_find_unused_parameters=False,
        **_memory_savers(recipe),
    )


def _memory_savers(recipe: SftRunRecipe) -> dict[str, Any]:
    """Under FSDP the wrapper recomputes activations; the model's own switch would gather weights twice."""
    if recipe.sharding == "none":
        return {"gradient_checkpointing": recipe.model.gradient_checkpointing}
    return {
        "gradient_checkpointing": False,
        "fsdp": True,
        "fsdp_config": {
            "version": 2,
            "auto_wrap_policy": "TRANSFORMER_BASED_WRAP",
            "reshard_after_forward": True,
            "cpu_ram_efficient_loading": True,
            "state_dict_type": "SHARDED_STATE_DICT",
            "activation_checkpointing": recipe.model.gradient_checkpointing,
        },
    }


def load_base(recipe: SftRunRecipe, base: Path, machine: Machine) -> Any:
    options: dict[str, Any] = {
        "dtype": getattr(torch, recipe.model.weights),
        "attn_implementation": recipe.model.attention,
    }
    if recipe.lora is not None and recipe.lora.quantize == "nf4":
        from transformers import BitsAndBytesConfig

        options["quantization_config"] = BitsAndBytesConfig(
            load_in_4bit=True,
            bnb_4bit_quant_type="nf4",
            bnb_4bit_use_double_quant=True,
            bnb_4bit_compute_dtype=torch.bfloat16,
        )
        options["device_map"] = {"": torch.cuda.current_device()}
    return AutoModelForCausalLM.from_pretrained(base, **options)


def peft_config(lora: LoraRecipe) -> Any:
    from peft import LoraConfig

    return LoraConfig(
        task_type="CAUSAL_LM",
        r=lora.rank,
        lora_alpha=lora.alpha,
        lora_dropout=lora.dropout,
        target_modules=lora.target_modules,
    )


def _tensorboard(folder: Path) -> Any:
    from torch.utils.tensorboard import SummaryWriter
    from transformers.integrations import TensorBoardCallback

    return TensorBoardCallback(SummaryWriter(log_dir=str(folder)))
