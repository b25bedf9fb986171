"""Print the API's tables from the request's schema: `api_table.py fields`, `api_table.py dialects`.

`api_table.py --check README.md` compares: a table stands between the comment lines
`<!-- api-table: fields -->` (or `dialects`) and `<!-- /api-table -->`.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from server.budget.effort import EFFORTS, NO_EFFORT
from server.budget.forms import FORMS, Form
from server.gateway.chat.chat_request import ChatCompletionRequest

END = "<!-- /api-table -->"
_DEFAULT = "x-default"


def tables() -> dict[str, str]:
    """Markdown tables: our own fields, and every other dialect's."""
    own = ["| field | meaning | default | limits |", "|---|---|---|---|", *own_rows()]
    others = ["| from | field | meaning | limits |", "|---|---|---|---|", *alias_rows()]
    return {"fields": "\n".join(own), "dialects": "\n".join(others)}


def begin(name: str) -> str:
    return f"<!-- api-table: {name} -->"


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
    """What is wrong with the tables in `document`, or None."""
    found = 0
    for name, table in tables().items():
        _, opened, rest = document.partition(begin(name))
        if not opened:
            continue
        found += 1
        inside, closed, _ = rest.partition(END)
        if not closed:
            return f"the line {END} is missing after {begin(name)}"
        if inside.strip() != table:
            return f"its table is not what the schema says; put `scripts/api_table.py {name}`'s output there"
    return None if found else f"it has no line {' or '.join(map(begin, tables()))}"


def _alias_row(form: Form) -> str:
    return f"| {form.dialect} | `{form.path}` | {form.meaning} | {_limits(form.schema)} |"


def _sentence(schema: Mapping[str, Any]) -> str:
    text: str = schema["description"]
    return text[0].lower() + text[1:].rstrip(".")


def _limits(schema: Mapping[str, Any]) -> str:
    if "x-limits" in schema:
        return str(schema["x-limits"])
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
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("table", nargs="?", choices=sorted(tables()), help="which table to print")
    parser.add_argument("--check", type=Path, metavar="FILE", help="compare with the tables in FILE")
    arguments = parser.parse_args()
    if (arguments.table is None) == (arguments.check is None):
        parser.error("give a table's name, or --check FILE")
    if arguments.check is None:
        sys.stdout.write(tables()[arguments.table] + "\n")
        return
    wrong = problem(arguments.check.read_text(encoding="utf-8"))
    if wrong is not None:
        sys.exit(f"{arguments.check}: {wrong}")


if __name__ == "__main__":
    main()
