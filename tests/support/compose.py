"""docker-compose.yml as `docker compose` would read it: variables put in, anchors merged, profiles chosen."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

ROOT = Path(__file__).parents[2]
_VARIABLE = re.compile(r"\$\{(?P<name>\w+)(?::(?P<operator>[-?])(?P<word>[^}]*))?\}")


def interpolate(text: str, environment: Mapping[str, str]) -> str:
    """`${NAME}`, `${NAME:-default}` and `${NAME:?message}`, the forms that the file uses.

    Raises:
        KeyError: a variable is needed; its message is the file's.
    """

    def value(found: re.Match[str]) -> str:
        given = environment.get(found["name"], "")
        if given:
            return given
        if found["operator"] == "?":
            raise KeyError(found["word"])
        return found["word"] or ""

    return _VARIABLE.sub(value, text)


def services(profile: str, environment: Mapping[str, str]) -> dict[str, dict[str, Any]]:
    """The services that `COMPOSE_PROFILES=profile docker compose up` starts."""
    everything = compose(environment)["services"]
    return {name: s for name, s in everything.items() if profile in s.get("profiles", [profile])}


def compose(environment: Mapping[str, str]) -> dict[str, Any]:
    text = (ROOT / "docker-compose.yml").read_text()
    loaded: dict[str, Any] = yaml.safe_load(interpolate(text, environment))
    return loaded
