"""What is planned and what is refused before a weight is loaded: recipes, steps, machines, tokenizers."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import yaml
from typer.testing import CliRunner

pytest.importorskip("transformers")
pytest.importorskip("trl")

from tests.support.sft import PAD, sample_rows, save_tokenizer, tokenizer_of, write_jsonl, write_recipe
from training.recipe import SFT_KIND, TRAIN_KINDS, RecipeError, read_recipe_file, recipe_names
from training.sft.cli import app
from training.sft.machine import Machine, MachineError, check_machine, resolved_precision
from training.sft.plan import PlanError, accumulation_steps, estimate_memory, make_plan
from training.sft.recipe import load_sft_recipe
from training.sft.rendering import TRACE_FORMATS
from training.sft.tokenizer import (
    TokenizerError,
    check_markers,
    check_pad_unused,
    check_same_as_file,
    choose_pad_token,
)

ROOT = Path(__file__).parents[2]
ALL_PACKAGES = frozenset({"flash_attn", "liger_kernel", "bitsandbytes", "wandb", "tensorboard"})


def machine(num_processes: int = 1, capability: tuple[int, int] | None = None, **fields: Any) -> Machine:
    gpu = "NVIDIA Test" if capability else None
    return Machine(num_processes, 0, gpu, capability, fields.get("packages", ALL_PACKAGES))


def test_every_committed_recipe_loads() -> None:
    names = recipe_names([SFT_KIND])
    assert {"s1-32b", "s1.1-32b", "s1.1-7b", "1.5b-single-gpu", "smoke"} <= set(names)
    for name in names:
        assert load_sft_recipe(name).name == name
        with pytest.raises(RecipeError, match="is a recipe of `s1 sft`, not of `s1 train`"):
            read_recipe_file(name, kinds=TRAIN_KINDS)
    with pytest.raises(RecipeError, match="is a recipe of `s1 train`, not of `s1 sft`"):
        load_sft_recipe("tiny-cpu")
    with pytest.raises(RecipeError, match="known recipes: .*s1-32b"):
        load_sft_recipe("s2")


@pytest.mark.parametrize(("num_gpus", "accumulation"), [(16, 1), (8, 2), (4, 4), (1, 16)])
def test_the_papers_recipe_makes_the_papers_315_steps(num_gpus: int, accumulation: int) -> None:
    optimization = load_sft_recipe("s1-32b").optimization
    plan = make_plan(optimization, 1000, num_gpus)
    assert plan.accumulation_steps == accumulation and plan.effective_batch_size == 16
    assert (plan.steps_per_epoch, plan.total_steps, plan.warmup_steps) == (63, 315, 16)
    assert (optimization.learning_rate, optimization.beta1, optimization.beta2) == (1e-5, 0.9, 0.95)
    assert (optimization.weight_decay, optimization.loss_average) == (1e-4, "sample")


@pytest.mark.parametrize(
    ("effective", "micro", "processes"), [(16, 1, 3), (16, 2, 16), (16, 3, 1), (8, 1, 16)]
)
def test_a_batch_that_does_not_divide_is_refused(effective: int, micro: int, processes: int) -> None:
    with pytest.raises(PlanError, match=f"effective_batch_size {effective} does not divide by {processes}"):
        accumulation_steps(effective, micro, processes)


def test_adamw_in_float32_takes_sixteen_bytes_a_weight() -> None:
    memory = estimate_memory(
        parameters=1000, trainable=1000, bytes_per_weight=4, bytes_per_trainable=4, shards=2
    )
    assert memory.total == 1000 * 16 / 2
    adapters = estimate_memory(
        parameters=1000, trainable=10, bytes_per_weight=0.5, bytes_per_trainable=2, shards=1
    )
    assert (adapters.weights, adapters.gradients, adapters.optimizer) == (990 * 0.5 + 20, 20, 40)


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["optimization.epoch=3"], r"optimization\.epoch: Extra inputs"),
        (["optimization.epochs=0"], r"optimization\.epochs: .*\(given: 0\)"),
        (["data.on_too_long=truncate"], r"data\.on_too_long: .*'error' or 'drop'"),
        (["data.packing=true"], "micro batch is one pack"),
        (["optimization.loss_average=sample"], "needs optimization.micro_batch_size: 1"),
        (["data.control=steps"], "go together"),
        (["learning_rate"], "must be SECTION.FIELD=VALUE"),
        (["name.x=1"], "name is not a section"),
        (["lora.rank=4"], r"lora\.alpha: Field required"),
    ],
)
def test_recipes_refuse_what_they_do_not_know(overrides: Sequence[str], message: str) -> None:
    with pytest.raises(RecipeError, match=message):
        load_sft_recipe("smoke", overrides)


def test_overrides_are_numbers_where_they_look_like_numbers() -> None:
    recipe = load_sft_recipe("smoke", ["optimization.learning_rate=1e-5", "lora.rank=4", "lora.alpha=8"])
    assert recipe.optimization.learning_rate == 1e-5 and recipe.lora is not None and recipe.lora.alpha == 8


@pytest.mark.parametrize(
    ("overrides", "here", "message"),
    [
        (["precision=bf16"], machine(), "precision: bf16 needs an NVIDIA GPU"),
        (["precision=bf16"], machine(capability=(7, 5)), r"capability 8\.0.*Given: NVIDIA Test \(7\.5\)"),
        (["model.attention=flash_attention_2"], machine(), "flash_attention_2 needs an NVIDIA GPU"),
        (
            ["model.attention=flash_attention_2"],
            machine(capability=(9, 0), packages=frozenset()),
            "needs the package flash-attn, which is not installed; install it, or set model.attention: sdpa$",
        ),
        (
            ["model.attention=flash_attention_3"],
            machine(capability=(9, 0), packages=frozenset({"flash_attn"})),
            "needs the package flash-attn-3, .*; install it, or set model.attention: sdpa$",
        ),
        (
            ["model.attention=flash_attention_2", "precision=fp32"],
            machine(capability=(9, 0)),
            "computes in bf16 only",
        ),
        (["model.attention=flash_attention_3"], machine(capability=(8, 0)), r"compute capability 9\.0"),
        (["model.liger=true"], machine(), "model.liger needs an NVIDIA GPU"),
        (
            ["model.liger=true"],
            machine(capability=(9, 0), packages=frozenset()),
            "needs the package liger-kernel, .*; install it, or set model.liger: false$",
        ),
        (["lora.rank=4", "lora.alpha=8", "lora.quantize=nf4"], machine(), "lora.quantize needs an NVIDIA"),
        (
            ["lora.rank=4", "lora.alpha=8", "lora.quantize=nf4"],
            machine(capability=(9, 0), packages=frozenset()),
            "needs the package bitsandbytes, .*; install it, or set lora.quantize: none$",
        ),
        (["sharding=fsdp2"], machine(2), "sharding: fsdp2 needs an NVIDIA GPU"),
        (["sharding=fsdp2"], machine(capability=(9, 0)), "needs several processes"),
        (
            ["output.log_to=wandb"],
            machine(packages=frozenset()),
            "needs the package wandb, .*; install it, or set output.log_to: none$",
        ),
    ],
)  # fmt: skip
def test_a_machine_that_lacks_something_is_told_what(
    overrides: Sequence[str], here: Machine, message: str
) -> None:
    with pytest.raises(MachineError, match=message):
        check_machine(load_sft_recipe("smoke", overrides), here)


def test_a_machine_that_has_everything_is_not_refused() -> None:
    for name in recipe_names([SFT_KIND]):
        check_machine(load_sft_recipe(name), machine(8, (9, 0)))
    smoke = load_sft_recipe("smoke")
    assert resolved_precision(smoke, machine(capability=(9, 0))) == "bf16"
    assert resolved_precision(smoke, machine()) == "fp32"


def test_the_kubernetes_job_starts_in_the_image_that_it_names() -> None:
    *_, job = yaml.safe_load_all((ROOT / "training" / "launch" / "kubernetes-job.yaml").read_text())
    (container,) = job["spec"]["template"]["spec"]["containers"]
    asked = [argument.removeprefix("--").split("=", 1) for argument in container["args"] if "=" in argument]
    (name,) = (value for option, value in asked if option == "recipe")
    recipe = load_sft_recipe(name, [value for option, value in asked if option == "set"])
    stage = (ROOT / "Dockerfile").read_text().partition(" AS training\n")[2].partition("\nFROM ")[0]
    assert "[training]" in stage and "flash" not in stage
    in_the_image = frozenset({"liger_kernel", "bitsandbytes", "tensorboard"})
    check_machine(recipe, machine(16, (9, 0), packages=in_the_image))
    assert (recipe.data.columns.thinking, recipe.data.columns.answer) == ("thinking_trajectories", "attempt")


def test_padding_is_never_an_end_token(tmp_path: Path) -> None:
    r1 = tokenizer_of("deepseek_r1_distill", tmp_path / "r1")
    assert r1.pad_token == r1.eos_token == PAD["deepseek_r1_distill"]
    trace_format = TRACE_FORMATS["deepseek_r1"]
    assert choose_pad_token(r1, trace_format, None) == "<|fim_pad|>"
    with pytest.raises(TokenizerError, match="must not be an end token"):
        choose_pad_token(r1, trace_format, r1.eos_token)
    with pytest.raises(TokenizerError, match="is not a token of this model"):
        choose_pad_token(r1, trace_format, "<pad-me>")
    r1.pad_token = "<|fim_pad|>"
    check_pad_unused(r1, [[1, 2, 3]])
    with pytest.raises(TokenizerError, match="occurs in the data"):
        check_pad_unused(r1, [[1, 2], [r1.pad_token_id]])


def test_markers_must_be_tokens_of_their_own(tmp_path: Path) -> None:
    qwen = tokenizer_of("qwen2_5", tmp_path / "qwen")
    check_markers(qwen, TRACE_FORMATS["s1"], "qwen")
    with pytest.raises(TokenizerError, match="needs '</think>' as one token; qwen has no such token"):
        check_markers(qwen, TRACE_FORMATS["qwen3"], "qwen")


def test_a_tokenizer_that_is_read_in_two_ways_is_refused(tmp_path: Path) -> None:
    tokenizer = tokenizer_of("qwen2_5", tmp_path / "qwen")
    check_same_as_file(tokenizer, tmp_path / "qwen", ["What is two?"])
    fields = json.loads((tmp_path / "qwen" / "tokenizer.json").read_text())
    fields["model"]["merges"] = []
    (tmp_path / "qwen" / "tokenizer.json").write_text(json.dumps(fields))
    with pytest.raises(TokenizerError, match="differently from its tokenizer.json"):
        check_same_as_file(tokenizer, tmp_path / "qwen", ["What is two?"])


def invoke(*arguments: str) -> Any:
    return CliRunner().invoke(app, list(arguments), env={"COLUMNS": "200"})


def test_a_dry_run_of_the_papers_recipe_needs_neither_weights_nor_gpus(tmp_path: Path) -> None:
    from transformers import Qwen2Config

    folder = save_tokenizer("qwen2_5", tmp_path / "Qwen2.5-32B-Instruct")
    Qwen2Config(
        vocab_size=152064,
        hidden_size=5120,
        intermediate_size=27648,
        num_hidden_layers=64,
        num_attention_heads=40,
        num_key_value_heads=8,
        tie_word_embeddings=False,
    ).save_pretrained(folder)
    data = write_jsonl(tmp_path / "d.jsonl", sample_rows(40))
    common = ("--recipe", "s1-32b", "--data", str(data), "--model", str(folder), "--dry-run")
    result = invoke(*common, "--num-gpus", "8")
    assert result.exit_code == 0, result.output
    for expected in (
        "32,763,876,352 weights",
        "16 samples = 8 processes x 1 x 2 accumulated",
        "15 = 5 epochs x 3; 1 warm-up",
        "61.0 GiB: weights 15.3, gradients 15.3, optimizer 30.5",
        "<|fim_pad|> (end tokens: <|im_end|>)",
        "no: model.attention: flash_attention_2 needs an NVIDIA GPU",
    ):
        assert expected in result.output
    context, learned = result.output.split("learned (")
    assert "<|im_start|>think" in learned and "<|im_start|>think" not in context
    assert "You are Qwen" in context and "Answer: " in learned
    refused = invoke(*common, "--num-gpus", "3")
    assert refused.exit_code == 2 and "numbers of processes that do: 1, 2, 4, 8, 16" in refused.output


def test_a_dry_run_of_curated_questions_says_which_answers_are_learned(tmp_path: Path) -> None:
    import pyarrow as pa
    from pyarrow import parquet

    from training.curate.schema import Question, as_row, question_columns

    question = Question(
        "1", "What is 2 + 2?", "pool", answer="4", thinking="Two more", trace_answer="It is 4"
    )
    data = tmp_path / "questions.parquet"
    parquet.write_table(pa.Table.from_pylist([as_row(question)], schema=question_columns()), data)
    result = invoke("--data", str(data), "--dry-run")
    assert result.exit_code == 0, result.output
    assert "column 'trace_answer' of 1 samples (data.columns.answer names another)" in result.output
    assert "It is 4" in result.output.split("learned (")[1]
    result = invoke("--data", str(data), "--dry-run", "--set", "data.columns.answer=answer")
    assert "column 'answer' of 1 samples" in result.output and "It is 4" not in result.output


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--recipe", "none"], "known recipes"),
        (["--num-gpus", "2"], "--num-gpus goes with --dry-run"),
        (["--model", "/nowhere"], "no model folder /nowhere"),
        (["--data", "gone.jsonl"], "no data file gone.jsonl"),
        (["--recipe", "s1-32b", "--data", "gone.jsonl"], "flash_attention_2 needs"),
        (["--on-too-long", "truncate"], "data.on_too_long"),
        (["--set", "data.max_length=50"], "more than data.max_length 50"),
    ],
)
def test_the_command_ends_in_one_line(tmp_path: Path, arguments: list[str], message: str) -> None:
    out = tmp_path / "out"
    result = invoke(*arguments, "--out", str(out))
    assert result.exit_code == 2
    assert message in result.output and result.output.count("\n") == 1
    assert not out.exists()


def test_a_run_without_data_says_so(tmp_path: Path) -> None:
    recipe = write_recipe(tmp_path / "r.yaml", tmp_path, tmp_path / "d.jsonl", data={"files": []})
    result = invoke("--recipe", str(recipe))
    assert result.exit_code == 2 and "no data: pass --data FILE" in result.output
