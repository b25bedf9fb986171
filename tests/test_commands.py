"""What `s1 --help` shows."""

from __future__ import annotations

import re

from typer.testing import CliRunner

from server.cli import app


def test_the_commands_are_listed_by_what_they_are_for() -> None:
    shown = CliRunner().invoke(app, ["--help"], env={"COLUMNS": "200"}).output
    assert re.findall(r"─ (Options|Serve|Measure|Train|Commands) ─", shown) == [
        "Options",
        "Serve",
        "Measure",
        "Train",
    ]
    listed = re.findall(r"^│ (\w+) ", shown, flags=re.MULTILINE)
    assert listed[:3] == ["serve", "chat", "top"]
    assert set(listed) >= {"loadtest", "conformance", "evaluate", "train", "sft", "keys", "policy", "curate"}
