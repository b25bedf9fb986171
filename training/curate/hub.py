"""Rows of data sets: from the Hugging Face hub, or from a folder that holds copies of them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from training.curate.errors import CurationError, StageStopped
from training.curate.files import SUFFIXES, read_rows

Row = Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Split:
    """One split of one configuration of a data set.

    `converted` and `json_files` are for sets whose loading is a script, which `datasets` no longer runs: the
    hub's own conversion to Parquet, or the files behind the script.
    """

    dataset: str
    split: str
    config: str | None = None
    converted: bool = False
    json_files: tuple[str, ...] = ()

    def __str__(self) -> str:
        return "/".join(filter(None, (self.dataset, self.config, self.split)))


class Rows(Protocol):
    def __call__(self, split: Split) -> Iterable[Row]:
        """Raises CurationError or StageStopped: there are no such rows, or they can't be had now."""


def hub_rows(split: Split) -> Iterable[Row]:
    """Through `datasets`, which keeps what it downloaded (HF_HOME) and reads HF_TOKEN for gated sets."""
    import datasets

    try:
        if split.json_files:
            files = [f"hf://datasets/{split.dataset}/{name}" for name in split.json_files]
            return datasets.load_dataset("json", data_files=files, split="train")  # type: ignore[no-any-return]
        if split.converted:
            files = [
                f"hf://datasets/{split.dataset}@refs/convert/parquet/{split.config}/{split.split}/*.parquet"
            ]
            return datasets.load_dataset("parquet", data_files=files, split="train")  # type: ignore[no-any-return]
        return datasets.load_dataset(split.dataset, split.config, split=split.split)  # type: ignore[no-any-return]
    except (OSError, ValueError, RuntimeError, datasets.exceptions.DatasetsError) as error:
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise StageStopped(
            f"{split} can't be loaded from the hub: {reason}. Run again when it can, or keep copies in a "
            "folder and pass --hub-dir"
        ) from error


@dataclass(frozen=True, slots=True)
class LocalHub:
    """Copies: folder/OWNER/NAME/CONFIG/SPLIT.parquet (or .jsonl), without CONFIG where there is none."""

    folder: Path

    def __call__(self, split: Split) -> Iterable[Row]:
        base = self.folder / split.dataset / (split.config or "")
        for suffix in SUFFIXES:
            if (path := base / f"{split.split}{suffix}").is_file():
                return read_rows(path)
        raise CurationError(f"--hub-dir: no {base / split.split}.parquet or .jsonl")
