"""A step that goes on with what it had begun does so only if it was begun from the same."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from training.chain.step import Run, Step
from training.terminal import Terminal
from training.train import TrainError

pytest.importorskip("safetensors")


@dataclass
class Calls:
    """Adds a line per call to a file of its folder, and is interrupted after `until` of `wanted`."""

    tag: str
    until: int = 9
    wanted: int = 3
    found: list[list[str]] = field(default_factory=list)
    """What lay in the folder at each start."""

    def make(self, folder: Path) -> Mapping[str, Any]:
        calls = folder / "calls.txt"
        lines = calls.read_text().splitlines() if calls.is_file() else []
        self.found.append(lines)
        for number in range(len(lines), self.wanted):
            if number == self.until:
                raise KeyboardInterrupt
            with calls.open("a") as file:
                file.write(f"{self.tag}{number}\n")
        return {}


@pytest.fixture
def upstream(tmp_path: Path) -> Path:
    path = tmp_path / "upstream.txt"
    path.write_text("one")
    return path


def do(upstream: Path, calls: Calls, *, size: int = 1, overwrite: bool = False) -> list[str]:
    settings = {"size": size, "data": {"max_length": 768, "size": size}}
    run = Run(upstream.parent / "run", overwrite, Terminal())
    run.do(Step("curate/asking", settings, (upstream,), calls.make, resumes=True))
    return (run.folder("curate/asking") / "calls.txt").read_text().splitlines()


def interrupted(upstream: Path, tag: str = "a") -> None:
    with pytest.raises(KeyboardInterrupt):
        do(upstream, Calls(tag, until=2))


def test_an_interrupted_step_goes_on(upstream: Path) -> None:
    interrupted(upstream)
    calls = Calls("b")
    assert do(upstream, calls) == ["a0", "a1", "b2"]
    assert calls.found == [["a0", "a1"]]
    assert do(upstream, Calls("c")) == ["a0", "a1", "b2"]


@pytest.mark.parametrize("change", ["settings", "upstream"])
def test_what_was_begun_from_something_else_is_refused_and_begun_anew_on_request(
    upstream: Path, change: str
) -> None:
    interrupted(upstream)
    size = 1
    if change == "settings":
        size, changed = 2, r"data.size was 1, now 2"
    else:
        upstream.write_text("another")
        changed = "made from another upstream.txt"
    calls = Calls("b")
    with pytest.raises(
        TrainError, match=rf"asking holds .*\({changed}\); pass another --out, or --overwrite"
    ):
        do(upstream, calls, size=size)
    assert calls.found == []
    assert do(upstream, calls, size=size, overwrite=True) == ["b0", "b1", "b2"]


def test_what_was_begun_anew_goes_on_too(upstream: Path) -> None:
    interrupted(upstream)
    with pytest.raises(KeyboardInterrupt):
        do(upstream, Calls("b", until=1), size=2, overwrite=True)
    assert do(upstream, Calls("c"), size=2, overwrite=True) == ["b0", "c1", "c2"]


def test_a_folder_that_does_not_say_what_it_was_begun_from_counts_as_another(upstream: Path) -> None:
    folder = upstream.parent / "run" / "curate" / "asking"
    folder.mkdir(parents=True)
    (folder / "calls.txt").write_text("x0\n")
    with pytest.raises(TrainError, match="says from what"):
        do(upstream, Calls("a"))
    assert do(upstream, Calls("a"), overwrite=True) == ["a0", "a1", "a2"]


def test_a_finished_step_that_does_not_say_it_is_finished_all_the_same(upstream: Path) -> None:
    done = do(upstream, Calls("a"))
    for path in (upstream.parent / "run" / "curate").glob("*.json"):
        path.unlink()
    calls = Calls("b")
    assert do(upstream, calls) == done and calls.found == []


def test_a_finished_step_is_made_anew_from_nothing(upstream: Path) -> None:
    do(upstream, Calls("a"))
    calls = Calls("b")
    assert do(upstream, calls, size=2, overwrite=True) == ["b0", "b1", "b2"]
    assert calls.found == [[]]
