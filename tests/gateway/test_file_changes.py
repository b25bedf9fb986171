"""Following a file: every change is told, whatever became of the one before."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from server.gateway import file_changes
from server.gateway.file_changes import following
from tests.gateway.serving import eventually


async def test_a_change_that_fails_is_not_the_last(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(file_changes, "LOOK_INTERVAL_S", 0.01)
    file = tmp_path / "policy.yaml"
    file.write_text("")
    told: list[str] = []

    def changed() -> None:
        told.append(file.read_text())
        if told[-1] == "broken":
            raise ValueError("day is out of range for month")

    async with following(file, changed):
        await asyncio.sleep(0)  # its first look
        for text in ("broken", "right"):
            file.write_text(text)
            await eventually(lambda text=text: told[-1:] == [text], within_s=5)
    assert told == ["broken", "right"]
