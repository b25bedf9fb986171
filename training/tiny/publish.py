"""The finished checkpoint: the fine-tuned model's folder with a card and a manifest of the whole run."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from string import Template
from typing import Any

from training.chain.step import STEP_MANIFEST, Run, read_json
from training.evaluate.demo_curve.report import CARD_BEGIN, CARD_END
from training.files import write_text
from training.tiny.recipe import Recipe

_CARD = Path(__file__).with_name("model_card.md")
_MANIFEST = "training_manifest.json"
_UNMEASURED = f"{CARD_BEGIN}\nNot measured yet.\n{CARD_END}\n"


def empty_curve(path: Path) -> None:
    """A file that `report.update_card` fills."""
    write_text(path, _UNMEASURED)


def publish(run: Run, recipe: Recipe, model: Path, *, evaluated: bool) -> None:
    """``out/model``, whole or not at all."""
    target, partial = run.folder("model"), run.folder("model.partial")
    shutil.rmtree(partial, ignore_errors=True)
    shutil.copytree(model, partial)
    manifest = run_manifest(run, recipe)
    curve = (run.folder("evaluate") / "curve.md").read_text() if evaluated else _UNMEASURED
    write_text(partial / _MANIFEST, json.dumps(manifest, indent=2) + "\n")
    write_text(partial / "README.md", _card(manifest, curve))
    shutil.rmtree(target, ignore_errors=True)
    partial.replace(target)


def run_manifest(run: Run, recipe: Recipe) -> dict[str, Any]:
    """Recipe, versions, and by stage what came out and how long it took."""
    manifests = {name: read_json(run.folder(name) / STEP_MANIFEST) for name in run.done}
    return {
        "recipe": recipe.model_dump(),
        "seed": recipe.seed,
        "versions": manifests["base"]["versions"],
        "stages": {
            name: {"notes": stage["notes"], "seconds": stage["seconds"]} for name, stage in manifests.items()
        },
    }


def _card(manifest: dict[str, Any], curve: str) -> str:
    recipe, stages = manifest["recipe"], manifest["stages"]
    base = stages["base"]["notes"]
    left = {name: stage["notes"]["funnel"]["kept"] for name, stage in stages.items() if "/" in name}
    cpu_minutes = sum(stage["seconds"]["cpu"] for stage in stages.values()) / 60
    return Template(_CARD.read_text()).substitute(
        recipe=recipe["name"],
        seed=manifest["seed"],
        parameters=f"{base['parameters']:,}",
        curve=curve.strip(),
        base_steps=f"{base['steps']:,}",
        base_documents=f"{base['documents']:,}",
        base_tokens=f"{base['tokens'] / 1e6:.1f}",
        pool=f"{stages['pool']['notes']['traces']:,}",
        after_quality=f"{left['curate/decontaminate']:,}",
        difficulty=_difficulty(recipe, left),
        selected=f"{left['curate/diversity']:,}",
        draws=recipe["samples"]["draws"],
        cut_share=f"{100 * recipe['samples']['cut_share']:.0f}",
        sft_steps=stages["sft"]["notes"]["plan"]["total_steps"],
        minutes=f"{cpu_minutes:.0f}",
    )


def _difficulty(recipe: dict[str, Any], left: dict[str, int]) -> str:
    if "curate/difficulty" not in left:
        return ""
    few = recipe["curate"]["solver"]["num_examples"]
    return (
        f"difficulty (what the base, fine-tuned on {few} random traces, does not solve) leaves "
        f"{left['curate/difficulty']:,}, "
    )
