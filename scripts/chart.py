"""Write what the chart in helm/s1-server has from elsewhere; `--check` compares instead.

The README's table comes from values.yaml and the comments in it, files/ from deploy/: Helm reads nothing
outside a chart. The settings in the schema are the gateway's.
"""

from __future__ import annotations

import argparse
import json
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml

from server.gateway.settings import Settings

ROOT = Path(__file__).parents[1]
CHART = ROOT / "helm" / "s1-server"
_KEY = re.compile(r"^(?P<indent> *)(?P<key>\w+):(?P<rest>.*)$")
_BEGIN, _END = "<!-- values -->\n", "<!-- /values -->"


def copies() -> dict[Path, Path]:
    """Files of the chart, each with its original."""
    dashboards = sorted((ROOT / "deploy" / "grafana").glob("*.json"))
    return {
        CHART / "files" / "alerts.yml": ROOT / "deploy" / "prometheus" / "alerts.yml",
        **{CHART / "files" / "dashboards" / path.name: path for path in dashboards},
    }


def strays() -> list[Path]:
    """Dashboards in the chart whose original is gone."""
    return sorted(set((CHART / "files" / "dashboards").glob("*")) - copies().keys())


def value_rows(text: str) -> Iterator[tuple[str, str, str]]:
    """(key, default, description) of every value; a described map that is empty or a list is one value."""
    values: Any = yaml.safe_load(text)
    path: list[tuple[int, str]] = []
    comment: list[str] = []
    for line in text.splitlines():
        if line.lstrip().startswith("#"):
            comment.append(line.strip("# "))
            continue
        found = _KEY.match(line)
        if found:
            path = [part for part in path if part[0] < len(found["indent"])]
            path.append((len(found["indent"]), found["key"]))
            keys = [key for _, key in path]
            value = _at(values, keys)
            if value is not _NOT_A_VALUE and (found["rest"].strip() or not isinstance(value, dict)):
                yield ".".join(keys), _shown(value), " ".join(comment)
        comment = []


_NOT_A_VALUE = object()


def _at(values: Any, keys: list[str]) -> Any:
    """What stands at a path of maps; a key inside a list is no value of its own."""
    for key in keys:
        if not isinstance(values, dict) or key not in values:
            return _NOT_A_VALUE
        values = values[key]
    return values


def _shown(value: Any) -> str:
    return f"`{json.dumps(value)}`"


def readme(current: str) -> str:
    """The README with its table of values made anew."""
    head, _, rest = current.partition(_BEGIN)
    _, _, tail = rest.partition(_END)
    rows = value_rows((CHART / "values.yaml").read_text())
    table = ["| value | default | |", "|---|---|---|", *(f"| `{k}` | {d} | {c} |" for k, d, c in rows)]
    return head + _BEGIN + "\n".join(table) + "\n" + _END + tail


def schema(current: str) -> str:
    """The schema of values with the gateway's settings made anew: names, and the words that some take."""
    made: dict[str, Any] = json.loads(current)
    fields: dict[str, Any] = Settings.model_json_schema()["properties"]
    made["properties"]["gateway"]["properties"]["settings"] = {
        "type": "object",
        "additionalProperties": False,
        "properties": {
            name: {"enum": field["enum"]} if "enum" in field else {"$ref": "#/$defs/setting"}
            for name, field in sorted(fields.items())
        },
    }
    return json.dumps(made, indent=2) + "\n"


def problems() -> list[str]:
    found = [
        f"{copy.relative_to(ROOT)} is not {original.relative_to(ROOT)}"
        for copy, original in copies().items()
        if not copy.is_file() or copy.read_bytes() != original.read_bytes()
    ]
    found += [f"{path.relative_to(ROOT)} has no original" for path in strays()]
    text = (CHART / "README.md").read_text()
    if readme(text) != text:
        found.append("the chart's README is not what values.yaml says")
    text = (CHART / "values.schema.json").read_text()
    if schema(text) != text:
        found.append("values.schema.json has other settings than the gateway")
    return found


def write() -> None:
    for path in strays():
        path.unlink()
    for copy, original in copies().items():
        copy.parent.mkdir(parents=True, exist_ok=True)
        copy.write_bytes(original.read_bytes())
    for path, made in ((CHART / "README.md", readme), (CHART / "values.schema.json", schema)):
        path.write_text(made(path.read_text()))


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--check", action="store_true")
    if not parser.parse_args().check:
        write()
    found = problems()
    sys.stderr.writelines(f"{problem}; run scripts/chart.py\n" for problem in found)
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main())
