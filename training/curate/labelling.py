"""Which labels a run of diversity asked for, and getting them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from training.curate.domains import Labeller, by_clusters, by_field, load_codes
from training.curate.errors import CurationError
from training.curate.options import parse_endpoint
from training.curate.progress import Progress
from training.curate.schema import Drop, Question
from training.endpoints.client import Endpoint, Patience
from training.endpoints.wire import Sampling

_SAMPLING = Sampling(max_tokens=8192)


@dataclass(frozen=True, slots=True)
class LabelOptions:
    way: Literal["none", "field", "clusters", "model"]
    field: str
    num_clusters: int
    labeller: str | None
    key_variable: str
    codes: Path | None
    seed: int
    concurrency: int
    patience: Patience

    def endpoint(self) -> Endpoint | None:
        """Raises CurationError: a model is wanted and not named, or named and not wanted."""
        if (self.way == "model") != (self.labeller is not None):
            raise CurationError("--label model and --labeller MODEL@URL go together")
        if self.labeller is None:
            return None
        return parse_endpoint("--labeller", self.labeller, self.key_variable)

    def settings(self) -> dict[str, Any]:
        """What decides the labels."""
        endpoint = self.endpoint()
        by_way: Mapping[str, dict[str, Any]] = {
            "none": {},
            "field": {"field": self.field},
            "clusters": {"clusters": self.num_clusters},
            "model": {"labeller": endpoint.model if endpoint else None},
        }
        return {"label": self.way, **by_way[self.way]}


def label_questions(
    questions: Sequence[Question], options: LabelOptions, cache_path: Path, progress: Progress
) -> tuple[list[Question], list[Drop], dict[str, int]]:
    """Labelled questions, those that got no label, and the calls that were made."""
    if options.way == "none":
        return list(questions), [], {}
    if options.way == "field":
        labelled, drops = by_field(questions, options.field)
        return labelled, drops, {}
    if options.way == "clusters":
        return by_clusters(questions, options.num_clusters, options.seed), [], {}
    endpoint = options.endpoint()
    if endpoint is None:
        raise CurationError("--label model and --labeller MODEL@URL go together")
    labeller = Labeller(endpoint, _SAMPLING, load_codes(options.codes), options.concurrency, options.patience)
    return labeller.label(questions, cache_path, progress)
