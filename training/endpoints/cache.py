"""Every call that was answered, on disk as it is answered: an interrupted run asks nothing twice."""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
from collections import defaultdict
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from training.endpoints.errors import CacheError


def request_key(api: str, path: str, body: Mapping[str, Any], attempt: int) -> str:
    """The digest of what is asked. Not of where, which is kept beside: a server that moves keeps them."""
    text = json.dumps([api, path, body, attempt], sort_keys=True, ensure_ascii=False)
    return hashlib.sha256(text.encode()).hexdigest()


@dataclass(frozen=True, slots=True)
class Origin:
    """Where a reply came from and of which checkpoint, as far as its line says so."""

    url: str | None = None
    checkpoint: str | None = None


NOWHERE = Origin()


class CallCache:
    """A file of JSON lines, `{"key", "model", "url", "checkpoint", "reply"}`; one process at a time.

    A line that a killed process left half-written is cut off; anything else that is unreadable is an error.
    """

    def __init__(self, path: Path) -> None:
        """Raises CacheError: the file is damaged, or another process writes to it. OSError: no such place."""
        self._path = path
        path.parent.mkdir(parents=True, exist_ok=True)
        # Unbuffered: a line that did not fit on the disk must not be tried again on closing.
        self._file = path.open("ab", buffering=0)
        self._origins: dict[str, set[Origin]] = defaultdict(set)
        try:
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            self._file.close()
            raise CacheError(f"{path} is in use: is the same command running already?") from error
        try:
            self._replies = self._load()
        except CacheError:
            self._file.close()
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._file.close()

    def __len__(self) -> int:
        return len(self._replies)

    def get(self, key: str) -> Any:
        """The reply's JSON, or None."""
        return self._replies.get(key)

    def origins(self, model: str) -> frozenset[Origin]:
        """Of the model's replies."""
        return frozenset(self._origins[model])

    def put(self, key: str, model: str, reply: Any, origin: Origin = NOWHERE) -> None:
        """Raises OSError: the disk is full; the line is taken back, so that the file stays whole."""
        known = {name: said for name, said in asdict(origin).items() if said is not None}
        text = json.dumps({"key": key, "model": model, **known, "reply": reply}, ensure_ascii=False)
        line = f"{text}\n".encode()
        end = self._file.seek(0, os.SEEK_END)
        try:
            while line:
                line = line[self._file.write(line) :]
        except OSError:
            self._file.truncate(end)
            raise
        self._replies[key] = reply
        self._origins[model].add(origin)

    def _load(self) -> dict[str, Any]:
        replies: dict[str, Any] = {}
        end = 0
        with self._path.open("rb") as lines:
            for number, line in enumerate(lines, start=1):
                if not line.endswith(b"\n"):
                    self._file.truncate(end)
                    break
                try:
                    entry = json.loads(line)
                    replies[entry["key"]] = entry["reply"]
                    origin = Origin(entry.get("url"), entry.get("checkpoint"))
                    self._origins[entry.get("model", "")].add(origin)
                except (ValueError, LookupError, TypeError) as error:
                    raise CacheError(
                        f"{self._path}, line {number} is not a call: {error!r}; remove it"
                    ) from error
                end += len(line)
        return replies
