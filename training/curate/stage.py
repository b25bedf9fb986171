"""A stage's folder: questions, drops and manifest; finished once, never half."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from training.curate.errors import CurationError
from training.curate.files import (
    MANIFEST,
    Format,
    questions_file,
    read_manifest,
    read_questions,
    write_rows,
)
from training.curate.schema import Drop, Question, as_row, drop_columns, question_columns
from training.files import sha256, write_json
from training.versions import versions

_VERSIONED = ("s1-server", "pyarrow", "datasets", "datasketch", "math-verify", "scikit-learn", "py3langid")


@dataclass(frozen=True, slots=True)
class Outcome:
    """What a stage made of its `num_in` questions."""

    num_in: int
    kept: list[Question]
    drops: list[Drop] = field(default_factory=list)
    notes: Mapping[str, Any] = field(default_factory=dict)
    """Further counts for the manifest."""


@dataclass(frozen=True, slots=True)
class Stage:
    """One run of one stage. Two runs are the same if name, settings, format and the inputs' bytes are."""

    name: str
    out: Path
    settings: Mapping[str, Any]
    inputs: tuple[Path, ...]
    format: Format = "parquet"
    overwrite: bool = False

    @property
    def questions_path(self) -> Path:
        return self.out / f"questions.{self.format}"

    def identity(self) -> dict[str, Any]:
        return {
            "stage": self.name,
            "settings": dict(self.settings),
            "inputs": [{"path": str(path), "sha256": sha256(path)} for path in self.inputs],
            "versions": versions(_VERSIONED, absent="not installed"),
        }

    def finished(self) -> dict[str, Any] | None:
        """The manifest, if this very stage is finished already.

        Raises:
            CurationError: the folder holds the result of another stage, of other inputs, settings or format.
        """
        path = self.out / MANIFEST
        if not path.is_file() or self.overwrite:
            return None
        manifest = read_manifest(path)
        difference = _difference(manifest, json.loads(json.dumps(self.identity())))
        # The manifest says its format by the names of its outputs.
        if difference is None and (file := questions_file(self.out)) != self.questions_path:
            difference = f"format was {file.suffix[1:]!r}, now {self.format!r}"
        if difference is not None:
            raise CurationError(
                f"{self.out} holds another result ({difference}); pass another --out, or --overwrite"
            )
        for name, digest in manifest["outputs"].items():
            file = self.out / name
            if not file.is_file() or sha256(file) != digest:
                raise CurationError(
                    f"{file} is not what its manifest says; pass --overwrite to write it anew"
                )
        return manifest

    def publish(self, outcome: Outcome, *, previous: Sequence[Mapping[str, Any]] = ()) -> dict[str, Any]:
        """Write drops, questions and, last, the manifest. `previous` is the funnel so far."""
        (self.out / MANIFEST).unlink(missing_ok=True)
        drops_path = self.out / f"drops.{self.format}"
        write_rows(drops_path, [as_row(drop) for drop in outcome.drops], drop_columns())
        write_rows(self.questions_path, [as_row(kept) for kept in outcome.kept], question_columns())
        step = {
            "stage": self.name,
            "in": outcome.num_in,
            "kept": len(outcome.kept),
            "drops": dict(sorted(Counter(drop.reason for drop in outcome.drops).items())),
        }
        manifest = {
            **self.identity(),
            "counts": {"in": outcome.num_in, "kept": len(outcome.kept), "dropped": len(outcome.drops)},
            "kept_by_source": dict(sorted(Counter(kept.source for kept in outcome.kept).items())),
            "notes": dict(outcome.notes),
            "funnel": [*previous, step],
            "outputs": {path.name: sha256(path) for path in (self.questions_path, drops_path)},
        }
        write_json(self.out / MANIFEST, manifest)
        return manifest


@dataclass(frozen=True, slots=True)
class StageInput:
    """The questions a stage starts from, and the funnel that led to them."""

    path: Path
    questions: list[Question]
    funnel: list[dict[str, Any]]


def read_input(path: Path) -> StageInput:
    """`path` is a folder of a stage, or a .parquet or .jsonl file in the schema of the stages."""
    file = questions_file(path)
    manifest = file.parent / MANIFEST
    funnel = read_manifest(manifest)["funnel"] if manifest.is_file() else []
    return StageInput(file, read_questions(file), funnel)


def _difference(manifest: Mapping[str, Any], identity: Mapping[str, Any]) -> str | None:
    """The first part in which a finished stage differs from the one that is asked for."""
    if manifest["stage"] != identity["stage"]:
        return f"of the stage {manifest['stage']!r}"
    for name, value in identity["settings"].items():
        if manifest.get("settings", {}).get(name) != value:
            return f"{name} was {manifest.get('settings', {}).get(name)!r}, now {value!r}"
    digests = [[entry["sha256"] for entry in part["inputs"]] for part in (manifest, identity)]
    if digests[0] != digests[1]:
        return "of other inputs"
    if manifest.get("versions") != identity["versions"]:
        return "of other versions of the packages"
    return None
