"""What commands serve when no model is named."""

from __future__ import annotations

from pathlib import Path


def demo_checkpoint(name: str) -> Path:
    import training

    return Path(training.__path__[0]) / "checkpoints" / name
