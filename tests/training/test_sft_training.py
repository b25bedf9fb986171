"""Training itself: equal to a loop written by hand, packed or not, on one process or two."""

import math
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("torch")
pytest.importorskip("trl")

import torch
from safetensors.torch import load_file

from tests.support.sft import sample_rows, save_tiny_model, write_jsonl, write_recipe
from training.sft.machine import this_machine
from training.sft.recipe import SftRunRecipe, load_sft_recipe
from training.sft.run import RunError, run_sft
from training.sft.setup import Setup, prepare

ONE_PROCESS: dict[str, str] = {}


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_tiny_model(tmp_path_factory.mktemp("base") / "tiny")


@pytest.fixture(autouse=True)
def nothing_is_reported_home(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: Any, **__: Any) -> None:
        raise AssertionError("a run reported home")

    monkeypatch.setattr("trl.trainer.base_trainer.send_telemetry", refuse)


def recipe_for(folder: Path, base: Path, rows: int, **sections: Any) -> SftRunRecipe:
    data = write_jsonl(folder / "d.jsonl", sample_rows(rows))
    sections.setdefault("output", {})
    sections["output"] = {"weights": "float32", **sections["output"]}
    return load_sft_recipe(str(write_recipe(folder / "r.yaml", base, data, **sections)))


def trained(recipe: SftRunRecipe, out: Path) -> dict[str, torch.Tensor]:
    return load_file(run_sft(recipe, out, this_machine(ONE_PROCESS)) / "model.safetensors")


def furthest(left: dict[str, torch.Tensor], right: dict[str, torch.Tensor]) -> float:
    assert left.keys() == right.keys()
    return max((left[name] - right[name]).abs().max().item() for name in left)


def by_hand(setup: Setup, average: str) -> dict[str, torch.Tensor]:
    """AdamW with a linear warm-up and a cosine, one step per epoch over all samples."""
    from transformers import LlamaForCausalLM

    optimization, plan = setup.recipe.optimization, setup.plan
    model = LlamaForCausalLM.from_pretrained(setup.base, dtype=torch.float32, attn_implementation="eager")
    matrices = [weight for weight in model.parameters() if weight.ndim > 1]
    norms = [weight for weight in model.parameters() if weight.ndim == 1]
    optimizer = torch.optim.AdamW(
        [
            {"params": matrices, "weight_decay": optimization.weight_decay},
            {"params": norms, "weight_decay": 0.0},
        ],
        betas=(optimization.beta1, optimization.beta2),
        eps=optimization.epsilon,
    )
    for step in range(plan.total_steps):
        past = (step - plan.warmup_steps) / (plan.total_steps - plan.warmup_steps)
        factor = step / plan.warmup_steps if past < 0 else 0.5 * (1 + math.cos(math.pi * past))
        for group in optimizer.param_groups:
            group["lr"] = optimization.learning_rate * factor
        sums, counts = [], []
        for ids, first in zip(setup.examples.input_ids, setup.examples.first_learned, strict=True):
            tokens = torch.tensor(ids)
            logits = model(tokens[None]).logits[0, first - 1 : -1]
            sums.append(torch.nn.functional.cross_entropy(logits, tokens[first:], reduction="sum"))
            counts.append(len(tokens) - first)
        means = [total / count for total, count in zip(sums, counts, strict=True)]
        loss = sum(sums) / sum(counts) if average == "token" else sum(means) / len(means)
        model.zero_grad()
        loss.backward()  # type: ignore[union-attr]
        torch.nn.utils.clip_grad_norm_(model.parameters(), optimization.max_grad_norm)
        optimizer.step()
    return {name: weight.detach() for name, weight in model.state_dict().items() if name != "lm_head.weight"}


@pytest.mark.parametrize(("average", "micro"), [("token", 1), ("token", 3), ("sample", 1)])
def test_steps_equal_a_loop_written_by_hand(tmp_path: Path, base: Path, average: str, micro: int) -> None:
    optimization = {
        "epochs": 5,
        "effective_batch_size": 6,
        "micro_batch_size": micro,
        "warmup_share": 0.4,
        "weight_decay": 0.1,
        "loss_average": average,
    }
    recipe = recipe_for(tmp_path, base, 6, optimization=optimization)
    setup = prepare(recipe, 1)
    assert (setup.plan.total_steps, setup.plan.warmup_steps) == (5, 2)
    weights = trained(recipe, tmp_path / "out")
    before = load_file(base / "model.safetensors")
    assert furthest(weights, before) > 1e-3  # it did learn
    assert furthest(weights, by_hand(setup, average)) < 1e-5
    other = by_hand(setup, "sample" if average == "token" else "token")
    assert furthest(weights, other) > 1e-4  # and the two averages are told apart


def log_probabilities(recipe: SftRunRecipe, out: Path) -> dict[tuple[int, ...], list[float]]:
    """Of every learned token, by sample, as the trainer's own forward gives them."""
    from training.sft.trainer import build_trainer

    setup = prepare(recipe, 1)
    trainer = build_trainer(setup, this_machine(ONE_PROCESS), out, [])
    found: dict[tuple[int, ...], list[float]] = {}
    for row in setup.dataset:
        batch = trainer.data_collator([row])
        with torch.no_grad():
            given = trainer.model(**batch, fused_lm_head=True, use_cache=False).log_probs[0]
        begin = 0
        for length in row.get("seq_lengths") or [len(row["input_ids"])]:
            labels = row["labels"][begin : begin + length]
            first = labels.count(-100)
            sample = tuple(row["input_ids"][begin : begin + length])
            found[sample] = given[begin + first - 1 : begin + length - 1].tolist()
            begin += length
    return found


