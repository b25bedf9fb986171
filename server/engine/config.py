"""What the launcher tells the processes of one engine, through environment variables, read here alone.

`S1_ENGINE_RUN_DIR`: a directory on the engine's machine for the receipts' sockets and `engine.json`.
`S1_ENGINE_FAMILY`: what was said of the model's markers (`FamilyOptions`) as JSON; absent: nothing.
`S1_ENGINE_RECEIPTS`: for an engine over several machines, `tcp://HOST:PORT` of the one with the API server:
the last pipeline stage, wherever it runs, sends its receipts and the engine's description there.
`S1_ENGINE_REPLICAS`: data-parallel replicas on this machine, each with a receipt socket of its own.
"""

from __future__ import annotations

import json
import os
from pathlib import Path

from server.budget.families import Family, FamilyError, FamilyOptions, detect_family
from server.budget.markers import MarkerIds, Tokenizer, marker_ids

RUN_DIR_VARIABLE = "S1_ENGINE_RUN_DIR"
FAMILY_VARIABLE = "S1_ENGINE_FAMILY"
REPLICAS_VARIABLE = "S1_ENGINE_REPLICAS"
RECEIPTS_VARIABLE = "S1_ENGINE_RECEIPTS"
_REFUSAL_FILE = "refusal.txt"


def run_dir() -> Path | None:
    """Where receipts go, or None if nobody reads them (the plugin loaded without our launcher)."""
    value = os.environ.get(RUN_DIR_VARIABLE)
    return Path(value) if value else None


def receipts_address() -> str | None:
    """Where receipts go over the network; None: they stay on this machine, in the run directory."""
    return os.environ.get(RECEIPTS_VARIABLE) or None


def replicas() -> int:
    return int(os.environ.get(REPLICAS_VARIABLE, "1"))


def environment(*, run_dir: Path, family: FamilyOptions, replicas: int) -> dict[str, str]:
    """The variables of an engine's processes; what `family` leaves open they find by themselves."""
    variables = {RUN_DIR_VARIABLE: str(run_dir), REPLICAS_VARIABLE: str(replicas)}
    return {**variables, FAMILY_VARIABLE: json.dumps(family.given)} if family.given else variables


def family_for(*, model: str, tokenizer: Tokenizer) -> Family:
    """The family that the launcher names or describes; what it leaves open, tokenizer and template show.

    Raises:
        FamilyError: the variable is malformed, or no family can be found.
    """

    def detect() -> Family:
        return detect_family(
            model=model, chat_template=_chat_template(tokenizer), vocabulary=tokenizer.get_vocab()
        )

    return _family_options().resolve(detect)


def _family_options() -> FamilyOptions:
    value = os.environ.get(FAMILY_VARIABLE)
    try:
        return FamilyOptions(**json.loads(value)) if value else FamilyOptions()
    except (TypeError, json.JSONDecodeError) as error:
        raise FamilyError(f"{FAMILY_VARIABLE} must be family options as JSON. Given: {value!r}") from error


def _chat_template(tokenizer: Tokenizer) -> str | None:
    """The templates' source; some tokenizers have several, by name."""
    template = getattr(tokenizer, "chat_template", None)
    return "\n".join(map(str, template.values())) if isinstance(template, dict) else template


def engine_marker_ids(*, model: str, tokenizer: Tokenizer, vocab_size: int, eos: list[int]) -> MarkerIds:
    """
    Raises:
        FamilyError: the model's thinking can't be forced here; also left where `read_refusal` finds it.
    """
    try:
        family = family_for(model=model, tokenizer=tokenizer)
        return marker_ids(family, tokenizer, vocab_size=vocab_size, eos_token_ids=eos)
    except FamilyError as error:
        refuse(str(error))
        raise


def refuse(reason: str) -> None:
    """Tell whoever started this engine why it won't start: vLLM's log buries what a worker raises."""
    directory = run_dir()
    # A worker on another machine has no run directory.
    if directory is not None and directory.is_dir():
        (directory / _REFUSAL_FILE).write_text(reason)


def read_refusal(directory: Path) -> str | None:
    """Why the engine refused to start, if it was we who refused."""
    try:
        return (directory / _REFUSAL_FILE).read_text()
    except FileNotFoundError:
        return None
