"""Following a file: every change is told, whatever became of the one before."""

from __future__ import annotations

import asyncio
import os
from pathlib import Path

import pytest

from server.gateway import file_changes
from server.gateway.file_changes import file_signature, following
from tests.gateway.serving import eventually


async def test_a_change_that_fails_is_not_the_last(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(file_changes, "LOOK_INTERVAL_S", 0.01)
    file = tmp_path / "policy.yaml"
    file.write_text("")
    told: list[str] = []

    def changed() -> bool:
        told.append(file.read_text())
        if told[-1] == "broken":
            raise ValueError("day is out of range for month")
        return True

    async with following(file, changed):
        await asyncio.sleep(0)  # its first look
        for text in ("broken", "right"):
            file.write_text(text)
            await eventually(lambda text=text: told[-1:] == [text], within_s=5)
    assert told == ["broken", "right"]


async def test_a_change_that_was_not_taken_is_told_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(file_changes, "LOOK_INTERVAL_S", 0.01)
    monkeypatch.setattr(file_changes, "RETRY_S", 0.0)
    file = tmp_path / "policy.yaml"
    file.write_text("")
    answers = [False, False, True]
    asked: list[bool] = []

    def changed() -> bool:
        asked.append(answers[len(asked)])
        return asked[-1]

    async with following(file, changed):
        await asyncio.sleep(0)  # its first look
        file.write_text("new")
        await eventually(lambda: asked == answers, within_s=5)
        file.touch()
        answers.append(True)
        await eventually(lambda: asked == answers, within_s=5)


def test_a_change_is_seen_though_size_and_time_are_the_old_ones(tmp_path: Path) -> None:
    file = tmp_path / "keys.json"
    file.write_text("one")
    before, status = file_signature(file), file.stat()
    while file.stat().st_ctime_ns == status.st_ctime_ns:  # the file system's clock has ticks
        file.write_text("two")
    os.utime(file, ns=(status.st_atime_ns, status.st_mtime_ns))
    assert file.stat().st_mtime_ns == status.st_mtime_ns
    assert file_signature(file) != before
