"""Keys: the records, the file, and the command that changes it."""

from __future__ import annotations

import json
import stat
import threading
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from typer.testing import CliRunner

from server.cli import app
from server.gateway.access.keys import (
    KeysError,
    KeysFile,
    Quotas,
    add_key,
    new_key,
    read_keys,
    remove_key,
    split_key,
)


def test_only_a_hash_is_kept(tmp_path: Path) -> None:
    path = tmp_path / "keys.json"
    record, key = new_key("ann")
    add_key(path, record)
    id, secret = split_key(key) or ("", "")
    assert key.startswith("s1-") and id == record.id
    assert len(secret) >= 43, "256 bits"
    assert secret not in path.read_text()
    assert record.matches(secret)
    assert not record.matches(secret[:-1])
    assert not record.matches("")
    assert stat.S_IMODE(path.stat().st_mode) == 0o600


def test_two_keys_have_nothing_in_common() -> None:
    (first, key), (second, other) = new_key("a"), new_key("b")
    assert first.id != second.id
    assert first.sha256 != second.sha256
    assert key.split("-")[2] != other.split("-")[2]


@pytest.mark.parametrize("presented", ["", "s1-", "s1-abc", "s1-abc-", "sk-abc-def", "abc-def"])
def test_what_is_no_key(presented: str) -> None:
    assert split_key(presented) is None


def test_a_secret_may_hold_dashes() -> None:
    assert split_key("s1-0123456789ab-x-y_z-") == ("0123456789ab", "x-y_z-")


def test_a_change_keeps_the_mode_and_the_others(tmp_path: Path) -> None:
    path = tmp_path / "keys.json"
    for name in ("a", "b", "c"):
        add_key(path, new_key(name)[0])
    assert remove_key(path, "b").name == "b"
    assert [key.name for key in read_keys(path).keys] == ["a", "c"]
    assert remove_key(path, read_keys(path).keys[0].id).name == "a"
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert {entry.name for entry in tmp_path.iterdir()} == {"keys.json", "keys.json.lock"}


def test_changes_at_the_same_time_lose_nothing(tmp_path: Path) -> None:
    path = tmp_path / "keys.json"

    def add_ten(prefix: str) -> None:
        for number in range(10):
            add_key(path, new_key(f"{prefix}{number}")[0])

    threads = [threading.Thread(target=add_ten, args=(prefix,)) for prefix in "abcd"]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(read_keys(path).keys) == 40


@pytest.mark.parametrize(
    ("fields", "says"),
    [
        ({"name": "a b"}, ["name", "'a b'"]),
        ({"name": ""}, ["name"]),
        ({"name": "a", "caps": {"max_joy": 1}}, ["caps", "max_joy", "max_thinking_tokens"]),
        ({"name": "a", "caps": {"num_waits": 5000}}, ["caps", "num_waits", "1024", "5000"]),
        ({"name": "a", "quotas": {"concurrency": 0}}, ["quotas.concurrency", "1", "0"]),
        ({"name": "a", "quotas": {"joy": 1}}, ["quotas.joy"]),
        ({"name": "a", "expires": datetime(2030, 1, 1)}, ["expires", "timezone"]),
    ],
)
def test_a_record_that_cant_be(fields: dict[str, object], says: list[str]) -> None:
    with pytest.raises(KeysError) as raised:
        new_key(**fields)  # type: ignore[arg-type]
    for part in says:
        assert part in str(raised.value)


@pytest.mark.parametrize(
    ("content", "says"),
    [
        ("", "Invalid JSON"),
        ("[]", "object"),
        ('{"version": 2, "keys": []}', "version"),
        ('{"keys": [{"id": "x"}]}', "keys.0.id"),
        ('{"keys": [], "joy": 1}', "joy"),
    ],
)
def test_a_file_that_is_no_keys_file(tmp_path: Path, content: str, says: str) -> None:
    path = tmp_path / "keys.json"
    path.write_text(content)
    with pytest.raises(KeysError, match=says) as raised:
        read_keys(path)
    assert str(path) in str(raised.value)


def test_names_and_ids_are_unique(tmp_path: Path) -> None:
    path = tmp_path / "keys.json"
    record, _ = new_key("ann")
    add_key(path, record)
    with pytest.raises(KeysError, match="ann"):
        add_key(path, new_key("ann")[0])
    twice = KeysFile(keys=(record,)).model_dump(mode="json")
    twice["keys"] *= 2
    path.write_text(json.dumps(twice))
    with pytest.raises(KeysError, match=record.id):
        read_keys(path)


def run(*arguments: str) -> tuple[int, str, str]:
    done = CliRunner().invoke(app, ["keys", *arguments])
    return done.exit_code, done.stdout, done.stderr


def test_the_command_makes_lists_and_revokes(tmp_path: Path) -> None:
    file = str(tmp_path / "keys.json")
    code, key, notes = run(
        *("create", "team-a", "--file", file, "--expires", "30d", "--model", "tiny", "--admin"),
        *("--cap", "max_thinking_tokens=500", "--cap", "num_waits=2"),
        *("--requests-per-minute", "10", "--thinking-tokens-per-day", "9000"),
    )
    assert code == 0
    (record,) = read_keys(Path(file)).keys
    assert key.strip().startswith(f"s1-{record.id}-")
    assert key.strip() not in notes
    assert (record.name, record.models, record.admin) == ("team-a", ("tiny",), True)
    assert record.caps == {"max_thinking_tokens": 500, "num_waits": 2}
    assert record.quotas == Quotas(requests_per_minute=10, thinking_tokens_per_day=9000)
    assert record.expires is not None
    assert abs(record.expires - datetime.now(UTC) - timedelta(days=30)) < timedelta(minutes=5)

    assert run("create", "team-b", "--file", file)[0] == 0
    code, listed, _ = run("list", "--file", file, "--json")
    assert [json.loads(line)["name"] for line in listed.splitlines()] == ["team-a", "team-b"]
    assert record.sha256 not in listed
    assert "max_thinking_tokens 500" in " ".join(run("list", "--file", file)[1].split())

    assert run("revoke", "team-a", "--file", file)[0] == 0
    assert [left.name for left in read_keys(Path(file)).keys] == ["team-b"]


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["create", "a", "--cap", "max_thinking_tokens"], "FIELD=NUMBER"),
        (["create", "a", "--cap", "joy=1"], "joy"),
        (["create", "a", "--expires", "soon"], "soon"),
        (["create", "a", "--expires", "2001-01-01"], "future"),
        (["create", "no spaces"], "no spaces"),
        (["revoke", "nobody"], "nobody"),
        (["list"], "keys.json"),
    ],
)
def test_the_command_says_what_is_wrong(tmp_path: Path, arguments: list[str], says: str) -> None:
    code, out, notes = run(*arguments, "--file", str(tmp_path / "keys.json"))
    assert code == 2
    assert out == ""
    assert says in " ".join(notes.split())
