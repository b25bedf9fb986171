"""What ``s1 sft --dry-run`` prints: the whole plan, and the first sample with its mask."""

from typing import Any

from rich.console import Console
from rich.markup import escape
from rich.table import Table
from rich.text import Text

from training.sft.examples import Examples
from training.sft.plan import MemoryEstimate, estimate_memory
from training.sft.recipe import SftRunRecipe
from training.sft.rendering import IGNORED, Example, TokenView, explain
from training.sft.setup import Setup

_SHOWN_TOKENS = 400
_BYTES = {"float32": 4, "bfloat16": 2}
_NF4_BYTES = 0.5
_GIB = 1 << 30


def show_plan(console: Console, setup: Setup, obstacle: str | None) -> None:
    """``obstacle`` is why this machine could not run it, None if it could."""
    plan, examples, optimization = setup.plan, setup.examples, setup.recipe.optimization
    unit = "packs" if setup.recipe.data.packing else "samples"
    memory, parameters, trainable = memory_of(setup)
    rows: list[tuple[str, str]] = [
        ("recipe", f"{setup.recipe.name}, seed {setup.recipe.seed}"),
        ("base model", f"{setup.recipe.model.path}: {parameters:,} weights, {trainable:,} of them trained"),
        ("data", ", ".join(f"{file.name} ({file.rows:,} rows)" for file in setup.files)),
        ("samples", f"{len(examples.input_ids):,} ({len(examples.dropped):,} rows dropped)"),
        *_answer_columns(examples),
        ("tokens per epoch", f"{examples.num_tokens:,}, of which {examples.num_learned:,} learned"),
        ("longest sample", f"{examples.longest:,} tokens of {setup.recipe.data.max_length:,} allowed"),
    ]
    if setup.recipe.data.packing:
        filled = examples.num_tokens / (plan.num_rows * setup.recipe.data.max_length)
        rows.append(("packs", f"{plan.num_rows:,}, {100 * filled:.0f} % full"))
    rows += [
        (
            "effective batch",
            f"{plan.effective_batch_size} {unit} = {plan.num_processes} processes x "
            f"{plan.micro_batch_size} x {plan.accumulation_steps} accumulated",
        ),
        (
            "steps",
            f"{plan.total_steps:,} = {optimization.epochs} epochs x {plan.steps_per_epoch}; "
            f"{plan.warmup_steps} warm-up",
        ),
        ("pad token", f"{setup.tokenizer.pad_token} (end tokens: {setup.tokenizer.eos_token})"),
        ("memory per GPU", f"{memory.total / _GIB:.1f} GiB: {_parts(memory)}; activations come on top"),
        ("runs here", "yes" if obstacle is None else f"no: {obstacle}"),
    ]
    table = Table(show_header=False, box=None)
    for name, value in rows:
        table.add_row(f"[bold]{name}[/bold]", escape(value))
    console.print(table)
    for row in examples.dropped[:5]:
        console.print(f"dropped: {escape(row.place)}: {escape(row.reason)}", soft_wrap=True)
    show_sample(console, setup)


def _answer_columns(examples: Examples) -> list[tuple[str, str]]:
    """Which columns the answers are read from; nothing where rows are no columns."""
    used = [f"column {name!r} of {count:,} samples" for name, count in examples.answer_columns.items()]
    return [("answers", f"{', '.join(used)} (data.columns.answer names another)")] if used else []


def show_sample(console: Console, setup: Setup) -> None:
    ids, first = setup.examples.input_ids[0].tolist(), setup.examples.first_learned[0]
    begin, end = setup.examples.forced.get(0, (len(ids), len(ids)))
    labels = [IGNORED if at < first or begin <= at < end else token for at, token in enumerate(ids)]
    tokens = explain(setup.tokenizer, Example(ids, labels))
    console.print(f"\n[bold]{escape(setup.examples.places[0])}[/bold]: {len(tokens)} tokens")
    context = [token for token in tokens if not token.learned]
    learned = [token for token in tokens if token.learned]
    console.print(f"context, no loss ({len(context)}):")
    console.print(_coloured(context, ("blue", "bright_blue")), soft_wrap=True)
    console.print(f"learned ({len(learned)}):")
    console.print(_coloured(learned, ("green", "bright_green")), soft_wrap=True)


def memory_of(setup: Setup) -> tuple[MemoryEstimate, int, int]:
    """The estimate, all weights, trained weights; nothing is loaded."""
    parameters, trainable = count_weights(setup)
    recipe = setup.recipe
    quantized = recipe.lora is not None and recipe.lora.quantize == "nf4"
    estimate = estimate_memory(
        parameters=parameters,
        trainable=trainable,
        bytes_per_weight=_NF4_BYTES if quantized else _BYTES[recipe.model.weights],
        bytes_per_trainable=_trained_bytes(recipe),
        shards=setup.plan.num_processes if recipe.sharding == "fsdp2" else 1,
    )
    return estimate, parameters, trainable


def count_weights(setup: Setup) -> tuple[int, int]:
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM

    with torch.device("meta"):
        model: Any = AutoModelForCausalLM.from_config(AutoConfig.from_pretrained(setup.base))
        parameters = model.num_parameters()
        if setup.recipe.lora is None:
            return parameters, parameters
        from peft import get_peft_model

        from training.sft.trainer import peft_config

        adapted = get_peft_model(model, peft_config(setup.recipe.lora))
    trainable = sum(weight.numel() for weight in adapted.parameters() if weight.requires_grad)
    return parameters + trainable, trainable


def _trained_bytes(recipe: SftRunRecipe) -> int:
    """What is trained under FSDP with bf16 is kept in float32 by accelerate, and adapters are by peft.

    Only where the base is quantized trl keeps them in bfloat16.
    """
    if recipe.lora is None and recipe.sharding == "fsdp2" and recipe.precision != "fp32":
        return 4
    if recipe.lora is None:
        return _BYTES[recipe.model.weights]
    return 2 if recipe.lora.quantize == "nf4" else 4


def _parts(memory: MemoryEstimate) -> str:
    parts = (("weights", memory.weights), ("gradients", memory.gradients), ("optimizer", memory.optimizer))
    return ", ".join(f"{name} {size / _GIB:.1f}" for name, size in parts)


def _coloured(tokens: list[TokenView], styles: tuple[str, str]) -> Text:
    """Tokens alternate between two shades, so that their borders show."""
    shown = Text()
    half = _SHOWN_TOKENS // 2
    for at, token in enumerate(tokens):
        if len(tokens) > _SHOWN_TOKENS and half <= at < len(tokens) - half:
            if at == half:
                shown.append(f" … {len(tokens) - 2 * half} more tokens … ", style="dim")
            continue
        shown.append(token.text.replace("\n", "⏎\n"), style=styles[at % 2])
    return shown
