"""Versions of installed packages, for manifests."""

import platform
from collections.abc import Iterable
from importlib import metadata


def versions(names: Iterable[str], absent: str | None = None) -> dict[str, str]:
    """By name; ``absent`` stands for a package that is not installed, which is left out if that is None."""
    found = {}
    for name in names:
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            if absent is not None:
                found[name] = absent
    return found


def environment(names: Iterable[str]) -> dict[str, str]:
    """Python, the machine's architecture, and those of ``names`` that are installed here."""
    return {"python": platform.python_version(), "machine": platform.machine(), **versions(names)}