@pytest.mark.parametrize("attention", ["eager", "sdpa"])
def test_packing_changes_no_tokens_loss(tmp_path: Path, base: Path, attention: str) -> None:
    apart, packed = (
        recipe_for(tmp_path, base, 24, model={"attention": attention}, data={"packing": packing})
        for packing in (False, True)
    )
    assert len(prepare(packed, 1).dataset) < 12
    alone, together = (log_probabilities(recipe, tmp_path / "out") for recipe in (apart, packed))
    assert alone.keys() == together.keys() and len(alone) == 24
    for sample, expected in alone.items():
        assert together[sample] == pytest.approx(expected, abs=1e-5)
        assert len(set(map(float, expected))) > 1


def test_packed_training_equals_unpacked_where_the_batches_are_the_same(tmp_path: Path, base: Path) -> None:
    both = {"epochs": 3, "effective_batch_size": 8}
    apart = recipe_for(tmp_path, base, 8, optimization=both)
    packed = recipe_for(tmp_path, base, 8, data={"packing": True}, optimization=both)
    assert len(prepare(packed, 1).dataset) < 8
    weights = trained(apart, tmp_path / "apart"), trained(packed, tmp_path / "packed")
    # Sums over other lengths round otherwise, and AdamW enlarges what is left of small gradients: up to 2e-5
    # on some CPUs.
    assert furthest(*weights) < 5e-5
    halved = recipe_for(tmp_path, base, 8, optimization=both | {"effective_batch_size": 4})
    assert furthest(weights[1], trained(halved, tmp_path / "halved")) > 1e-3  # other batches are told apart


def trained_by_two(module: str, folder: Path, *overrides: str) -> dict[str, torch.Tensor]:
    argv = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    argv += ["-m", module, "--recipe", str(folder / "r.yaml"), "--out", str(folder / "two")]
    argv += [argument for override in overrides for argument in ("--set", override)]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(argv, capture_output=True, text=True, env=environment, timeout=240)
    assert done.returncode == 0, done.stderr[-3000:]
    return load_file(folder / "two" / "model" / "model.safetensors")


def test_two_processes_make_the_same_steps_as_one(tmp_path: Path, base: Path) -> None:
    recipe = recipe_for(tmp_path, base, 14, optimization={"effective_batch_size": 4, "epochs": 1})
    alone = trained(recipe, tmp_path / "one")
    assert furthest(trained_by_two("training.sft", tmp_path), alone) < 1e-5


def test_sharded_over_two_processes_the_steps_are_the_same(tmp_path: Path, base: Path) -> None:
    """FSDP 2 itself, with its checkpoints, its recomputed activations and the export of what was sharded."""
    recipe = recipe_for(tmp_path, base, 14, optimization={"effective_batch_size": 4, "epochs": 1})
    alone = trained(recipe, tmp_path / "one")
    overrides = ("sharding=fsdp2", "model.gradient_checkpointing=true")
    assert furthest(trained_by_two("tests.support.fsdp_on_cpu", tmp_path, *overrides), alone) < 1e-5
    checkpoint = tmp_path / "two" / "checkpoints" / "checkpoint-4"
    assert len(list((checkpoint / "pytorch_model_fsdp_0").glob("*.distcp"))) == 2


def test_a_batch_for_two_is_refused_for_three(tmp_path: Path, base: Path) -> None:
    from training.sft.plan import PlanError

    recipe = recipe_for(tmp_path, base, 8)
    with pytest.raises(PlanError, match="numbers of processes that do: 1, 2, 4"):
        run_sft(recipe, tmp_path / "out", replace(this_machine(ONE_PROCESS), num_processes=3))
    assert not (tmp_path / "out").exists()


def test_a_loss_that_is_no_number_stops_the_run(tmp_path: Path, base: Path) -> None:
    recipe = recipe_for(tmp_path, base, 8, optimization={"learning_rate": 1e30, "warmup_share": 0.0})
    with pytest.raises(RunError, match=r"the loss is (nan|inf) at step \d+: lower the learning rate"):
        run_sft(recipe, tmp_path / "out", this_machine(ONE_PROCESS))
    assert not (tmp_path / "out" / "model").exists()


def test_progress_and_tensorboard_show_every_step(tmp_path: Path, base: Path) -> None:
    from rich.console import Console
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    recipe = recipe_for(tmp_path, base, 8, output={"log_to": "tensorboard"})
    with (tmp_path / "progress.txt").open("w") as file:
        run_sft(recipe, tmp_path / "out", this_machine(ONE_PROCESS), console=Console(file=file, width=80))
    assert "4/4" in (tmp_path / "progress.txt").read_text()
    events = EventAccumulator(str(tmp_path / "out" / "logs")).Reload()
    assert [event.step for event in events.Scalars("train/loss")] == [1, 2, 3, 4]
