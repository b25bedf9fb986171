"""The README's API table comes from the schema."""

from __future__ import annotations

import importlib.util
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import pytest

from server.budget.forms import FORMS
from server.budget.spec import BUDGET_FIELDS

ROOT = Path(__file__).parents[1]
SCRIPT = ROOT / "scripts" / "api_table.py"


@pytest.fixture(scope="module")
def api_table() -> ModuleType:
    spec = importlib.util.spec_from_file_location("api_table", SCRIPT)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_every_field_and_form_has_its_row(api_table: ModuleType) -> None:
    rows = api_table.own_rows()
    for name in BUDGET_FIELDS:
        assert sum(row.startswith(f"| `{name}` |") for row in rows) == 1
    assert "| 512, or a quarter of the room if that is less | from 1 to what fits |" in "\n".join(rows)
    assert len(api_table.alias_rows()) == len(FORMS)
    assert "| OpenRouter | `reasoning.max_tokens` | the maximum | 0 to 16,777,216 |" in api_table.alias_rows()
    assert all(row.count("|") - row.count(r"\|") in (5, 6) for row in [*rows, *api_table.alias_rows()])


def test_check_compares_what_stands_between_the_markers(api_table: ModuleType, tmp_path: Path) -> None:
    printed = [sys.executable, SCRIPT, "fields"]
    table = subprocess.run(printed, capture_output=True, text=True, check=True).stdout
    document = tmp_path / "README.md"

    def check(text: str) -> str | None:
        document.write_text(text)
        argv = [sys.executable, SCRIPT, "--check", document]
        done = subprocess.run(argv, capture_output=True, text=True)
        return done.stderr if done.returncode else None

    good = f"# x\n\n<!-- api-table: fields -->\n\n{table}\n<!-- /api-table -->\n\nmore\n"
    assert check(good) is None
    assert "not what the schema says" in (check(good.replace("what fits", "much")) or "")
    assert "has no line" in (check("# x") or "")
    assert "<!-- /api-table --> is missing" in (check("<!-- api-table: dialects -->") or "")
    assert api_table.problem(good + "<!-- api-table: dialects -->\n<!-- /api-table -->") is not None


@pytest.mark.parametrize("name", ["docs/dialects.md", "README.md"])
def test_the_documents_are_current(api_table: ModuleType, name: str) -> None:
    assert api_table.problem((ROOT / name).read_text()) is None
