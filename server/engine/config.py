"""What the launcher tells the processes of one engine, through environment variables, read here alone.

`S1_ENGINE_RUN_DIR`: a directory on the engine's machine for the receipts' sockets and `engine.json`.
`S1_ENGINE_FAMILY`: the family's name and marker texts as JSON; absent: found from the tokenizer.
`S1_ENGINE_REPLICAS`: data-parallel replicas on this machine, each with a receipt socket of its own.
"""

from __future__ import annotations

import json
import os
from dataclasses import asdict
from pathlib import Path

from server.budget.markers import Family, FamilyError, MarkerIds, Tokenizer, detect_family, marker_ids

RUN_DIR_VARIABLE = "S1_ENGINE_RUN_DIR"
FAMILY_VARIABLE = "S1_ENGINE_FAMILY"
REPLICAS_VARIABLE = "S1_ENGINE_REPLICAS"


def run_dir() -> Path | None:
    """Where receipts go, or None if nobody reads them (the plugin loaded without our launcher)."""
    value = os.environ.get(RUN_DIR_VARIABLE)
    return Path(value) if value else None


def replicas() -> int:
    return int(os.environ.get(REPLICAS_VARIABLE, "1"))


def environment(*, run_dir: Path, family: Family | None, replicas: int) -> dict[str, str]:
    """The variables of an engine's processes; without `family` they find it by themselves."""
    variables = {RUN_DIR_VARIABLE: str(run_dir), REPLICAS_VARIABLE: str(replicas)}
    return variables if family is None else {**variables, FAMILY_VARIABLE: json.dumps(asdict(family))}


def family_for(*, model: str, tokenizer: Tokenizer) -> Family:
    """The launcher's family, else the one that tokenizer and template show.

    Raises:
        FamilyError: the variable is malformed, or no family can be found.
    """
    value = os.environ.get(FAMILY_VARIABLE)
    if not value:
        template = getattr(tokenizer, "chat_template", None)
        return detect_family(
            model=model,
            chat_template=template if isinstance(template, str) else None,
            vocabulary=tokenizer.get_vocab(),
        )
    try:
        return Family(**json.loads(value))
    except (TypeError, ValueError) as error:
        raise FamilyError(f"{FAMILY_VARIABLE} must be a family as JSON. Given: {value!r}") from error


def engine_marker_ids(*, model: str, tokenizer: Tokenizer, vocab_size: int, eos: list[int]) -> MarkerIds:
    return marker_ids(
        family_for(model=model, tokenizer=tokenizer), tokenizer, vocab_size=vocab_size, eos_token_ids=eos
    )
