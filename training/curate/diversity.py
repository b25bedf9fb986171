"""Diversity: candidates with domains and lengths become the chosen set."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from training.curate.errors import CurationError
from training.curate.files import questions_file, read_questions
from training.curate.lengths import LengthOf, lengths
from training.curate.schema import Drop, Question, drop
from training.curate.selection import Candidate, Preference, Selector, benchmark_weights, select
from training.curate.stage import Outcome

STAGE = "diversity"
_BY_DOMAIN = ("s1", "s1-notebook", "diverse")
_BY_LENGTH = ("s1", "s1-notebook", "longest")


@dataclass(frozen=True, slots=True)
class DiversityOptions:
    selector: Selector
    size: int
    seed: int
    length_of: LengthOf
    preference: Preference = field(default_factory=Preference)
    uniform_share: float = 0.7
    benchmarks: tuple[Path, ...] = ()


def settings_of(options: DiversityOptions) -> dict[str, Any]:
    """What decides the choice. The benchmarks' contents are inputs."""
    return {
        "select": options.selector,
        "size": None if options.selector == "full" else options.size,
        "seed": options.seed,
        "length": options.length_of,
        "prefer": dict(sorted(options.preference.longer_than_tokens.items())),
        "uniform_share": options.uniform_share,
        "num_benchmarks": len(options.benchmarks),
    }


def diversity(
    questions: Sequence[Question],
    labelling_drops: Sequence[Drop],
    options: DiversityOptions,
    label_calls: Mapping[str, int],
) -> Outcome:
    """`questions` are labelled; `random`, `longest` and `full` do without labels.

    Raises:
        CurationError: the selector needs labels, lengths or questions that are not there.
    """
    if options.selector in _BY_DOMAIN and not all(question.domain for question in questions):
        raise CurationError(
            f"--select {options.selector} needs domains: pass --label field, clusters or model"
        )
    if options.benchmarks and options.selector != "s1-notebook":
        raise CurationError(
            f"--benchmark goes with --select s1-notebook only. Given: --select {options.selector}"
        )
    # What a selector does not look at need not be there.
    uses_length = options.selector in _BY_LENGTH
    sizes = lengths(questions, options.length_of) if uses_length else [0] * len(questions)
    candidates = [
        Candidate(q.id, q.source, q.domain or "", size, q.trace_correct is True)
        for q, size in zip(questions, sizes, strict=True)
    ]
    selection = select(
        candidates,
        options.selector,
        options.size,
        options.seed,
        preference=options.preference,
        uniform_share=options.uniform_share,
        benchmark_weights=_weights(options.benchmarks) if options.selector == "s1-notebook" else None,
    )
    kept = [question for question in questions if question.id in selection.ids]
    drops = [
        *labelling_drops,
        *(drop(q, STAGE, "not_selected", q.domain or "") for q in questions if q.id not in selection.ids),
    ]
    domains = Counter(question.domain or "" for question in kept)
    notes = {"taken": selection.counts, "kept_by_domain": dict(sorted(domains.items()))}
    notes |= {"calls": dict(label_calls)} if label_calls else {}
    return Outcome(len(questions) + len(labelling_drops), kept, drops, notes)


def _weights(paths: Sequence[Path]) -> Mapping[str, float]:
    counts = []
    for path in paths:
        labels = Counter(q.domain for q in read_questions(questions_file(path)) if q.domain)
        if not labels:
            raise CurationError(f"--benchmark {path}: no question has a domain; label it with --select full")
        counts.append(dict(labels))
    return benchmark_weights(counts) if counts else {}


def parse_preference(texts: Sequence[str]) -> Preference:
    """`SOURCE` or `SOURCE:TOKENS`; none at all is the paper's; `none` prefers nothing.

    Raises:
        CurationError: TOKENS is no number.
    """
    if not texts:
        return Preference()
    if list(texts) == ["none"]:
        return Preference({})
    longer: dict[str, int] = {}
    for text in texts:
        source, colon, tokens = text.partition(":")
        if colon and not tokens.isdecimal():
            raise CurationError(f"--prefer takes SOURCE or SOURCE:TOKENS. Given: {text}")
        longer[source] = int(tokens) if colon else -1
    return Preference(longer)
