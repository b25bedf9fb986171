"""Write the table of docs/settings.md from the gateway's `Settings`: `python scripts/settings_table.py`."""

from __future__ import annotations

import ast
import inspect
import re
import textwrap
from pathlib import Path
from typing import Any, Literal, get_args, get_origin

from server.gateway.settings import ENVIRONMENT_PREFIX, Settings

PAGE = Path(__file__).parents[1] / "docs" / "settings.md"
BEGIN, END = "<!-- settings-table -->", "<!-- /settings-table -->"


def table() -> str:
    rows = ["| variable | default | takes | meaning |", "|---|---|---|---|"]
    meanings = _meanings()
    for name, field in Settings.model_fields.items():
        variable = f"`{ENVIRONMENT_PREFIX}{name.upper()}`"
        cells = [variable, _default(field.default), _takes(field.annotation, field.metadata), meanings[name]]
        rows.append("| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |")
    return "\n".join(rows)


def page(text: str) -> str:
    """`text` with the table as it is now.

    Raises:
        ValueError: it has no place for one.
    """
    before, begun, rest = text.partition(BEGIN)
    _, ended, after = rest.partition(END)
    if not (begun and ended):
        raise ValueError(f"{PAGE.name} needs the lines {BEGIN} and {END}")
    return f"{before}{BEGIN}\n{table()}\n{END}{after}"


def _meanings() -> dict[str, str]:
    """The docstring under each field."""
    (cls,) = ast.parse(textwrap.dedent(inspect.getsource(Settings))).body
    body = cls.body if isinstance(cls, ast.ClassDef) else []
    found = {}
    for field, following in zip(body, body[1:], strict=False):
        if isinstance(field, ast.AnnAssign) and isinstance(field.target, ast.Name):
            said = following.value if isinstance(following, ast.Expr) else None
            if not isinstance(said, ast.Constant):
                raise ValueError(f"{field.target.id} has no docstring")
            text = re.sub(r"\s+", " ", inspect.cleandoc(str(said.value)))
            found[field.target.id] = re.sub(r"docs/([a-z]+)\.md", r"[\1](\1.md)", text)
    return found


def _default(value: Any) -> str:
    if value is None or value == ():
        return "–"
    shown = str(value).replace("\n", "\\n")
    if isinstance(value, bool):
        shown = shown.lower()
    elif isinstance(value, int | float):
        shown = f"{value:.12g}"
    return f"`{shown}`"


def _takes(annotation: Any, limits: list[Any]) -> str:
    if get_origin(annotation) is Literal:
        return " or ".join(f"`{value}`" for value in get_args(annotation))
    bounds = [limit for one in limits for limit in _bounds(one)]
    for inner in get_args(annotation):
        bounds += [limit for one in getattr(inner, "__metadata__", ()) for limit in _bounds(one)]
    kinds = [annotation, *(arg for arg in get_args(annotation) if arg is not type(None))]
    kind = next((words for cls, words in _KINDS.items() if any(_is(cls, one) for one in kinds)), "text")
    return " ".join([kind, *bounds]) if bounds else kind


_KINDS: dict[type, str] = {
    tuple: "a list, separated by commas",
    bool: "`true` or `false`",
    int: "an integer",
    float: "a number",
    Path: "a path",
}


def _is(cls: type, annotation: Any) -> bool:
    inner = get_args(annotation)[0] if hasattr(annotation, "__metadata__") else annotation
    return inner is cls or get_origin(inner) is cls


def _bounds(one: Any) -> list[str]:
    if hasattr(one, "metadata"):
        return [bound for inner in one.metadata for bound in _bounds(inner)]
    signs = {"ge": "≥", "gt": ">", "le": "≤", "lt": "<"}
    return [f"{sign} {getattr(one, name):,}" for name, sign in signs.items() if hasattr(one, name)]


if __name__ == "__main__":
    PAGE.write_text(page(PAGE.read_text()))
    print(PAGE)  # noqa: T201 - what it has written
