"""Receipts on their way out: from the sampler's process to the engine's API server.

The worker publishes one JSON message per choice that leaves the batch over a ZeroMQ socket in the run
directory; every API server process of this engine reads them all and hands them to gateways over HTTP
(`server.engine.routes`). `engine.json` beside the sockets says what the engine enforces. Over several
machines the worker pushes both to the one API server instead, over TCP (`S1_ENGINE_RECEIPTS`).
"""

from __future__ import annotations

import functools
import json
import os
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import zmq
import zmq.asyncio

from server.budget.markers import MarkerIds
from server.budget.receipt import EngineReceipt
from server.budget.spec import BUDGET_FIELDS, TIME_LIMIT, minimum_room

PROTOCOL = 1
_INFO_FILE = "engine.json"
MARKERS = "markers"
"""The field of `EngineInfo` that `/s1/markers` answers. `/s1/engine`, which is asked often, leaves it out."""


@dataclass(frozen=True, slots=True)
class EngineInfo:
    """What a gateway must know of an engine; `GET /s1/engine` answers it."""

    protocol: int
    processor: str
    family: str
    think_start: str
    think_end: str
    wait_text: str
    answer_prompt: str
    enforces: tuple[str, ...]
    max_model_len: int
    minimum_room: int
    """Fewest completion tokens that a budgeted request may ask for."""
    start_tokens: int
    end_tokens: int
    answer_prompt_tokens: int
    tokenizer: dict[str, Any]
    """The arguments with which vLLM made the model's tokenizer: an API server process makes it alike."""
    reserved_tokens: tuple[int, ...]
    """Tokens that no wait text may contain."""
    markers: dict[str, Any]
    """`MarkerIds.to_json`."""
    checkpoint: str | None = None
    """Another where other weights were loaded under the same name; None where that isn't known."""

    @classmethod
    def of(
        cls,
        ids: MarkerIds,
        *,
        processor: str,
        max_model_len: int,
        tokenizer: dict[str, Any],
        may_be_told: bool,
        checkpoint: str | None,
    ) -> EngineInfo:
        """
        Args:
            may_be_told: the engine can be told to end a request's thinking (rule 10).
        """
        return cls(
            protocol=PROTOCOL,
            processor=processor,
            family=ids.family.name,
            think_start=ids.family.think_start,
            think_end=ids.family.think_end,
            wait_text=ids.family.wait_text,
            answer_prompt=ids.family.answer_prompt,
            enforces=tuple(name for name in BUDGET_FIELDS if may_be_told or name != TIME_LIMIT),
            max_model_len=max_model_len,
            minimum_room=minimum_room(opening_tokens=len(ids.start), exit_tokens=ids.exit_tokens()),
            start_tokens=len(ids.start),
            end_tokens=len(ids.end),
            answer_prompt_tokens=len(ids.answer_prompt),
            tokenizer=tokenizer,
            reserved_tokens=tuple(sorted(ids.reserved)),
            markers=ids.to_json(),
            checkpoint=checkpoint,
        )

    def write(self, directory: Path) -> None:
        write_info(directory, asdict(self))


def write_info(directory: Path, fields: Mapping[str, Any]) -> None:
    # Replicas write the same at the same time.
    partial = directory / f"{_INFO_FILE}.{os.getpid()}.partial"
    partial.write_text(json.dumps(fields))
    partial.rename(directory / _INFO_FILE)


def read_info(directory: Path) -> dict[str, Any] | None:
    """The engine's description, or None while its worker has not started."""
    try:
        info: dict[str, Any] = json.loads((directory / _INFO_FILE).read_text())
    except FileNotFoundError:
        return None
    return info


@functools.cache
def _cached_info(directory: Path) -> EngineInfo:
    info = read_info(directory)
    if info is None:
        raise FileNotFoundError(directory / _INFO_FILE)
    tuples = {name: tuple(info[name]) for name in ("enforces", "reserved_tokens")}
    return EngineInfo(**{**info, **tuples})


def admission_info(directory: Path | None) -> EngineInfo | None:
    """The engine's description in an API server process, where requests are admitted; None if unknown."""
    if directory is None:
        return None
    try:
        return _cached_info(directory)
    except FileNotFoundError:
        return None


def socket_address(directory: Path, replica: int) -> str:
    return f"ipc://{directory}/receipts-{replica}.sock"


_DESCRIPTION = "engine"


class ReceiptPublisher:
    """The worker's end. Sending never blocks a decoding step."""

    def __init__(
        self, directory: Path, info: EngineInfo, *, replica: int, address: str | None = None
    ) -> None:
        """
        Args:
            address: of the API server on another machine. What is sent before it listens is kept for it.
        """
        self._context = zmq.Context()
        self._socket = self._context.socket(zmq.PUB if address is None else zmq.PUSH)
        self._socket.setsockopt(zmq.SNDHWM, 0)
        self._socket.setsockopt(zmq.LINGER, 0)
        if address is None:
            self._socket.bind(socket_address(directory, replica))
            info.write(directory)
        else:
            self._socket.connect(address)
            self._send({_DESCRIPTION: asdict(info)})

    def publish(self, receipt: EngineReceipt) -> None:
        self._send(receipt.to_json())

    def close(self) -> None:
        self._context.destroy()

    def _send(self, message: Mapping[str, Any]) -> None:
        self._socket.send(json.dumps(message).encode(), zmq.NOBLOCK)


def subscribe(context: zmq.asyncio.Context, directory: Path, *, replicas: int, address: str | None) -> Any:
    """The API server's end: a socket from which `receive` reads the receipts of all replicas.

    Raises:
        zmq.ZMQError: another process listens at the address's port already.
    """
    socket = context.socket(zmq.SUB if address is None else zmq.PULL)
    socket.setsockopt(zmq.RCVHWM, 0)
    if address is not None:
        try:
            socket.bind(f"tcp://*:{address.rpartition(':')[2]}")
        except zmq.ZMQError:
            socket.close()
            raise
        return socket
    socket.subscribe(b"")
    for replica in range(replicas):
        socket.connect(socket_address(directory, replica))
    return socket


async def receive(socket: Any, directory: Path) -> dict[str, Any] | None:
    """The next receipt; None if it was the engine's description, which is written to `directory`."""
    message: dict[str, Any] = json.loads(await socket.recv())
    if _DESCRIPTION in message:
        write_info(directory, message[_DESCRIPTION])
        return None
    return message
