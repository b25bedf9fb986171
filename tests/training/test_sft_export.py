"""What a run leaves: a folder that transformers and the server read, that says truthfully what it is."""

import json
from importlib import metadata
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("torch")
pytest.importorskip("trl")

import torch
from safetensors.torch import load_file

from server.budget.families import FAMILIES, detect_family
from server.budget.markers import marker_ids
from tests.support.sft import (
    sample_rows,
    save_tiny_model,
    save_tokenizer,
    tokenizer_of,
    write_jsonl,
    write_recipe,
)
from training.sft.export import ExportError, check_export, finish_folder, open_thinking
from training.sft.machine import this_machine
from training.sft.manifest import make_manifest
from training.sft.recipe import load_sft_recipe
from training.sft.rendering import TRACE_FORMATS
from training.sft.run import run_sft
from training.sft.setup import prepare


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_tiny_model(tmp_path_factory.mktemp("base") / "tiny")


def run(folder: Path, base: Path, **sections: Any) -> Path:
    rows: list[Any] = [*sample_rows(8), {"question": "q", "thinking": "", "answer": "a"}]
    sections["data"] = {"on_invalid": "drop", **sections.get("data", {})}
    recipe = write_recipe(folder / "r.yaml", base, write_jsonl(folder / "d.jsonl", rows), **sections)
    return run_sft(load_sft_recipe(str(recipe)), folder / "out", this_machine({}))


def test_the_export_loads_and_its_card_is_true(tmp_path: Path, base: Path) -> None:
    from transformers import AutoModelForCausalLM, AutoTokenizer

    model = run(tmp_path, base)
    loaded = AutoModelForCausalLM.from_pretrained(model)
    assert loaded.dtype == torch.bfloat16 and loaded.config.use_cache is True
    tokenizer = AutoTokenizer.from_pretrained(model)
    assert (model / "tokenizer.json").read_bytes() == (base / "tokenizer.json").read_bytes()
    family = detect_family(
        model="out/model", chat_template=tokenizer.chat_template, vocabulary=tokenizer.get_vocab()
    )
    assert family == FAMILIES["s1"]
    marker_ids(family, tokenizer, vocab_size=loaded.config.vocab_size)
    assert loaded.generation_config.eos_token_id == [tokenizer.eos_token_id, tokenizer.pad_token_id]

    manifest, card = (
        json.loads((model / "training_manifest.json").read_text()),
        (model / "README.md").read_text(),
    )
    assert manifest["data"]["samples"] == 8 and manifest["data"]["dropped"] == 1
    assert manifest["data"]["files"][0]["rows"] == 9 and manifest["seed"] == 7
    assert manifest["plan"]["total_steps"] == 4 and manifest["training"]["first_loss"] > 0
    assert (
        "8 samples trained on, 1 rows dropped" in card and "interrupted and resumed at steps | never" in card
    )
    assert f"| trl | {metadata.version('trl')} |" in card and f"| torch | {torch.__version__} |" in card
    assert manifest["data"]["files"][0]["sha256"] in card
    assert str(tmp_path) not in card + json.dumps(manifest)
    dropped = [json.loads(line) for line in (tmp_path / "out" / "dropped.jsonl").read_text().splitlines()]
    assert dropped == [{"place": "d.jsonl row 9", "reason": "column 'thinking' is empty"}]


def test_adapters_are_merged_into_a_model_that_answers_as_they_do(tmp_path: Path, base: Path) -> None:
    from peft import PeftModel
    from transformers import AutoModelForCausalLM

    lora = {"rank": 4, "alpha": 8, "target_modules": ["q_proj", "down_proj"]}
    model = run(tmp_path, base, lora=lora, output={"weights": "float32"})
    before, after = load_file(base / "model.safetensors"), load_file(model / "model.safetensors")
    assert before.keys() == after.keys()
    changed = {name for name in before if not torch.equal(before[name], after[name])}
    assert changed == {name for name in before if "q_proj" in name or "down_proj" in name}
    ids = torch.arange(20, 60)[None]
    options: dict[str, Any] = {"dtype": torch.float32, "attn_implementation": "eager"}
    adapted = PeftModel.from_pretrained(
        AutoModelForCausalLM.from_pretrained(base, **options), tmp_path / "out" / "adapter"
    )
    merged = AutoModelForCausalLM.from_pretrained(model, **options)
    with torch.no_grad():
        assert torch.allclose(merged(ids).logits, adapted(ids).logits, atol=1e-4)
    assert "LoRA" in (model / "README.md").read_text()


