from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from transformers import AutoTokenizer

from server.budget.families import FAMILIES, FamilyError, FamilyOptions
from server.engine import config, launch
from server.engine.launch import EngineOptions, LaunchError, check_model, command, engine_environment
from tests.support.engines import DEMO

S1 = FamilyOptions(family="s1")


@pytest.mark.parametrize(
    "argument",
    [
        "--logits-processors=x:Y",
        "--reasoning-parser",
        "--port",
        "--host=0.0.0.0",
        "--model",
        "--speculative-config",
    ],
)
def test_flags_that_are_ours_are_refused(argument: str) -> None:
    with pytest.raises(LaunchError, match=f"{argument.split('=')[0]} can't be given to the engine"):
        EngineOptions(model="m", extra_args=(argument,))


def test_the_users_flags_win_over_our_defaults() -> None:
    ours = command(EngineOptions(model="m"), host="127.0.0.1", port=1)
    theirs = command(
        EngineOptions(model="m", extra_args=("--tool-call-parser=llama3_json",)), host="127.0.0.1", port=1
    )
    assert ours[ours.index("--tool-call-parser") + 1] == "hermes"
    assert "--tool-call-parser" not in theirs
    assert theirs[-1] == "--tool-call-parser=llama3_json"


@pytest.mark.parametrize(
    ("options", "wanted"),
    [
        (EngineOptions(model="simplescaling/s1.1-32B"), True),
        (EngineOptions(model="anything", family=S1), True),
        (EngineOptions(model="Qwen/Qwen3-8B"), False),
        (EngineOptions(model="x", family=S1, extra_args=("--chat-template", "mine.jinja")), False),
    ],
)
def test_s1_models_get_the_template_that_opens_thinking(options: EngineOptions, wanted: bool) -> None:
    assert (str(launch.S1_TEMPLATE) in command(options, host="h", port=1)) == wanted


def test_a_checkpoint_with_its_own_thinking_template_keeps_it(tmp_path: Path) -> None:
    (tmp_path / "chat_template.jinja").write_text("…<|im_start|>think…")
    argv = command(EngineOptions(model=str(tmp_path), family=S1), host="h", port=1)
    assert "--chat-template" not in argv


def test_the_environment_reaches_the_engines_processes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    options = EngineOptions(model="m", family=FamilyOptions("qwen3"), extra_args=("--data-parallel-size=3",))
    variables = engine_environment(options, run_dir=tmp_path, base={"VLLM_CPU_KVCACHE_SPACE": "7"})
    assert variables["VLLM_CPU_KVCACHE_SPACE"] == "7"
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    assert config.run_dir() == tmp_path
    assert config.replicas() == 3
    assert json.loads(os.environ[config.FAMILY_VARIABLE]) == {"family": "qwen3"}


@pytest.mark.parametrize(
    "arguments",
    [("--data-parallel-size", "2"), ("--data_parallel_size=2",), ("--data_parallel_size", "2"), ("-dp", "2")],
)
def test_replicas_are_counted_however_they_are_spelt(tmp_path: Path, arguments: tuple[str, ...]) -> None:
    variables = engine_environment(
        EngineOptions(model="m", family=S1, extra_args=arguments), run_dir=tmp_path, base={}
    )
    assert variables[config.REPLICAS_VARIABLE] == "2"


def test_what_is_described_reaches_the_engines_processes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    described = FamilyOptions.read(think_start="<a>", think_end="</a>", answer_prompt=r"\n\\boxed")
    variables = engine_environment(EngineOptions(model="m", family=described), run_dir=tmp_path, base={})
    monkeypatch.setenv(config.FAMILY_VARIABLE, variables[config.FAMILY_VARIABLE])
    family = config.family_for(model="m", tokenizer=AutoTokenizer.from_pretrained(DEMO))
    assert (family.think_start, family.think_end, family.answer_prompt) == ("<a>", "</a>", "\n\\boxed")


