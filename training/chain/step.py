"""One stage of a run: it is done once, says what it was made from, and is made again only on request."""

from __future__ import annotations

import contextlib
import json
import resource
import shutil
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from training.files import sha256, write_json
from training.terminal import Terminal
from training.train import TrainError, TrainStopped
from training.versions import versions

STEP_MANIFEST = "stage.json"
_BEGUN = ".begun.json"
"""After the folder's name: beside it, because commands want a folder that is empty or their own."""
_PACKAGES = ("s1-server", "torch", "transformers", "tokenizers", "trl")
_TORCH_WRITERS = ("PytorchStreamWriter", "inline_container")
"""How torch.save speaks of a disk that is full: as a RuntimeError without an errno."""


@dataclass(frozen=True, slots=True)
class Step:
    """``make`` writes into the folder it is given and returns what the manifest should say of it."""

    name: str
    settings: Mapping[str, Any]
    inputs: tuple[Path, ...]
    """Files whose bytes decide the result."""
    make: Callable[[Path], Mapping[str, Any]]
    resumes: bool = False
    """Whether ``make`` goes on with what an interrupted run with the same identity left; else it finds its
    folder empty."""
    outputs: tuple[str, ...] = ("*",)
    """Patterns of the files that make up the result, under the folder."""

    def identity(self) -> dict[str, Any]:
        settings: Any = json.loads(json.dumps(dict(self.settings)))
        return {
            "stage": self.name,
            "settings": settings,
            "inputs": {path.name: sha256(path) for path in self.inputs},
            "versions": versions(_PACKAGES, absent="not installed"),
        }


@dataclass(frozen=True, slots=True)
class Run:
    """``out`` holds a folder per stage. ``overwrite`` makes anew what was made from something else."""

    out: Path
    overwrite: bool
    terminal: Terminal
    done: list[str] = field(default_factory=list)
    """Names of the steps that this run made or found, in order."""

    def folder(self, name: str) -> Path:
        return self.out / name

    def do(self, step: Step) -> dict[str, Any]:
        """The step's manifest, after it is made or found finished.

        Raises:
            TrainError: the folder holds the result, or the beginning, of other inputs or settings, or was
                changed since.
            TrainStopped: it can't be written; the same run goes on with this step.
        """
        self.done.append(step.name)
        folder, identity = self.folder(step.name), step.identity()
        manifest = self._finished(folder, identity)
        if manifest is not None:
            self.terminal.errors.print(f"{step.name}: done already", highlight=False)
            return manifest
        goes_on = step.resumes and self._was_begun(folder, identity)
        self.terminal.errors.print(f"[bold]{step.name}[/bold]", highlight=False)
        with disk_errors(f"{step.name}: can't write to {folder}"):
            if not goes_on:
                _clear(folder)
            if step.resumes and not goes_on:
                write_json(_begun_file(folder), identity)
            began, cpu_began = time.monotonic(), cpu_seconds()
            notes = step.make(folder)
            manifest = {
                **identity,
                "notes": dict(notes),
                "seconds": {
                    "wall": round(time.monotonic() - began, 1),
                    "cpu": round(cpu_seconds() - cpu_began, 1),
                },
                "outputs": {
                    str(path.relative_to(folder)): sha256(path)
                    for pattern in step.outputs
                    for path in sorted(folder.glob(pattern))
                    if path.is_file()
                },
            }
            write_json(folder / STEP_MANIFEST, manifest)
        return manifest

    def _finished(self, folder: Path, identity: Mapping[str, Any]) -> dict[str, Any] | None:
        path = folder / STEP_MANIFEST
        if not path.is_file():
            return None
        manifest = read_json(path)
        changed = _changed(manifest, identity)
        if changed is None:
            changed = _damaged(folder, manifest["outputs"])
        if changed is None:
            return manifest
        if self.overwrite:
            return None
        raise TrainError(f"{folder} holds another result ({changed}); pass another --out, or --overwrite")

    def _was_begun(self, folder: Path, identity: Mapping[str, Any]) -> bool:
        """Whether the folder holds what an interrupted run of this very step left."""
        if (folder / STEP_MANIFEST).is_file() or not folder.is_dir() or not any(folder.iterdir()):
            return False
        path = _begun_file(folder)
        changed = _changed(read_json(path), identity) if path.is_file() else f"no {path.name} says from what"
        if changed is None or self.overwrite:
            return changed is None
        raise TrainError(f"{folder} holds another beginning ({changed}); pass another --out, or --overwrite")


def _begun_file(folder: Path) -> Path:
    """What the beginning in the folder is of."""
    return folder.with_name(folder.name + _BEGUN)


def _clear(folder: Path) -> None:
    # In this order: what is left if it is killed here must not pass for a beginning.
    _begun_file(folder).unlink(missing_ok=True)
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True, exist_ok=True)


def read_json(path: Path) -> dict[str, Any]:
    """Raises TrainError: the file is not a manifest."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (UnicodeDecodeError, json.JSONDecodeError) as error:
        raise TrainError(f"{path} is not a manifest: {error}; remove it to make this stage again") from error
    if not isinstance(content, dict):
        raise TrainError(f"{path} is not a manifest; remove it to make this stage again")
    return content


def cpu_seconds() -> float:
    """Of this process and of those it started and that ended."""
    total = 0.0
    for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN):
        usage = resource.getrusage(who)
        total += usage.ru_utime + usage.ru_stime
    return total


@contextlib.contextmanager
def disk_errors(what: str) -> Iterator[None]:
    """A disk that is full, in the words of whoever met it, becomes one line.

    Raises:
        TrainStopped: from OSError, and from what safetensors and torch raise in its place.
    """
    from safetensors import SafetensorError

    try:
        yield
    except OSError as error:
        raise TrainStopped(f"{what}: {error.strerror or error}") from error
    except SafetensorError as error:
        raise TrainStopped(f"{what}: {error}") from error
    except RuntimeError as error:
        if any(name in str(error) for name in _TORCH_WRITERS):
            raise TrainStopped(f"{what}: {error}") from error
        raise


def _changed(manifest: Mapping[str, Any], identity: Mapping[str, Any]) -> str | None:
    """The first thing in which a finished or begun stage differs from the one that is asked for."""
    for part in ("settings", "inputs", "versions"):
        before, now = manifest.get(part, {}), identity[part]
        for name in sorted(before.keys() | now.keys()):
            if before.get(name) != now.get(name):
                if part == "inputs":
                    return f"made from another {name}"
                return _difference(name, before.get(name), now.get(name))
    return None


def _difference(name: str, before: Any, now: Any) -> str:
    """Of two values that differ; of sections the first field that does."""
    if isinstance(before, dict) and isinstance(now, dict):
        absent, keys = object(), before.keys() | now.keys()
        field = min(key for key in keys if before.get(key, absent) != now.get(key, absent))
        return _difference(f"{name}.{field}", before.get(field), now.get(field))
    return f"{name} was {before!r}, now {now!r}"


def _damaged(folder: Path, outputs: Mapping[str, str]) -> str | None:
    for name, digest in outputs.items():
        file = folder / name
        if not file.is_file() or sha256(file) != digest:
            return f"{name} is not what its manifest says"
    return None
