"""The committed dashboards are those that the code makes, and ask for nothing that isn't there."""

from __future__ import annotations

import importlib.util
import json
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

ROOT = Path(__file__).parents[2]
FILES = sorted((ROOT / "deploy" / "grafana").glob("*.json"))


@pytest.fixture(scope="module")
def script() -> ModuleType:
    spec = importlib.util.spec_from_file_location("dashboards", ROOT / "scripts" / "dashboards.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["dashboards"] = module
    spec.loader.exec_module(module)
    return module


def test_the_committed_files_are_what_the_code_writes(script: ModuleType) -> None:
    assert {path.name: path.read_text() for path in FILES} == script.written()


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_a_choice_is_offered_where_it_changes_something(path: Path) -> None:
    dashboard: dict[str, Any] = json.loads(path.read_text())
    panels = [panel for panel in dashboard["panels"] if panel["type"] != "row"]
    asked = " ".join(target["expr"] for panel in panels for target in panel["targets"])
    for variable in dashboard["templating"]["list"]:
        assert variable["name"] == "datasource" or f"${variable['name']}" in asked
    if "$model" in asked:
        for panel in panels:
            whole = not any("$model" in target["expr"] for target in panel["targets"])
            assert not whole or "all" in panel["description"].lower(), panel["title"]


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_panels_lie_side_by_side_and_have_what_they_need(path: Path) -> None:
    dashboard: dict[str, Any] = json.loads(path.read_text())
    assert dashboard["uid"] == path.stem
    taken: set[tuple[int, int]] = set()
    for panel in dashboard["panels"]:
        at = panel["gridPos"]
        own = {(x, y) for x in range(at["x"], at["x"] + at["w"]) for y in range(at["y"], at["y"] + at["h"])}
        assert not own & taken, panel["title"]
        assert at["x"] + at["w"] <= 24
        taken |= own
        if panel["type"] != "row":
            assert panel["title"] and panel["targets"]
            assert panel["datasource"]["uid"] == "${datasource}"
    assert len({panel["id"] for panel in dashboard["panels"]}) == len(dashboard["panels"])
