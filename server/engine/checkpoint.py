"""Which weights an engine has loaded: a retrained checkpoint is not the one that had its name before."""

from __future__ import annotations

import hashlib
from pathlib import Path

from huggingface_hub import try_to_load_from_cache
from huggingface_hub.errors import HFValidationError

_FILES = ("*.safetensors", "config.json", "tokenizer*")
_SNAPSHOTS = "snapshots"


def checkpoint_of(model: str, revision: str | None) -> str | None:
    """The commit of a model of the hub; of a folder, a digest of its files' names, sizes and times.

    Weights are not read: a copy of a folder that doesn't keep its times counts as another checkpoint.

    Args:
        model: as vLLM takes it, a folder or a name on the hub.

    Returns:
        None where neither is found.
    """
    folder = Path(model)
    if folder.is_dir():
        # Offline, vLLM puts the cached snapshot's folder in place of the name.
        return folder.name if folder.parent.name == _SNAPSHOTS else _digest(folder)
    try:
        cached = try_to_load_from_cache(model, "config.json", revision=revision)
    except HFValidationError:
        # vLLM takes other names, too: `s3://…`.
        return None
    return Path(cached).parent.name if isinstance(cached, str) else None


def _digest(folder: Path) -> str | None:
    found = sorted({file for pattern in _FILES for file in folder.glob(pattern)})
    facts = [f"{file.name}\t{file.stat().st_size}\t{file.stat().st_mtime_ns}\n" for file in found]
    return hashlib.sha256("".join(facts).encode()).hexdigest() if facts else None
