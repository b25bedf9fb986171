"""A run's folder: the names of its files, and whether a run may go on in it or write over it."""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping, Sequence, Set
from pathlib import Path
from typing import Any

from training.curate.errors import CurationError
from training.endpoints.cache import CallCache
from training.endpoints.client import Endpoint

CALLS_FILE = "calls.jsonl"
RUN_FILE = "run.json"
REPORT_FILE = "report.html"
SUMMARY_FILE = "summary.json"
FIGURES = "figures"


def require_same_settings(settings: Mapping[str, Any], out: Path, *, overwrite: bool) -> None:
    """`settings` are those of a run.json. A grader may be added: it changes no sample that is decided.

    Raises:
        CurationError: the folder holds the results of other settings, and `overwrite` is not given.
    """
    difference = _difference(_finished(out), settings)
    if difference is not None and not overwrite:
        raise CurationError(
            f"{out} holds another run ({difference}); pass another --out, or --overwrite to replace its "
            "results (its replies are kept)"
        )


def require_same_server(cache: CallCache, endpoint: Endpoint, out: Path, *, moved: bool) -> None:
    """A reply is found by what was asked, not where: another checkpoint of the same name would inherit it.

    Raises:
        CurationError: replies or results of this model come from another URL, or of another checkpoint as far
            as the server says which it has, and `moved` is not given.
    """
    if moved:
        return
    finished = _finished(out)
    if finished.get("model") != endpoint.model:
        finished = {}
    origins, model = cache.origins(endpoint.model), endpoint.model
    urls = {origin.url.rstrip("/") for origin in origins if origin.url}
    if others := _others(urls, finished.get("url", "").rstrip("/"), endpoint.url.rstrip("/")):
        raise CurationError(
            f"{out} holds replies of {model} from {others}, and --url is {endpoint.url}: pass another --out "
            "to measure another server, or --moved if the same model answers there"
        )
    checkpoints = {origin.checkpoint for origin in origins if origin.checkpoint}
    now = endpoint.checkpoint
    if now and (others := _others(checkpoints, finished.get("checkpoint"), now)):
        raise CurationError(
            f"{out} holds replies of {model} of checkpoint {others}, and {endpoint.url} serves checkpoint "
            f"{now}: pass another --out to measure it, or --moved if it is a copy of the same model"
        )


def _others(kept: Set[str], finished: str | None, now: str) -> str:
    """What replies and results are of but for `now`; nothing where a run was finished with `now`, since all
    that came before was then said to be of the same model."""
    if finished == now:
        return ""
    return ", ".join(sorted({*kept, *([finished] if finished else [])} - {now}))


def remove_other_report(settings: Mapping[str, Any], out: Path) -> None:
    """What `report` drew of other settings, once their results are replaced."""
    if _difference(_finished(out), settings) is None:
        return
    for name in (REPORT_FILE, SUMMARY_FILE):
        (out / name).unlink(missing_ok=True)
    shutil.rmtree(out / FIGURES, ignore_errors=True)


def _finished(out: Path) -> Mapping[str, Any]:
    """The run.json; empty where no run is finished."""
    file = out / RUN_FILE
    facts: Mapping[str, Any] = json.loads(file.read_text(encoding="utf-8")) if file.is_file() else {}
    return facts


def _difference(before: Mapping[str, Any], now: Mapping[str, Any]) -> str | None:
    """The first part in which a finished run differs from the one that is asked for."""
    if not before:
        return None
    for name in ("model", "samples"):
        if before[name] != now[name]:
            return f"{name} was {before[name]!r}, now {now[name]!r}"
    for what in ("benchmarks", "series"):
        names = [[one["name"] for one in part[what]] for part in (before, now)]
        if names[0] != names[1]:
            return f"{what} were {', '.join(names[0])}, now {', '.join(names[1])}"
    for was, is_now in zip(before["benchmarks"], now["benchmarks"], strict=True):
        for name in ("num_questions", "max_tokens", "fingerprint"):
            if was[name] != is_now[name]:
                return f"{name} of {was['name']} was {was[name]!r}, now {is_now[name]!r}"
    for was, is_now in zip(before["series"], now["series"], strict=True):
        if was["limit"] != is_now["limit"]:
            return f"limit of series {was['name']!r} was {was['limit']}, now {is_now['limit']}"
        if (points := _points(was)) != _points(is_now):
            other = next((key for key in points if key not in _points(is_now)), "in another order")
            return f"of other settings in series {was['name']!r}: {other}"
    return None


def _points(series: Mapping[str, Any]) -> Sequence[str]:
    return [point["key"] for point in series["points"]]
