"""What `s1` shows: its commands, their key, and a server that is ready."""

from __future__ import annotations

import asyncio
import os
import re
import subprocess
import sys

import pytest
import typer
from typer.testing import CliRunner

from server.cli import app
from server.serve import chat_command
from tests.gateway.stand_in import StandIn, running


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


@pytest.mark.parametrize(
    ("command", "also"),
    [
        ("chat", None),
        ("top", None),
        ("loadtest", "S1_LOADTEST_API_KEY"),
        ("conformance", "OPENAI_API_KEY"),
        ("evaluate", None),
    ],
)
def test_every_client_takes_its_key_from_the_same_variable(command: str, also: str | None) -> None:
    found = typer.main.get_command(app).commands[command]  # type: ignore[attr-defined]
    (option,) = [parameter for parameter in found.params if "--api-key" in parameter.opts]
    names = [option.envvar] if isinstance(option.envvar, str) else option.envvar
    assert names == ["S1_API_KEY", *([also] if also else [])]


def served_until_told(*arguments: str, env: dict[str, str]) -> str:
    """What `s1 serve` prints until it tells how it is stopped."""
    argv = [sys.executable, "-m", "server.cli", "serve", "--port", "0", *arguments]
    with subprocess.Popen(argv, stderr=subprocess.PIPE, text=True, env=env) as serving:
        assert serving.stderr is not None
        lines = []
        for line in serving.stderr:
            lines.append(line)
            if "Ctrl-C" in line:
                break
        serving.terminate()
        serving.stderr.read()
    return "".join(lines)


@pytest.mark.parametrize("workers", ["1", "2"])
async def test_a_server_that_is_ready_names_its_models_and_what_to_try(workers: str) -> None:
    async with running(StandIn(models=("small", "large"))) as engine:
        told = await asyncio.to_thread(
            served_until_told, "--engine-url", engine.url, "--workers", workers, env=dict(os.environ)
        )
    at = re.search(r"ready +small, large at (http://[0-9.:]+)/v1 ", told)
    assert at, told
    assert f"in a terminal: s1 chat --url {at[1]} --model small\n" in told
    assert "Ctrl-C stops the gateway; engines run on." in told


def test_the_chat_to_try_names_only_what_it_would_not_find() -> None:
    assert chat_command("http://127.0.0.1:8000", ["tiny"]) == "s1 chat"
    assert chat_command("http://127.0.0.1:9000", ["a b", "c"]) == (
        "s1 chat --url http://127.0.0.1:9000 --model 'a b'"
    )
