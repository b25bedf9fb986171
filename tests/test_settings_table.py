"""docs/settings.md comes from the settings themselves."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import pytest

from server.gateway.settings import Settings, read_settings

ROOT = Path(__file__).parents[1]
_spec = importlib.util.spec_from_file_location("settings_table", ROOT / "scripts" / "settings_table.py")
assert _spec is not None and _spec.loader is not None
settings_table = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(settings_table)

ROWS = [line.strip("| ").split(" | ") for line in settings_table.table().splitlines()[2:]]


def test_the_page_is_current() -> None:
    text = settings_table.PAGE.read_text()
    assert settings_table.page(text) == text, "run scripts/settings_table.py"


def test_every_default_that_it_tells_is_taken_and_is_the_default() -> None:
    assert len(ROWS) == len(Settings.model_fields)
    told = {cells[0].strip("`"): cells[1].strip("`") for cells in ROWS if cells[1] != "–"}
    assert read_settings(told) == Settings()


def test_a_page_without_a_place_for_it_is_refused() -> None:
    with pytest.raises(ValueError, match="settings.md needs the lines"):
        settings_table.page("# Settings\n")
