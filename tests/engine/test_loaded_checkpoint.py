"""What an engine says of the weights it loaded."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

pytest.importorskip("huggingface_hub")

from server.engine.checkpoint import checkpoint_of


def test_a_retrained_folder_is_another_checkpoint(tmp_path: Path) -> None:
    weights = tmp_path / "model.safetensors"
    weights.write_bytes(b"before")
    (tmp_path / "config.json").write_text("{}")
    first = checkpoint_of(str(tmp_path), None)
    (tmp_path / "trainer_log.txt").write_text("beside it")
    assert first is not None and checkpoint_of(str(tmp_path), None) == first
    os.utime(weights, ns=(1, 1))
    again = checkpoint_of(str(tmp_path), None)
    assert again != first
    (tmp_path / "model-2.safetensors").write_bytes(b"more")
    assert checkpoint_of(str(tmp_path), None) not in (first, again)


def test_a_snapshot_of_the_hub_is_its_commit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    kept = tmp_path / "models--o--m"
    snapshot = kept / "snapshots" / "abc123"
    snapshot.mkdir(parents=True)
    (snapshot / "config.json").write_text("{}")
    (kept / "refs").mkdir()
    (kept / "refs" / "main").write_text("abc123")
    assert checkpoint_of(str(snapshot), None) == "abc123"
    assert checkpoint_of("o/m", None) == checkpoint_of("o/m", "abc123") == "abc123"


@pytest.mark.parametrize("model", ["o/nowhere", "s3://bucket/model", ""])
def test_what_is_not_found_is_not_named(tmp_path: Path, model: str) -> None:
    assert checkpoint_of(model or str(tmp_path), None) is None
