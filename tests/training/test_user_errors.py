"""What users run into, in every stage that can meet it: one line, and a state to go on from."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from server.engine.supervisor import free_port
from tests.support.commands import file_size_limit, manifest, rows, s1_fails, s1_ok
from tests.support.fake_models import FakeModels, Json, fake_models, openai_reply, prompt_of
from tests.support.question_files import write_jsonl

NUM_QUESTIONS = 12
Command = list[str | Path]


def question(number: int, **fields: Any) -> dict[str, Any]:
    return {
        "question": f"What is 2 times {number}?",
        "answer": str(2 * number),
        "domain": "11",
        "thinking": f"Two times {number}.",
        "trace_answer": str(2 * number),
        "thinking_tokens": 4,
        **fields,
    }


@pytest.fixture
def pool(tmp_path: Path) -> Path:
    return write_jsonl(tmp_path / "pool.jsonl", [question(n) for n in range(NUM_QUESTIONS)])


def wrong(body: Json) -> Json:
    """No solver is ever right, and every labeller says geometry."""
    answer = "51" if "MSC" in prompt_of(body) or "code" in prompt_of(body) else "1"
    return openai_reply(answer, "Hm.", tokens=9)


def quick(command: Command) -> Command:
    return [*command, "--concurrency", "1", "--retry-for", "0"]


def solving(pool: Path, url: str) -> Command:
    return quick(["curate", "difficulty", pool, "--solver", f"m@{url}"])


def grading(pool: Path, url: str) -> Command:
    """The solver answers; only what words decide goes to the grader."""
    return [*solving(pool, url), "--grader", f"g@{url}"]


def teaching(pool: Path, url: str) -> Command:
    return quick(["traces", pool, "--teacher", f"m@{url}"])


def labelling(pool: Path, url: str) -> Command:
    command: Command = ["curate", "diversity", pool, "--size", "5", "--prefer", "none"]
    return quick([*command, "--label", "model", "--labeller", f"m@{url}"])


ASKING: dict[str, Callable[[Path, str], Command]] = {
    "difficulty": solving,
    "difficulty with a grader": grading,
    "traces": teaching,
    "diversity by a model": labelling,
}
LOCAL: dict[str, Callable[[Path], Command]] = {
    "collect": lambda pool: ["curate", "collect", "--source", pool],
    "quality": lambda pool: ["curate", "quality", pool, "--require-trace"],
    "decontaminate": lambda pool: ["curate", "decontaminate", pool, "--benchmark", f"b={pool}"],
    "diversity": lambda pool: ["curate", "diversity", pool, "--size", "5", "--prefer", "none"],
}


@pytest.mark.parametrize("stage", LOCAL)
def test_a_full_disk_in_stages_that_ask_nobody(tmp_path: Path, pool: Path, stage: str) -> None:
    out = tmp_path / "out"
    command = [*LOCAL[stage](pool), "--out", out]
    with file_size_limit(100):
        line = s1_fails(1, *command)
    assert f"can't write to {out}: " in line and "File too large; nothing is half-written." in line
    assert line.endswith("Run the same command to go on.")
    assert not (out / "manifest.json").exists() and not list(out.glob("*.partial"))
    s1_ok(*command)
    assert manifest(out)["counts"]["in"] == NUM_QUESTIONS


@pytest.mark.parametrize("stage", ASKING)
def test_a_full_disk_in_stages_that_ask_models_costs_no_answer(
    tmp_path: Path, pool: Path, stage: str
) -> None:
    """Once so full that no call fits, once so that some do; then only what is missing is asked."""
    out = tmp_path / "out"
    with fake_models(wrong) as models:
        command = [*ASKING[stage](pool, models.url), "--out", out]
        for limit in (100, 1500):
            with file_size_limit(limit):
                line = s1_fails(1, *command)
            assert f"can't write to {out}: File too large" in line, limit
            assert line.endswith("Run the same command to go on.")
            assert not (out / "manifest.json").exists()
        kept = len(rows_of_calls(out))
        assert 0 < kept < NUM_QUESTIONS
        s1_ok(*command)
        asked = [prompt_of(body) for body in models.requests[-(NUM_QUESTIONS - kept) :]]
        assert len(rows_of_calls(out)) == NUM_QUESTIONS == len(set(asked)) + kept
        assert manifest(out)["counts"]["in"] == NUM_QUESTIONS
        sent = models.num_requests
        (out / "manifest.json").unlink()
        s1_ok(*command)
        assert models.num_requests == sent


def rows_of_calls(out: Path) -> list[str]:
    return (out / "calls.jsonl").read_text().splitlines()


@pytest.mark.parametrize("stage", ASKING)
def test_an_endpoint_that_is_down(tmp_path: Path, pool: Path, stage: str) -> None:
    url = f"http://127.0.0.1:{free_port()}/v1"
    line = s1_fails(1, *ASKING[stage](pool, url), "--out", tmp_path / "out")
    assert f"m at {url} does not answer" in line and line.endswith("Run the same command to go on.")
    with fake_models(wrong) as models:
        s1_ok(*ASKING[stage](pool, models.url), "--out", tmp_path / "out")


def test_a_grader_that_is_down_costs_no_solvers_answer(tmp_path: Path) -> None:
    words = [question(n, answer=f"the even number {2 * n}") for n in range(3)]
    path, out = write_jsonl(tmp_path / "words.jsonl", words), tmp_path / "out"
    nobody = f"http://127.0.0.1:{free_port()}/v1"

    def yes_or_no(body: Json) -> Json:
        return openai_reply("No") if "## Attempt" in prompt_of(body) else wrong(body)

    def stage(models: FakeModels, grader: str) -> Command:
        return [*solving(path, models.url), "--grader", f"g@{grader}", "--out", out]

    with fake_models(yes_or_no) as models:
        line = s1_fails(1, *stage(models, nobody))
        assert f"g at {nobody} does not answer" in line
        assert models.num_requests == 3
        s1_ok(*stage(models, models.url))
        assert models.num_requests == 6
    assert len(rows(out)) == 3


@pytest.mark.parametrize("stage", [*LOCAL, *ASKING])
def test_a_question_column_that_is_missing(tmp_path: Path, stage: str) -> None:
    path = write_jsonl(tmp_path / "odd.jsonl", [{"prompt_text": "What?", "answer": "4"}])
    nobody = f"http://127.0.0.1:{free_port()}/v1"
    command = LOCAL[stage](path) if stage in LOCAL else ASKING[stage](path, nobody)
    line = s1_fails(2, *command, "--out", tmp_path / "out")
    assert str(path) in line and "question" in line
    assert not (tmp_path / "out" / "manifest.json").exists()


@pytest.mark.parametrize(
    ("line", "why"),
    [
        ('{"question": "Two?", "answer": ' + "9" * 5000 + "}", "digits"),
        ('{"question": "Two \\ud800?", "answer": "2"}', "it holds '\\ud800', half of a pair"),
        ('{"question": "Two?", "answer": ' + "[" * 100_000, "it is nested more than 100 deep"),
        ('{"question": "Two?", "answer": ' + "[" * 900 + "]" * 900 + "}", "it is nested more than 100 deep"),
    ],
    ids=["digits", "surrogate", "brackets", "closed brackets"],
)
def test_a_line_that_python_can_not_hold(tmp_path: Path, line: str, why: str) -> None:
    path = tmp_path / "odd.jsonl"
    path.write_text('{"question": "One \\ud83d\\ude00?", "answer": "1"}\n' + line + "\n")
    commands: list[Command] = [
        ["evaluate", "check", path],
        ["curate", "collect", "--source", path, "--out", tmp_path / "1"],
        ["traces", path, "--teacher", "m@http://127.0.0.1:9", "--out", tmp_path / "2"],
    ]
    for command in commands:
        said = s1_fails(2, *command)
        assert f"{path}, line 2 can't be read: " in said and why in said, said
    said = s1_fails_sft(path, tmp_path / "3")
    assert "odd.jsonl row 2 can't be read: " in said and why in said, said


def test_an_empty_trace_is_dropped_by_quality_and_named_by_what_comes_after(tmp_path: Path) -> None:
    traced = [question(0), question(1, thinking="", thinking_tokens=None, trace_model="t")]
    path = write_jsonl(tmp_path / "traced.jsonl", traced)
    line = s1_fails(2, "curate", "diversity", path, "--size", "1", "--out", tmp_path / "1")
    assert "has no length of 'thinking'" in line
    line = s1_fails_sft(path, tmp_path / "2")
    assert "traced.jsonl row 2: column 'thinking' is empty" in line
    s1_ok("curate", "quality", path, "--require-trace", "--out", tmp_path / "3")
    assert manifest(tmp_path / "3")["funnel"][-1]["drops"] == {"empty_trace": 1}


def test_a_sequence_over_the_limit_is_a_matter_of_that_question(tmp_path: Path, pool: Path) -> None:
    """Of a server's context in stages that ask, of data.max_length in fine-tuning."""

    def too_long(body: Json) -> Any:
        from tests.support.fake_models import Fault

        return Fault(400, body="context length exceeded") if "times 7?" in prompt_of(body) else None

    with fake_models(wrong) as models:
        models.fault_of = too_long
        s1_ok(*solving(pool, models.url), "--out", tmp_path / "1")
        s1_ok(*teaching(pool, models.url), "--out", tmp_path / "2")
    assert manifest(tmp_path / "1")["funnel"][-1]["drops"] == {"solver_refused": 1}
    (refused,) = [row for row in rows(tmp_path / "2") if row["trace_error"]]
    assert "times 7?" in refused["question"] and "context length exceeded" in refused["trace_error"]
    line = s1_fails_sft(pool, tmp_path / "3", "--set", "data.max_length=16")
    assert "pool.jsonl row 1: has " in line and "more than data.max_length 16" in line


def s1_fails_sft(data: Path, out: Path, *options: str) -> str:
    from tests.support.commands import s1

    pytest.importorskip("trl")
    result = s1("sft", "--data", data, "--out", out, *options)
    assert result.exit_code == 2, result.output
    (line,) = result.stderr.splitlines()
    assert line.startswith("s1 sft: ") and not out.exists()
    return line


@pytest.mark.parametrize("stage", ["traces", "evaluate"])
def test_a_key_in_the_place_of_its_variable_is_not_repeated(pool: Path, tmp_path: Path, stage: str) -> None:
    url, secret = f"http://127.0.0.1:{free_port()}/v1", "s1-0123456789ab-secret"
    commands: dict[str, Command] = {
        "traces": [*teaching(pool, url), "--teacher-key", secret, "--out", tmp_path / "out"],
        "evaluate": ["evaluate", "run", "--url", url, "--model", "m", "--benchmark", pool, "--key", secret,
                     "--max", "100", "--out", tmp_path / "out"],
    }  # fmt: skip
    said = s1_fails(2, *commands[stage])
    assert "the name of the environment variable with the key" in said
    assert secret not in said
