"""The finished model as a Hugging Face folder that ``s1 serve`` takes, with its card and manifest."""

import json
import shutil
from pathlib import Path
from typing import Any

from training.sft.card import model_card
from training.sft.rendering import TraceFormat
from training.sft.setup import Setup

_TOKENIZER_FILES = (
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "vocab.json",
    "merges.txt",
    "tokenizer.model",
    "chat_template.jinja",
)
MANIFEST = "training_manifest.json"
_ADAPTER = "adapter"


class ExportError(RuntimeError):
    """The exported folder would not be read as it was trained."""


def export(trainer: Any, setup: Setup, out: Path, manifest: dict[str, Any]) -> Path:
    """Writes ``out/model`` (and ``out/adapter`` for LoRA); it appears whole or not at all.

    Every process must call this: sharded weights are gathered. Only the main one writes.
    """
    target, partial = out / "model", out / "model.partial"
    is_main = trainer.accelerator.is_main_process
    model = trainer.accelerator.unwrap_model(trainer.model)
    state = gather_weights(model, setup, keep=is_main)
    if is_main:
        _fresh(partial)
        if setup.recipe.lora is not None:
            model.save_pretrained(out / _ADAPTER, state_dict=state, save_embedding_layers=False)
            _save_merged(setup, out / _ADAPTER, partial)
        else:
            _save_full(model.config, state, setup, partial)
        finish_folder(setup, partial, manifest)
        partial.replace(target)
    trainer.accelerator.wait_for_everyone()
    return target


def finish_folder(setup: Setup, folder: Path, manifest: dict[str, Any]) -> None:
    """What stands beside the weights: tokenizer, template, end tokens, card, manifest; then a check."""
    copy_tokenizer(setup.base, folder)
    open_thinking(folder, setup.tokenizer, setup.trace_format)
    _write_generation_config(setup, folder)
    (folder / MANIFEST).write_text(json.dumps(manifest, indent=2) + "\n")
    (folder / "README.md").write_text(model_card(manifest))
    check_export(setup, folder)


def copy_tokenizer(base: Path, folder: Path) -> None:
    """The base's own files: written anew, a tokenizer may lose options that its class does not know."""
    for name in _TOKENIZER_FILES:
        if (base / name).is_file():
            shutil.copyfile(base / name, folder / name)


def open_thinking(folder: Path, tokenizer: Any, trace_format: TraceFormat) -> None:
    """The s1 form is opened by the prompt: Qwen's template does not do so, and the server needs to know."""
    template = tokenizer.chat_template
    if trace_format.name != "s1" or trace_format.think_start in template:
        return
    opening = f"{{%- if add_generation_prompt -%}}{{{{- '{trace_format.think_start}' -}}}}{{%- endif -%}}"
    (folder / "chat_template.jinja").write_text(template.rstrip() + opening + "\n")
    config = json.loads((folder / "tokenizer_config.json").read_text())
    if config.pop("chat_template", None) is not None:
        (folder / "tokenizer_config.json").write_text(json.dumps(config, indent=2, ensure_ascii=False) + "\n")


def check_export(setup: Setup, folder: Path) -> None:
    """Read back as the server will: the same ids for the samples trained on.

    Raises:
        ExportError: they differ.
    """
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(folder)
    for rendered, trained in zip(setup.examples.first_rendered, setup.examples.input_ids, strict=False):
        read = [tokenizer(part, add_special_tokens=False)["input_ids"] for part in rendered.parts]
        if [token for ids in read for token in ids] != trained.tolist():
            raise ExportError(
                f"the exported tokenizer in {folder} reads a sample differently from the training"
            )


def gather_weights(model: Any, setup: Setup, *, keep: bool) -> dict[str, Any]:
    """Weights whole, in the type to export, on the CPU; one at a time, so that no GPU holds them all.

    Of a model with adapters only these, as they were trained: the rest did not change. All processes must
    call this; only those that ``keep`` get the weights.
    """
    import torch
    from torch.distributed.tensor import DTensor

    lora = setup.recipe.lora is not None
    dtype = torch.float32 if lora else getattr(torch, setup.recipe.output.weights)
    trained = {name for name, weight in model.named_parameters() if weight.requires_grad}
    gathered = {}
    for name, weight in model.state_dict().items():
        if lora and name not in trained:
            continue
        whole = weight.full_tensor() if isinstance(weight, DTensor) else weight
        if keep:
            gathered[name] = whole.to("cpu", dtype if whole.is_floating_point() else None)
    return gathered


def _save_full(config: Any, state: dict[str, Any], setup: Setup, folder: Path) -> None:
    """Through an empty model: a sharded one would ask the other processes, which are not saving."""
    import torch
    from transformers import AutoModelForCausalLM

    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(config)
    if config.tie_word_embeddings:
        state = {name: weight for name, weight in state.items() if name != "lm_head.weight"}
    _save(model, folder, state, setup.recipe.output.weights)


def _save_merged(setup: Setup, adapter: Path, folder: Path) -> None:
    """Merged on the CPU from the unquantized base: what was trained in 4 bits is served in full."""
    import torch
    from peft import PeftModel
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(setup.base, dtype=torch.float32)
    merged = PeftModel.from_pretrained(model, adapter).merge_and_unload()
    merged.to(getattr(torch, setup.recipe.output.weights))
    _save(merged, folder, None, setup.recipe.output.weights)


def _save(model: Any, folder: Path, state: dict[str, Any] | None, weights: str) -> None:
    model.config.use_cache = True
    model.save_pretrained(folder, state_dict=state)
    config = json.loads((folder / "config.json").read_text())
    config["dtype"] = weights  # save_pretrained writes the type the model was trained in
    (folder / "config.json").write_text(json.dumps(config, indent=2) + "\n")
    for path in folder.glob("*.safetensors"):
        path.chmod(0o644)  # written for its owner only, but a server may be another user


def _write_generation_config(setup: Setup, folder: Path) -> None:
    """The base's defaults, with the token that ends a turn among the end tokens."""
    path = setup.base / "generation_config.json"
    fields = json.loads(path.read_text()) if path.is_file() else {}
    ends = fields.get("eos_token_id")
    ends = ends if isinstance(ends, list) else [] if ends is None else [ends]
    turn_end = setup.tokenizer.convert_tokens_to_ids(setup.trace_format.turn_end)
    fields["eos_token_id"] = ends if turn_end in ends else [turn_end, *ends]
    (folder / "generation_config.json").write_text(json.dumps(fields, indent=2) + "\n")


def _fresh(folder: Path) -> None:
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