def test_checkpointing_activations_changes_nothing(tmp_path: Path, base: Path) -> None:
    weights = []
    for name, checkpointing in (("with", True), ("without", False)):
        folder = tmp_path / name
        folder.mkdir()
        model = run(
            folder, base, model={"gradient_checkpointing": checkpointing}, output={"weights": "float32"}
        )
        weights.append(load_file(model / "model.safetensors"))
    assert all(torch.equal(weights[0][name], weights[1][name]) for name in weights[0])


def test_qwens_template_is_made_to_open_thinking(tmp_path: Path) -> None:
    from transformers import AutoTokenizer

    folder = tmp_path / "qwen"
    tokenizer = tokenizer_of("qwen2_5", folder)
    question = [{"role": "user", "content": "What is two?"}]
    before = tokenizer.apply_chat_template(question, tokenize=False, add_generation_prompt=True)
    config = json.loads((folder / "tokenizer_config.json").read_text())
    (folder / "tokenizer_config.json").write_text(json.dumps(config | {"chat_template": "old"}))
    open_thinking(folder, tokenizer, TRACE_FORMATS["s1"])
    reread = AutoTokenizer.from_pretrained(folder)
    assert reread.apply_chat_template(question, tokenize=False, add_generation_prompt=True) == (
        before + "<|im_start|>think"
    )
    assert reread.apply_chat_template(question, tokenize=False) == before.removesuffix(
        "<|im_start|>assistant\n"
    )
    family = detect_family(model="any", chat_template=reread.chat_template, vocabulary=reread.get_vocab())
    assert family.name == "s1"
    assert "chat_template" not in json.loads((folder / "tokenizer_config.json").read_text())


def test_a_base_that_never_thought_is_exported_as_one_that_does(tmp_path: Path) -> None:
    from transformers import AutoTokenizer

    base = save_tokenizer("qwen2_5", save_tiny_model(tmp_path / "base"))
    model = run(tmp_path, base)
    tokenizer = AutoTokenizer.from_pretrained(model)
    text = tokenizer.apply_chat_template(
        [{"role": "user", "content": "What is two?"}], tokenize=False, add_generation_prompt=True
    )
    assert text.endswith("<|im_start|>assistant\n<|im_start|>think")
    ends = json.loads((model / "generation_config.json").read_text())["eos_token_id"]
    assert tokenizer.convert_tokens_to_ids("<|im_end|>") in ends


def test_an_end_token_the_base_does_not_name_is_added(tmp_path: Path, base: Path) -> None:
    (base / "generation_config.json").write_text(
        '{"eos_token_id": 415, "temperature": 0.7, "do_sample": true}'
    )
    setup = prepare(
        load_sft_recipe(
            str(write_recipe(tmp_path / "r.yaml", base, write_jsonl(tmp_path / "d.jsonl", sample_rows(4))))
        ),
        1,
    )
    folder = tmp_path / "model"
    folder.mkdir()
    manifest = make_manifest(
        setup, this_machine({}), losses=[], seconds=0.0, resumed_from=[], peak_gpu_bytes=None
    )
    finish_folder(setup, folder, manifest)
    fields = json.loads((folder / "generation_config.json").read_text())
    assert fields == {"eos_token_id": [417, 415], "temperature": 0.7, "do_sample": True}
    tokenizer = json.loads((folder / "tokenizer.json").read_text())
    tokenizer["model"]["vocab"] = {
        {"1": "2", "2": "1"}.get(text, text): at for text, at in tokenizer["model"]["vocab"].items()
    }
    (folder / "tokenizer.json").write_text(json.dumps(tokenizer))
    with pytest.raises(ExportError, match="reads a sample differently"):
        check_export(setup, folder)
