"""The policy file: read, checked with the place of every mistake, and read again without a restart."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import structlog
import yaml
from pydantic import ValidationError
from pydantic_core import ErrorDetails
from yaml.constructor import ConstructorError

from server.budget.policy import Policy
from server.budget.shown import show
from server.gateway.settings import SettingsError
from server.gateway.validation import describe_problem

log = structlog.get_logger(__name__)

_Path = tuple[str, ...]
_KEY = "[key]"
"""How pydantic marks a mapping's key in the place of an error."""


class PolicyFileError(SettingsError):
    """The policy file can't be used; the message names file, line, field, value and what was expected."""


class _Loader(yaml.SafeLoader):
    """Says where a value is that its type can't take."""

    def construct_object(self, node: yaml.Node, deep: bool = False) -> Any:
        try:
            return super().construct_object(node, deep=deep)
        except (ValueError, LookupError, AttributeError) as error:
            # PyYAML checks neither dates and numbers nor what explicit tags stand before.
            problem = f"{show(node.value)} is no valid {node.tag.rpartition(':')[2]}"
            raise ConstructorError(None, None, problem, node.start_mark) from error


def read_policy(path: Path) -> Policy:
    """The policy in a YAML file; an empty file is a policy without limits.

    Raises:
        PolicyFileError
    """
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise PolicyFileError(f"{path}: the policy can't be read: {error}") from error
    return parse_policy(text, name=str(path))


def parse_policy(text: str, *, name: str) -> Policy:
    """The policy in YAML text.

    Args:
        name: of the file, for messages.

    Raises:
        PolicyFileError
    """
    try:
        root = yaml.compose(text, Loader=yaml.SafeLoader)
        fields: Any = None if root is None else _Loader("").construct_document(root)
        lines = {(): 1, **dict(_lines(root, (), name))} if root is not None else {}
    except RecursionError as error:
        raise PolicyFileError(f"{name}: it holds itself, or is nested too deeply") from error
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        line = f":{mark.line + 1}" if mark is not None else ""
        reason = getattr(error, "problem", None) or str(error)
        raise PolicyFileError(f"{name}{line}: this is not YAML: {reason}") from error
    try:
        return Policy.model_validate({} if fields is None else fields)
    except ValidationError as error:
        raise PolicyFileError(_problem(error.errors(include_url=False)[0], lines, name)) from None


class PolicyStore:
    """The policy now in force. Requests that have begun keep the one they began with."""

    def __init__(self, path: Path | None) -> None:
        """
        Raises:
            PolicyFileError: the file can't be used.
        """
        self._path = path
        self.current = Policy() if path is None else read_policy(path)

    def reload(self) -> bool:
        """Read the file again; a file that can't be used leaves the policy as it is. True if it was taken."""
        if self._path is None:
            return False
        try:
            fresh = read_policy(self._path)
        except PolicyFileError as error:
            log.error("policy not reloaded: the old one stays in force", reason=str(error))
            return False
        changed = fresh != self.current
        self.current = fresh
        log.info("policy reloaded", path=str(self._path), changed=changed, digest=digest(fresh))
        return True


def digest(policy: Policy) -> str:
    """Tells policies apart in logs."""
    return hashlib.sha256(policy.model_dump_json().encode()).hexdigest()[:12]


def _problem(detail: ErrorDetails, lines: dict[_Path, int], name: str) -> str:
    place: _Path = tuple(str(part) for part in detail["loc"] if part != _KEY)
    what, shown = describe_problem(detail), f". Given: {show(detail['input'])}"
    if detail["type"] == "order":
        # Of two fields below this place; the message begins with one and holds both values.
        field, _, what = what.partition(" ")
        place, shown = (*place, *field.split(".")), ""
    known = place
    while known and known not in lines:
        known = known[:-1]
    line = f":{lines[known]}" if known in lines else ""
    where = ".".join(place) or "the policy"
    return f"{name}{line}: {where} {what}{shown}"


def _lines(node: yaml.Node, path: _Path, name: str) -> Iterator[tuple[_Path, int]]:
    """The line of everything in the file, by its path.

    Raises:
        PolicyFileError: a name is given twice; YAML would take the last one silently.
    """
    if isinstance(node, yaml.MappingNode):
        seen: set[str] = set()
        for key, value in node.value:
            place = (*path, str(key.value))
            line = key.start_mark.line + 1
            if key.value in seen:
                raise PolicyFileError(f"{name}:{line}: {'.'.join(place)} is given twice")
            seen.add(key.value)
            yield place, line
            yield from _lines(value, place, name)
    elif isinstance(node, yaml.SequenceNode):
        for index, value in enumerate(node.value):
            place = (*path, str(index))
            yield place, value.start_mark.line + 1
            yield from _lines(value, place, name)
