"""What is checked, and how much of it: read from the command line, handed to the parts as JSON."""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, fields
from datetime import date
from pathlib import Path
from typing import Any, Literal

Device = Literal["cuda", "cpu"]
PARTS = ("smoke", "exactness", "overhead")

_DEFAULTS: dict[Device, dict[str, Any]] = {
    "cuda": {
        "requests": 128,
        "dtype": "float32",
        "shapes": ("qwen2.5-7b",),
        "batches": (1, 16, 64, 256),
        "tokens": 128,
        "rounds": 5,
        "limit_s": 470.0,
    },
    "cpu": {
        "requests": 32,
        "dtype": "float32",
        "shapes": ("tiny",),
        "batches": (1, 8),
        "tokens": 48,
        "rounds": 3,
        "limit_s": 900.0,
    },
}


@dataclass(frozen=True, slots=True)
class Options:
    """One run of the check."""

    model: str
    """Directory of a checkpoint: its weights for smoke and exactness, its tokenizer for all."""
    out: str
    device: Device
    parts: tuple[str, ...]
    requests: int
    """Budgeted requests of the exactness part; half as many without a budget run among them."""
    dtype: str
    """Of the exactness part. float32 leaves the fewest ties to rounding; its attention kernel is Triton's."""
    shapes: tuple[str, ...]
    batches: tuple[int, ...]
    tokens: int
    """Output tokens of every request of the overhead part."""
    rounds: int
    limit_s: float
    """For everything together."""
    runner: Literal["v1", "v2"]
    """vLLM's runner in the overhead part."""

    def to_json(self) -> str:
        return json.dumps(asdict(self))

    @classmethod
    def from_json(cls, text: str) -> Options:
        read: dict[str, Any] = json.loads(text)
        return cls(**read | {name: tuple(value) for name, value in read.items() if isinstance(value, list)})

    @property
    def out_dir(self) -> Path:
        return Path(self.out)


def parse(arguments: Sequence[str], *, device: Device) -> Options:
    """Read the command line; what is not given follows from the device. Exits on a malformed one."""
    known, _ = _device_parser(device).parse_known_args(arguments)
    chosen: Device = known.device
    parser = argparse.ArgumentParser(
        prog="loadtest/gpu_check.sh", description=__doc__, parents=[_device_parser(device)]
    )
    parser.add_argument("model", type=_checkpoint, help="directory of a checkpoint")
    parser.add_argument("out", nargs="?", help="where results go; default: docs/results/gpu-DATE")
    parser.add_argument("--parts", type=_words, default=PARTS, help=f"some of {','.join(PARTS)}")
    parser.add_argument("--runner", choices=("v1", "v2"), help="vLLM's runner in the overhead part")
    for name, value in _DEFAULTS[chosen].items():
        parser.add_argument(f"--{name.replace('_', '-')}", type=_reader(value), default=value)
    given = vars(parser.parse_args(arguments))
    unknown = set(given["parts"]) - set(PARTS)
    if unknown:
        parser.error(f"--parts must be some of {', '.join(PARTS)}. Given: {', '.join(sorted(unknown))}")
    if chosen == "cpu" and given["runner"] == "v2":
        parser.error("--runner v2 needs an NVIDIA GPU: vLLM has no V2 runner on a CPU. Leave it out")
    given["runner"] = given["runner"] or ("v1" if chosen == "cpu" else "v2")
    given["out"] = given["out"] or f"docs/results/gpu-{date.today().isoformat()}"
    return Options(**{f.name: given[f.name] for f in fields(Options)})


def _device_parser(device: Device) -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(add_help=False)
    parser.add_argument("--device", choices=("cuda", "cpu"), default=device, help=f"default here: {device}")
    return parser


def _reader(default: Any) -> Any:
    if isinstance(default, tuple):
        return _numbers if isinstance(default[0], int) else _words
    return _positive if isinstance(default, int) else type(default)


def _positive(text: str) -> int:
    value = int(text)
    if value < 1:
        raise argparse.ArgumentTypeError(f"must be >= 1. Given: {value}")
    return value


def _numbers(text: str) -> tuple[int, ...]:
    return tuple(_positive(part) for part in text.split(","))


def _words(text: str) -> tuple[str, ...]:
    return tuple(text.split(","))


def _checkpoint(text: str) -> str:
    directory = Path(text)
    for name in ("config.json", "tokenizer_config.json"):
        if not (directory / name).is_file():
            raise argparse.ArgumentTypeError(f"a checkpoint's directory has a {name}. Given: {text}")
    return str(directory.resolve())
