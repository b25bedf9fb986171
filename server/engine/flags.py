"""Reading vLLM's flags as vLLM's own parser does, so that none slips past under another spelling."""

from __future__ import annotations

from collections.abc import Iterable


def flag_among(argument: str, flags: Iterable[str]) -> str | None:
    """The one of `flags` that vLLM would take `argument` for, or None.

    vLLM's parser reads underscores as hyphens, `--flag.key` as a key of a JSON flag, and the beginning of a
    flag as the flag.
    """
    name = argument.split("=", 1)[0]
    if name.startswith("--"):
        name = name.split(".", 1)[0].replace("_", "-")
    known = sorted(flags)
    if name in known:
        return name
    is_beginning = name.startswith("--") and len(name) > len("--")
    return next((flag for flag in known if is_beginning and flag.startswith(name)), None)
