"""Everything that can be known, and refused, before weights are loaded: tokenizer, examples, plan."""

import hashlib
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from training.sft.examples import Examples, build_examples
from training.sft.plan import Plan, PlanError, make_plan
from training.sft.recipe import SftRunRecipe, model_path
from training.sft.rendering import IGNORED, TRACE_FORMATS, TraceFormat
from training.sft.rows import DataError, DataFile, Row, describe_file, read_rows
from training.sft.tokenizer import TokenizerError, check_pad_unused, check_same_as_file, load_tokenizer


class BaseModelError(ValueError):
    """The base model can't be found or read."""


SETUP_ERRORS = (DataError, TokenizerError, PlanError, BaseModelError)
"""What :func:`prepare` raises: the user's to mend, each one line."""


@dataclass(frozen=True, slots=True)
class Setup:
    """A run before its first step. ``dataset`` has a row per sample, or per pack of samples."""

    recipe: SftRunRecipe
    base: Path
    trace_format: TraceFormat
    tokenizer: Any
    files: list[DataFile]
    examples: Examples
    dataset: Any
    plan: Plan

    @property
    def data_sha256(self) -> str:
        """Of the token ids and where learning begins, in order: what is trained on, wherever it lay."""
        digest, forced = hashlib.sha256(), self.examples.forced
        firsts = zip(self.examples.input_ids, self.examples.first_learned, strict=True)
        for row, (ids, first) in enumerate(firsts):
            borders = (len(ids), first, *forced.get(row, ()))
            digest.update(f"{' '.join(map(str, borders))} ".encode())
            digest.update(ids.tobytes())
        return digest.hexdigest()


def prepare(recipe: SftRunRecipe, num_processes: int, *, with_weights: bool = True) -> Setup:
    """``with_weights`` False leaves the weights of a hub model where they are.

    Raises:
        DataError, TokenizerError, PlanError, BaseModelError: one line that names what is wrong.
    """
    if not recipe.data.files:
        raise DataError("no data: pass --data FILE (.jsonl or .parquet), or set data.files in the recipe")
    base = resolve_base(recipe, with_weights=with_weights)
    trace_format = TRACE_FORMATS[recipe.data.format]
    tokenizer = load_tokenizer(base, trace_format, recipe.data.pad_token)
    paths = [Path(file) for file in recipe.data.files]
    counts: Counter[str] = Counter()
    examples = build_examples(recipe.data, tokenizer, _counted(read_rows(paths), counts))
    check_same_as_file(tokenizer, base, [part for first in examples.first_rendered for part in first.parts])
    check_pad_unused(tokenizer, examples.input_ids)
    dataset = make_dataset(examples, pack_to=recipe.data.max_length if recipe.data.packing else None)
    return Setup(
        recipe=recipe,
        base=base,
        trace_format=trace_format,
        tokenizer=tokenizer,
        files=[describe_file(path, counts[path.name]) for path in paths],
        examples=examples,
        dataset=dataset,
        plan=make_plan(recipe.optimization, len(dataset), num_processes),
    )


def resolve_base(recipe: SftRunRecipe, *, with_weights: bool) -> Path:
    """The base model's folder; a hub id is downloaded, or found in the cache."""
    name = model_path(recipe)
    if Path(name).is_dir():
        return Path(name)
    if name.startswith((".", "/", "~")) or name.count("/") != 1:
        raise BaseModelError(f"no model folder {name}; give a folder, a hub id OWNER/NAME, or `demo`")
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError

    patterns = ["*.json", "*.jinja", "*.txt", "*.model", *(["*.safetensors"] if with_weights else [])]
    try:
        return Path(snapshot_download(name, revision=recipe.model.revision, allow_patterns=patterns))
    except (HfHubHTTPError, LocalEntryNotFoundError, OSError) as error:
        reason = str(error).strip().splitlines()[0]
        raise BaseModelError(f"model {name} is no folder and can't be downloaded: {reason}") from error


def make_dataset(examples: Examples, *, pack_to: int | None) -> Any:
    """``input_ids`` and ``labels``; packed by best fit decreasing, with the lengths of a pack's samples.

    A pack never holds part of a sample: none is longer than ``pack_to``.
    """
    import numpy as np
    import pyarrow as pa
    from datasets import Dataset
    from datasets.table import InMemoryTable

    offsets = np.cumsum([0, *(len(ids) for ids in examples.input_ids)]).astype(np.int64)
    ids = np.concatenate([np.frombuffer(ids, dtype=np.int32) for ids in examples.input_ids])
    labels = ids.copy()
    for begin, first in zip(offsets, examples.first_learned, strict=False):
        labels[begin : begin + first] = IGNORED
    for row, (begin, end) in examples.forced.items():
        labels[offsets[row] + begin : offsets[row] + end] = IGNORED
    columns = {
        name: pa.LargeListArray.from_arrays(pa.array(offsets), pa.array(values))
        for name, values in (("input_ids", ids), ("labels", labels))
    }
    dataset = Dataset(InMemoryTable.from_pydict(columns))
    return dataset if pack_to is None else _packed(dataset, pack_to)


def _packed(dataset: Any, pack_to: int) -> Any:
    from datasets.utils.logging import disable_progress_bar
    from trl import pack_dataset

    disable_progress_bar()
    return pack_dataset(dataset, pack_to, "bfd")


def _counted(rows: Iterator[Row], counts: Counter[str]) -> Iterator[Row]:
    for row in rows:
        counts[row.file] += 1
        yield row
