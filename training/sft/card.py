"""The model card: what the manifest holds, as sentences and tables; nothing that was not recorded."""

import json
from typing import Any


def model_card(manifest: dict[str, Any]) -> str:
    recipe = manifest["recipe"]
    return "\n".join(
        (
            "---",
            "library_name: transformers",
            *([f"base_model: {manifest['base']['model']}"] if "/" in manifest["base"]["model"] else []),
            "tags: [budget-forcing, test-time-scaling, sft]",
            "---",
            "",
            f"# {recipe['name']}",
            "",
            f"Fine-tuned from `{manifest['base']['model']}`{_revision(manifest)} on reasoning traces",
            f"by `s1 sft` with recipe `{recipe['name']}` and seed {manifest['seed']}.",
            f"It writes its thinking in the form of the `{manifest['format']}` family.",
            "This command has not evaluated it; its licence is that of the base model and of the data.",
            "",
            "## Data",
            "",
            *_data(manifest["data"], recipe["data"]),
            "",
            "## Training",
            "",
            *_table(_training_rows(manifest)),
            "",
            "## Versions",
            "",
            *_table(list(manifest["versions"].items())),
            "",
            "The same facts, and the whole recipe, stand in `training_manifest.json`.",
            "",
        )
    )


def _revision(manifest: dict[str, Any]) -> str:
    revision = manifest["base"]["revision"]
    return f" (revision `{revision}`)" if revision else ""


def _data(data: dict[str, Any], recipe: dict[str, Any]) -> list[str]:
    lines = ["| file | rows | SHA-256 |", "| --- | --- | --- |"]
    lines += [f"| `{file['name']}` | {file['rows']:,} | `{file['sha256']}` |" for file in data["files"]]
    lines += [
        "",
        f"{data['samples']:,} samples trained on, {data['dropped']:,} rows dropped;",
        f"{data['tokens']:,} tokens, of which {data['learned_tokens']:,} carry loss:",
        "from the think marker to the end of the turn.",
        "No sample was cut.",
    ]
    if recipe["packing"]:
        lines.append(f"Packed into {data['rows_after_packing']:,} rows without attention between samples.")
    if recipe["control"] != "none":
        lines.append(f"Prompts and traces were conditioned on length: `{recipe['control']}`.")
    return lines


def _training_rows(manifest: dict[str, Any]) -> list[tuple[str, Any]]:
    recipe, plan, machine = manifest["recipe"], manifest["plan"], manifest["machine"]
    optimization, run = recipe["optimization"], manifest["training"]
    lora = recipe["lora"]
    resumed = run["resumed_from_steps"]
    rows = [
        ("epochs, steps", f"{optimization['epochs']}, {plan['total_steps']}"),
        (
            "effective batch",
            f"{plan['effective_batch_size']} = {plan['num_processes']} processes x "
            f"{plan['micro_batch_size']} x {plan['accumulation_steps']} accumulated",
        ),
        (
            "learning rate",
            f"{optimization['learning_rate']}, {optimization['schedule']}, "
            f"{plan['warmup_steps']} warm-up steps",
        ),
        (
            "AdamW",
            f"betas {optimization['beta1']}, {optimization['beta2']}; epsilon {optimization['epsilon']}; "
            f"weight decay {optimization['weight_decay']}; "
            f"gradient norm at most {optimization['max_grad_norm']}",
        ),
        ("loss averaged over", f"{optimization['loss_average']}s"),
        ("longest sample allowed", f"{recipe['data']['max_length']:,} tokens"),
        ("trained weights", f"LoRA {json.dumps(lora)}" if lora else "all"),
        ("precision", f"{machine['precision']}, weights kept in {recipe['model']['weights']}"),
        ("sharding, attention", f"{recipe['sharding']}, {recipe['model']['attention']}"),
        ("hardware", f"{machine['num_processes']} x {machine['gpu'] or machine['architecture'] + ' CPU'}"),
        ("loss, first and last steps", f"{run['first_loss']}, {run['last_loss']}"),
        ("interrupted and resumed at steps", ", ".join(map(str, resumed)) if resumed else "never"),
    ]
    return rows


def _table(rows: list[tuple[str, Any]]) -> list[str]:
    return ["| | |", "| --- | --- |", *(f"| {name} | {value} |" for name, value in rows)]
