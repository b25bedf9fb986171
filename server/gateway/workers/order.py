"""What a worker is told on its stdin when it starts."""

from __future__ import annotations

from pathlib import Path

from pydantic import BaseModel, ConfigDict

from server.gateway.settings import Settings


class Order(BaseModel):
    """What a worker is to be."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    index: int
    settings: Settings
    listener_fd: int
    """A bound socket; the worker listens at it."""
    own_socket: Path
    hub_socket: Path
    replaces: bool
    """Whether it takes the place of one that has ended."""
