"""The policy file: what is read, what is refused and where, its schema, and the commands around it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import yaml
from typer.testing import CliRunner

from server.budget.policy import Policy
from server.cli import app
from server.commands.policy import policy_schema
from server.gateway.policy_file import PolicyFileError, PolicyStore, parse_policy

ROOT = Path(__file__).parents[2]
SCHEMA = ROOT / "docs" / "policy.schema.json"

GOOD = """\
server:
  default: {max_thinking_tokens: 2048}
  cap: {max_thinking_tokens: 8192, num_waits: 8}
  preserve_thinking: template
models:
  tiny-reasoner:
    cap: {max_thinking_tokens: 512}
    floor: {min_thinking_tokens: 16}
    effort: {high: 400, low: 12.5%}
keys:
  ci: {strict: true, cap: {max_thinking_tokens: 64}}
"""

BAD: list[tuple[str, str]] = [
    ("a: 1", "p:1: a is not a field that is known here. Given: 1"),
    ("- a", "p:1: the policy must be an object. Given: ['a']"),
    (
        "server: {cap: {max_thinking_tokens: -1}}",
        "p:1: server.cap.max_thinking_tokens must be >= 0. Given: -1",
    ),
    (
        "server:\n  cap:\n    num_waits: 3\n  default:\n\n    num_waits: 4\n",
        "p:6: server.default.num_waits must be <= cap.num_waits (3). Given: 4",
    ),
    (
        "models:\n  x:\n    effort:\n      high: 0%\n",
        "p:4: models.x.effort.high must be tokens from 0 to 16777216, or a share such as 80%. Given: '0%'",
    ),
    (
        "models:\n  x:\n    effort: {hig: 5}\n",
        "p:3: models.x.effort.hig must be one of 'minimal', 'low', 'medium', 'high', 'xhigh' or 'max'. "
        "Given: 'hig'",
    ),
    ("server: {strict: 1}", "p:1: server.strict must be true or false. Given: 1"),
    ("server:\n", "p:1: server must be an object. Given: None"),
    ("models:\n  5: {}", "p:2: models.5 must be a string. Given: 5"),
    (
        "keys:\n  a:\n    preserve_thinking: keep\n",
        "p:3: keys.a.preserve_thinking is not a field that is known here. Given: 'keep'",
    ),
    (
        "server:\n  preserve_thinking: sometimes\n",
        "p:2: server.preserve_thinking must be one of 'template', 'keep' or 'strip'. Given: 'sometimes'",
    ),
    ("server: {cap: {num_waits: 1}, cap: {}}", "p:1: server.cap is given twice"),
    ("models:\n  a: {}\n  b: {}\n  a: {}\n", "p:4: models.a is given twice"),
    ("x: [", "p:1: this is not YAML: expected the node content, but found '<stream end>'"),
    (
        "server:\n  cap: {max_thinking_tokens: 2024-02-30}",
        "p:2: this is not YAML: '2024-02-30' is no valid timestamp",
    ),
    ("a: 0x_", "p:1: this is not YAML: '0x_' is no valid int"),
    ("\na: !!bool x", "p:2: this is not YAML: 'x' is no valid bool"),
    ("a: &x [*x]", "p: it holds itself, or is nested too deeply"),
    ("a: " + "[" * 5000, "p: it holds itself, or is nested too deeply"),
    ("x: !!python/name:os.system", "p:1: this is not YAML: could not determine a constructor"),
]


@pytest.mark.parametrize(("text", "says"), BAD, ids=[says[:60] for _, says in BAD])
def test_every_mistake_is_named_with_its_place(text: str, says: str) -> None:
    with pytest.raises(PolicyFileError) as caught:
        parse_policy(text, name="p")
    assert str(caught.value).startswith(says)


def test_a_good_file() -> None:
    policy = parse_policy(GOOD, name="p")
    assert policy.server.cap.num_waits == 8
    assert str(policy.efforts("tiny-reasoner")["low"]) == "12.5%"
    assert policy.keys["ci"].strict is True
    assert parse_policy("# nothing yet\n", name="p") == Policy()


def test_the_committed_schema_is_current_and_agrees_with_what_is_read() -> None:
    assert SCHEMA.read_text() == policy_schema(), "run `s1 policy schema > docs/policy.schema.json`"
    validator = jsonschema.Draft202012Validator(json.loads(SCHEMA.read_text()))
    validator.check_schema(validator.schema)
    assert not list(validator.iter_errors(yaml.safe_load(GOOD)))
    beyond_schema = (
        "given twice",
        "not YAML",
        "holds itself",
        "must be <= cap",
        "models.5",
        "high must be tokens",
    )
    for text, says in BAD:
        if not any(part in says for part in beyond_schema):
            assert list(validator.iter_errors(yaml.safe_load(text))), text


def test_a_file_that_cannot_be_read(tmp_path: Path) -> None:
    with pytest.raises(PolicyFileError, match="the policy can't be read"):
        PolicyStore(tmp_path / "missing.yaml")
    (tmp_path / "latin").write_bytes(b"\xff\xfe")
    with pytest.raises(PolicyFileError, match="the policy can't be read"):
        PolicyStore(tmp_path / "latin")


def test_reloading_takes_a_good_file_only(tmp_path: Path) -> None:
    file = tmp_path / "policy.yaml"
    file.write_text(GOOD)
    store = PolicyStore(file)
    before = store.current
    for broken in ("server: {caps: {}}", "x: [", "a: 2024-02-30", "a: &x [*x]"):
        file.write_text(broken)
        assert not store.reload()
        assert store.current is before
    file.unlink()
    assert not store.reload()
    assert store.current is before
    file.write_text("server: {cap: {num_waits: 1}}")
    assert store.reload()
    assert store.current.server.cap.num_waits == 1
    assert not PolicyStore(None).reload()


def run(*arguments: str) -> Any:
    return CliRunner().invoke(app, ["policy", *arguments], env={"COLUMNS": "200"})


def test_check_prints_what_would_be_effective(tmp_path: Path) -> None:
    file = tmp_path / "policy.yaml"
    file.write_text(GOOD)
    done = run("check", str(file))
    assert done.exit_code == 0
    blocks = done.stdout.split("\n")
    at = blocks.index("tiny-reasoner:")
    assert blocks[at + 1 : at + 4] == [
        "  a request without a budget: max_thinking_tokens 512, min_thinking_tokens 16",
        "  cap: max_thinking_tokens 512, num_waits 8 (clamped beyond)",
        "  floor: min_thinking_tokens 16 (clamped beyond)",
    ]
    at = blocks.index("any other model, key ci:")
    assert blocks[at + 1 : at + 3] == [
        "  a request without a budget: max_thinking_tokens 64",
        "  cap: max_thinking_tokens 64, num_waits 8 (refused beyond)",
    ]
    assert "  efforts: minimal 10%, low 12.5%, medium 50%, high 400, xhigh 95%, max 100%" in blocks


def test_check_tells_what_is_wrong(tmp_path: Path) -> None:
    file = tmp_path / "policy.yaml"
    file.write_text("server:\n  caps: {}\n")
    done = run("check", str(file))
    assert done.exit_code == 2
    assert f"{file}:2: server.caps is not a field that is known here" in done.stderr


def test_the_schema_command() -> None:
    assert json.loads(run("schema").stdout) == json.loads(SCHEMA.read_text())
