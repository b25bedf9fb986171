"""Gateways with keys, for tests of what keys may do."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from server.gateway.access.keys import add_key, new_key, remove_key


@dataclass
class KeysForTests:
    """A keys file, and the keys themselves by name."""

    path: Path
    secrets: dict[str, str] = field(default_factory=dict)

    def add(self, name: str, **fields: Any) -> dict[str, str]:
        """The headers with which `name` is let in."""
        record, key = new_key(name, **fields)
        add_key(self.path, record)
        self.secrets[name] = key
        return bearer(key)

    def revoke(self, name: str) -> None:
        remove_key(self.path, name)


def bearer(key: str) -> dict[str, str]:
    return {"authorization": f"Bearer {key}"}


def error_of(response: Any) -> Mapping[str, Any]:
    """The error of a response in OpenAI's envelope."""
    error: Mapping[str, Any] = response.json()["error"]
    assert set(error) == {"message", "type", "param", "code"}
    return error
