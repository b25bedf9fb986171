"""How a reward model's engine is started."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from server.engine.launch import LaunchError
from server.engine.reward import DEFAULT_STEP_TAG, reward_command, reward_environment, step_tag_id
from tests.support.commands import s1

CHECKPOINTS = Path(__file__).parents[2] / "training" / "checkpoints"


def test_vllm_is_told_to_pool_at_the_tag() -> None:
    argv = reward_command("m", host="h", port=1, tag_id=418, extra_args=("--dtype", "float32"))
    assert argv[argv.index("--runner") + 1] == "pooling"
    assert json.loads(argv[argv.index("--pooler-config") + 1]) == {
        "task": "token_classify",
        "tok_pooling_type": "STEP",
        "step_tag_id": 418,
    }
    assert argv[-2:] == ["--dtype", "float32"]


@pytest.mark.parametrize("argument", ["--port=1", "--runner", "--pooler-config", "--model"])
def test_what_it_sets_itself_is_refused(argument: str) -> None:
    with pytest.raises(LaunchError, match=argument):
        reward_command("m", host="h", port=1, tag_id=1, extra_args=(argument,))


def test_the_tag_is_one_token_or_refused() -> None:
    assert step_tag_id(str(CHECKPOINTS / "tiny-prm"), DEFAULT_STEP_TAG) == 418
    with pytest.raises(LaunchError, match="--step-tag must be one token"):
        step_tag_id(str(CHECKPOINTS / "tiny-reasoner"), DEFAULT_STEP_TAG)
    with pytest.raises(LaunchError, match="can't be loaded"):
        step_tag_id(str(CHECKPOINTS / "nothing"), DEFAULT_STEP_TAG)


def test_the_command_says_what_is_wrong() -> None:
    result = s1("reward", CHECKPOINTS / "tiny-reasoner")
    assert result.exit_code == 2 and "--step-tag must be one token" in result.stderr


def test_the_callers_own_settings_win() -> None:
    environment = reward_environment((), {"VLLM_CPU_KVCACHE_SPACE": "7", "PATH": "x"})
    assert environment["VLLM_CPU_KVCACHE_SPACE"] == "7" and environment["PATH"] == "x"
    assert environment["VLLM_NO_USAGE_STATS"] == "1"
