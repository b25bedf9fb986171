"""Options that several commands share, and how their texts become endpoints."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

import typer

from training.curate.errors import CurationError
from training.endpoints.client import Endpoint
from training.endpoints.wire import WIRES

_VARIABLE = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")

Input = Annotated[Path, typer.Argument(help="A stage's folder, or a .parquet or .jsonl file of its schema.")]
Out = Annotated[
    Path, typer.Option("--out", file_okay=False, help="Folder for questions, drops and manifest.")
]
FileFormat = Annotated[Literal["parquet", "jsonl"], typer.Option("--format", help="Of what is written.")]
Overwrite = Annotated[bool, typer.Option("--overwrite", help="Replace another result in --out.")]
Seed = Annotated[int, typer.Option(min=0, help="All chance follows from it.")]
Concurrency = Annotated[int, typer.Option(min=1, help="Requests in flight.")]
MaxTokens = Annotated[int, typer.Option(min=1, help="Thinking and answer together.")]
Temperature = Annotated[float | None, typer.Option(min=0, help="The API's own if absent.")]
Extra = Annotated[str | None, typer.Option(help="JSON object, merged into every request's body.")]
RetryFor = Annotated[float, typer.Option(min=0, help="Seconds to ask a failing endpoint again.")]
ReplyTimeout = Annotated[float, typer.Option(min=1, help="Seconds that one reply may take.")]
GraderName = Annotated[
    str | None, typer.Option("--grader", help="MODEL@URL of a grader, for answers no program can check.")
]
GraderKey = Annotated[str, typer.Option(help="Environment variable with the grader's API key.")]
Ngram = Annotated[int, typer.Option(min=1, help="Words in a row that a benchmark may not share.")]
HubDir = Annotated[
    Path | None,
    typer.Option(
        exists=True, file_okay=False, help="Copies of the hub's sets: OWNER/NAME/CONFIG/SPLIT.parquet."
    ),
]


def parse_endpoint(option: str, text: str, key_variable: str, *, api: str = "openai") -> Endpoint:
    """`MODEL@URL`; the key, if any, from the environment.

    Raises:
        CurationError: the text has another form, or there is no such API.
    """
    model, at, url = text.rpartition("@")
    if not at or not model or not url.startswith(("http://", "https://")):
        raise CurationError(f"{option} takes MODEL@URL, such as qwen@http://127.0.0.1:8000/v1. Given: {text}")
    if api not in WIRES:
        raise CurationError(f"--api must be one of {', '.join(WIRES)}. Given: {api}")
    return Endpoint(model, url, api, key_in(key_variable))


def key_in(variable: str) -> str | None:
    """The API key that an environment variable holds, if any.

    Raises:
        CurationError: this is no variable's name, perhaps the key itself.
    """
    if not _VARIABLE.fullmatch(variable):
        raise CurationError("an option takes the name of the environment variable with the key, not the key")
    return os.environ.get(variable) or None


def parse_extra(text: str | None) -> Mapping[str, Any]:
    """Raises CurationError: the text is not a JSON object."""
    if text is None:
        return {}
    try:
        extra = json.loads(text)
    except json.JSONDecodeError as error:
        raise CurationError(f"--extra is not JSON: {error}") from error
    if not isinstance(extra, dict):
        raise CurationError(f"--extra must be a JSON object. Given: {text}")
    return extra