def test_a_refused_family_is_what_the_server_says_at_the_end(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(config.RUN_DIR_VARIABLE, str(tmp_path))
    monkeypatch.setenv(config.FAMILY_VARIABLE, json.dumps({"think_start": "<a>", "think_end": "</a>"}))
    assert config.read_refusal(tmp_path) is None
    tokenizer = AutoTokenizer.from_pretrained(DEMO)
    with pytest.raises(FamilyError):
        config.engine_marker_ids(model="m", tokenizer=tokenizer, vocab_size=len(tokenizer), eos=[])
    refusal = config.read_refusal(tmp_path)
    assert refusal is not None and "--engine-url URL --think-start '<a>' --think-end '</a>'" in refusal


def test_without_budgets_the_engine_is_stock_vllm_and_its_parser_is_the_users(tmp_path: Path) -> None:
    options = EngineOptions(
        model="s1-x",
        family=FamilyOptions(family="none"),
        extra_args=("--reasoning-parser", "glm45", "--speculative-config", "{}"),
    )
    argv = command(options, host="h", port=1)
    assert argv[-4:] == list(options.extra_args)
    ours = {"--logits-processors", "--middleware", "--reasoning-parser-plugin", "--chat-template"}
    assert not ours & set(argv)
    variables = engine_environment(options, run_dir=tmp_path, base={})
    assert "VLLM_USE_V2_MODEL_RUNNER" not in variables
    asked = engine_environment(options, run_dir=tmp_path, base={"S1_ENGINE_RUNNER": "v1"})
    assert asked["VLLM_USE_V2_MODEL_RUNNER"] == "0"
    with pytest.raises(LaunchError, match="--port can't be given"):
        EngineOptions(model="m", family=FamilyOptions(family="none"), extra_args=("--port", "1"))


def render(messages: list[dict[str, object]], **variables: object) -> str:
    import jinja2

    environment = jinja2.Environment()
    environment.policies["json.dumps_kwargs"] = {"sort_keys": False}
    template = environment.from_string(launch.S1_TEMPLATE.read_text())
    return template.render(messages=messages, add_generation_prompt=True, **variables)


def test_the_s1_template_is_chatml_with_thinking_opened() -> None:
    assert render([{"role": "user", "content": "Hi"}]) == (
        "<|im_start|>system\nYou are Qwen, created by Alibaba Cloud. You are a helpful assistant.<|im_end|>\n"
        "<|im_start|>user\nHi<|im_end|>\n"
        "<|im_start|>assistant\n<|im_start|>think"
    )
    assert FAMILIES["s1"].think_start in launch.S1_TEMPLATE.read_text()


def test_the_s1_template_renders_tools_calls_and_results() -> None:
    call = {"type": "function", "function": {"name": "add", "arguments": '{"a": 1}'}}
    text = render(
        [
            {"role": "system", "content": "Be brief."},
            {"role": "user", "content": [{"type": "text", "text": "1+1"}]},
            {"role": "assistant", "content": "", "tool_calls": [call]},
            {"role": "tool", "content": "2"},
            {"role": "tool", "content": "3"},
        ],
        tools=[{"type": "function", "function": {"name": "add"}}],
    )
    assert text.startswith("<|im_start|>system\nBe brief.\n\n# Tools")
    assert '{"type": "function", "function": {"name": "add"}}' in text
    assert (
        '<|im_start|>assistant\n<tool_call>\n{"name": "add", "arguments": {"a": 1}}\n</tool_call><|im_end|>'
        in text
    )
    results = "<tool_response>\n2\n</tool_response>\n<tool_response>\n3\n</tool_response><|im_end|>\n"
    assert f"<|im_start|>user\n{results}" in text


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (
            ["serve", "model", "--engine-url", "http://127.0.0.1:9"],
            "MODEL can't be combined with --engine-url",
        ),
        (["serve", "--engine-url", "http://127.0.0.1:9", "--", "--x"], "engine arguments after --"),
        *[
            (
                ["serve", "--engine-url", "http://127.0.0.1:9", option, value],
                f"{option} can't be combined with --engine-url: that engine runs already. Given: {value}",
            )
            for option, value in (
                ("--tensor-parallel-size", "1"),
                ("--pipeline-parallel-size", "2"),
                ("--max-model-len", "512"),
                ("--served-model-name", "m"),
                ("--log-file", "x"),
            )
        ],
        (["serve", "/no/such/checkpoint"], "MODEL: there is no folder /no/such/checkpoint"),
        (["serve", "--", "--port", "5"], "--port can't be given to the engine"),
        (["serve", "--engine-url", "127.0.0.1:9"], "an engine URL is http"),
        (["serve", "--family", "r2"], "--family must be one of s1, deepseek_r1"),
        (["engine", "--family", "r2"], "--family must be one of s1, deepseek_r1"),
        (["serve", "--think-end", " "], "--think-end must have visible characters. Given: ' '"),
        (["engine", "--think-start", "<a>", "--think-end", "<a>"], "--think-end must differ from"),
        (["engine", "--family", "none", "--wait-text", "Hm"], "--wait-text can't be combined with"),
        (
            [
                "serve",
                "--engine-url",
                "http://127.0.0.1:9",
                "--family",
                "s1",
                "--answer-prompt",
                "<|im_start|>answer",
            ],
            "--answer-prompt can't contain the marker '<|im_start|>answer'",
        ),
        (["serve", "--port", "70000"], "70000"),
    ],
)
def test_the_command_line_refuses_by_name(arguments: list[str], says: str) -> None:
    done = subprocess.run([sys.executable, "-m", "server.cli", *arguments], capture_output=True, text=True)
    assert done.returncode == 2
    assert says in " ".join(done.stderr.split())


def test_an_engine_that_does_not_come_is_told_of(tmp_path: Path) -> None:
    argv = [sys.executable, "-m", "server.cli", "serve", "--port", "0", "--engine-url", "http://127.0.0.1:9"]
    with subprocess.Popen(argv, stderr=subprocess.PIPE, text=True) as serving:
        assert serving.stderr is not None
        lines = []
        for line in serving.stderr:
            lines.append(line)
            if "no engine is ready" in line:
                break
        serving.terminate()
        serving.stderr.read()
    assert "http://127.0.0.1:9: cannot connect to 127.0.0.1:9" in lines[-1], lines


def test_a_taken_port_is_named() -> None:
    import socket

    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        arguments = ["serve", "--engine-url", "http://127.0.0.1:9", "--port", str(port)]
        done = subprocess.run(
            [sys.executable, "-m", "server.cli", *arguments], capture_output=True, text=True
        )
    assert done.returncode == 1
    assert f"can't listen on 127.0.0.1:{port}" in done.stderr


def test_a_folder_that_is_no_checkpoint_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for missing in (str(tmp_path / "none"), "./none", "~/none-of-these"):
        with pytest.raises(LaunchError, match=f"MODEL: there is no folder {missing}"):
            check_model(missing)
    with pytest.raises(LaunchError, match="has no config.json and no params.json"):
        check_model(str(tmp_path))
    (tmp_path / "params.json").write_text("{}")
    check_model(str(tmp_path))
    monkeypatch.chdir(tmp_path)
    check_model("mistralai/Magistral-Small-2509")
    check_model(str(DEMO))
