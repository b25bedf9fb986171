"""Print the README's API table from the request's schema: `api_table.py`, or compare: `--check README.md`.

The table stands between the comment lines `<!-- api-table -->` and `<!-- /api-table -->`.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from server.budget.effort import EFFORTS, NO_EFFORT
from server.budget.forms import FORMS, Form
from server.gateway.chat_request import ChatCompletionRequest

BEGIN, END = "<!-- api-table -->", "<!-- /api-table -->"
_DEFAULT = "x-default"


def table() -> str:
    """Markdown: our own fields, then every other dialect's."""
    own = ["| field | meaning | default | limits |", "|---|---|---|---|", *own_rows()]
    others = ["| from | field | meaning | limits |", "|---|---|---|---|", *alias_rows()]
    return "\n".join([*own, "", *others])


def own_rows() -> list[str]:
    properties: Mapping[str, Any] = ChatCompletionRequest.model_json_schema()["properties"]
    return [
        f"| `{name}` | {_sentence(schema)} | {schema[_DEFAULT]} | {_limits(schema)} |"
        for name, schema in properties.items()
        if _DEFAULT in schema
    ]


def alias_rows() -> list[str]:
    return [_alias_row(form) for form in FORMS]


def problem(document: str) -> str | None:
    """What is wrong with the table in `document`, or None."""
    before, found, rest = document.partition(BEGIN)
    inside, ended, _ = rest.partition(END)
    if not found or not ended:
        return f"the lines {BEGIN} and {END} are missing"
    if inside.strip() != table():
        return f"the table is not what the schema says; put `python {Path(__file__).name}`'s output there"
    return None


def _alias_row(form: Form) -> str:
    return f"| {form.dialect} | `{form.path}` | {form.meaning} | {_limits(form.schema)} |"


def _sentence(schema: Mapping[str, Any]) -> str:
    text: str = schema["description"]
    return text[0].lower() + text[1:].rstrip(".")


def _limits(schema: Mapping[str, Any]) -> str:
    kinds = [_limit(kind) for kind in schema.get("anyOf", [schema]) if kind.get("type") != "null"]
    return ", or ".join(dict.fromkeys(kinds))


def _limit(schema: Mapping[str, Any]) -> str:
    if "enum" in schema:
        return _choices(schema["enum"])
    if schema["type"] == "integer":
        return f"{schema['minimum']:,} to {schema['maximum']:,}"
    if schema["type"] == "boolean":
        return "true, false"
    return f"an {schema['type']}" if schema["type"][0] in "aeiou" else f"a {schema['type']}"


def _choices(choices: list[str]) -> str:
    if len(choices) < len(EFFORTS):
        return ", ".join(choices)
    first = NO_EFFORT if NO_EFFORT in choices else EFFORTS[0]
    return f"{first} to {EFFORTS[-1]}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--check", type=Path, metavar="FILE", help="compare with the table in FILE")
    arguments = parser.parse_args()
    if arguments.check is None:
        sys.stdout.write(table() + "\n")
        return
    wrong = problem(arguments.check.read_text(encoding="utf-8"))
    if wrong is not None:
        sys.exit(f"{arguments.check}: {wrong}")


if __name__ == "__main__":
    main()
