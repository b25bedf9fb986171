"""API keys: what is kept of one, and the file they are in.

A key is `s1-ID-SECRET`: the id is public and finds the record, the secret is 256 random bits and is kept as
its SHA-256 only. A slow hash would add nothing: there is no dictionary of 256 random bits.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import hmac
import os
import secrets
import tempfile
from collections import Counter
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Self

from pydantic import (
    AwareDatetime,
    BaseModel,
    ConfigDict,
    Field,
    ValidationError,
    field_validator,
    model_validator,
)

from server.budget.spec import BUDGET_LIMITS

KEY_PREFIX = "s1-"
_ID_BYTES = 6
_SECRET_BYTES = 32
_NAME = r"^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$"

_Count = Annotated[int, Field(ge=1, le=2**53)]
"""Redis' scripts count in doubles."""


class KeysError(ValueError):
    """A keys file or a change to it that can't be; the message names the field, the limit and the value."""


class Quotas(BaseModel):
    """How much a key may use; None is no limit."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)

    requests_per_minute: _Count | None = None
    tokens_per_minute: _Count | None = None
    """Prompt, thinking, markers and answer."""
    thinking_tokens_per_minute: _Count | None = None
    thinking_tokens_per_day: _Count | None = None
    concurrency: _Count | None = None
    """Requests under way at once, those that wait for an engine included."""

    @property
    def thinking_limits(self) -> tuple[int, ...]:
        both = (self.thinking_tokens_per_minute, self.thinking_tokens_per_day)
        return tuple(limit for limit in both if limit is not None)

    @property
    def counts_tokens(self) -> bool:
        return self.tokens_per_minute is not None or bool(self.thinking_limits)

    @property
    def needs_ledger(self) -> bool:
        return self.counts_tokens or self.concurrency is not None

    @property
    def is_set(self) -> bool:
        return self.needs_ledger or self.requests_per_minute is not None


class Key(BaseModel):
    """One key as the file has it. Nothing in it lets anyone in."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    id: Annotated[str, Field(pattern=r"^[0-9a-f]{12}$")]
    name: Annotated[str, Field(pattern=_NAME)]
    """For people, logs and metrics."""
    sha256: Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
    """Of the secret."""
    created: AwareDatetime
    expires: AwareDatetime | None = None
    admin: bool = False
    models: tuple[str, ...] | None = None
    """Models it may use; None is all."""
    caps: Mapping[str, int] = Field(default_factory=dict)
    """Budget fields and the largest value that the key's requests get."""
    quotas: Quotas = Quotas()

    @field_validator("caps")
    @classmethod
    def _check_caps(cls, caps: Mapping[str, int]) -> Mapping[str, int]:
        for name, value in caps.items():
            if name not in BUDGET_LIMITS:
                raise ValueError(f"`{name}` is not a budget field; known are {', '.join(BUDGET_LIMITS)}")
            low, high = BUDGET_LIMITS[name]
            if not low <= value <= high:
                raise ValueError(f"`{name}` must be from {low} to {high}. Given: {value}")
        return caps

    def matches(self, secret: str) -> bool:
        """In a time that doesn't depend on where the two differ."""
        return hmac.compare_digest(self.sha256, hash_of(secret))

    def expired(self, now: datetime) -> bool:
        return self.expires is not None and now >= self.expires


class KeysFile(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")

    version: Annotated[int, Field(ge=1, le=1)] = 1
    keys: tuple[Key, ...] = ()

    @model_validator(mode="after")
    def _check_unique(self) -> Self:
        for field in ("id", "name"):
            values = [getattr(key, field) for key in self.keys]
            if repeated := sorted(value for value, count in Counter(values).items() if count > 1):
                raise ValueError(f"two keys have the {field} {repeated[0]!r}")
        return self


def hash_of(secret: str) -> str:
    return hashlib.sha256(secret.encode()).hexdigest()


def split_key(presented: str) -> tuple[str, str] | None:
    """Id and secret of a key as a client presents it; None if it has not a key's form."""
    id, separator, secret = presented.removeprefix(KEY_PREFIX).partition("-")
    return (id, secret) if presented.startswith(KEY_PREFIX) and separator and secret else None


def new_key(name: str, *, now: datetime | None = None, **fields: object) -> tuple[Key, str]:
    """A new record and the key itself, which is kept nowhere.

    Raises:
        KeysError: a field is not what it must be.
    """
    id, secret = secrets.token_hex(_ID_BYTES), secrets.token_urlsafe(_SECRET_BYTES)
    created = (now or datetime.now(UTC)).replace(microsecond=0)
    record = {"id": id, "name": name, "sha256": hash_of(secret), "created": created, **fields}
    try:
        return Key.model_validate(record), f"{KEY_PREFIX}{id}-{secret}"
    except ValidationError as error:
        raise KeysError(_first_problem(error)) from None


def read_keys(path: Path) -> KeysFile:
    """
    Raises:
        KeysError: there is no such file, or it is not a keys file.
    """
    try:
        return KeysFile.model_validate_json(path.read_bytes())
    except OSError as error:
        raise KeysError(f"{path}: {error.strerror}") from None
    except ValidationError as error:
        raise KeysError(f"{path}: {_first_problem(error)}") from None


def add_key(path: Path, key: Key) -> None:
    """Add `key` to the file, which is made if there is none.

    Raises:
        KeysError: the name is taken, or the file can't be read or written.
    """
    with _changing(path) as present:
        if any(other.name == key.name for other in present.keys):
            raise KeysError(f"{path} has a key named {key.name!r}; revoke it first or choose another name")
        _write(path, KeysFile(keys=(*present.keys, key)))


def remove_key(path: Path, name_or_id: str) -> Key:
    """Remove a key and return its record.

    Raises:
        KeysError: there is no such key, or the file can't be read or written.
    """
    with _changing(path) as present:
        found = [key for key in present.keys if name_or_id in (key.name, key.id)]
        if len(found) != 1:
            raise KeysError(f"{path} has {len(found) or 'no'} keys with the name or id {name_or_id!r}")
        _write(path, KeysFile(keys=tuple(key for key in present.keys if key is not found[0])))
        return found[0]


@contextlib.contextmanager
def _changing(path: Path) -> Iterator[KeysFile]:
    """The present content, while nobody else changes it. The lock is another file: a write replaces ours."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.with_name(f"{path.name}.lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            yield read_keys(path) if path.exists() else KeysFile()
    except OSError as error:
        raise KeysError(f"{path}: {error.strerror}") from None


def _write(path: Path, content: KeysFile) -> None:
    """Replace the file at once: a gateway that reads it sees the old content or the new."""
    descriptor, name = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)  # mode 0600
    partial = Path(name)
    try:
        with os.fdopen(descriptor, "w") as file:
            file.write(content.model_dump_json(indent=2) + "\n")
            file.flush()
            os.fsync(file.fileno())
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)


def _first_problem(error: ValidationError) -> str:
    detail = error.errors(include_url=False)[0]
    place = ".".join(str(part) for part in detail["loc"])
    if detail["type"] == "missing":
        return f"{place} is missing"
    # What was given may be the whole file, or the hash of a key.
    given = f" Given: {detail['input']!r}" if isinstance(detail["input"], str | int | float) else ""
    return f"{place}: {detail['msg']}.{given}" if place else f"{detail['msg']}.{given}"
