"""`s1 evaluate run` against a server that knows what it was asked: resuming, grading, refusing."""

from __future__ import annotations

import json
import threading
from collections import Counter
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from tests.support.fake_models import Fault, Json, fake_models, openai_reply, prompt_of
from training.evaluate.cli import app
from training.evaluate.samples import Sample, read_samples
from training.evaluate.suite import held_out_questions

TRUTHS = {question.text: question.truth for question in held_out_questions(6)}


def demo_reply(body: Json) -> Json:
    """Right if it may wait or think 64 tokens; thinks what it may."""
    allowed = body.get("max_thinking_tokens", 90)
    right = body.get("num_waits", 0) > 0 or allowed >= 64
    reply = openai_reply(TRUTHS[prompt_of(body)] if right else "?", tokens=allowed)
    reply["choices"][0]["thinking_budget"] = {"thinking_tokens": allowed, "ended_by": "model"}
    return reply


def run(*arguments: object) -> Result:
    return CliRunner().invoke(app, ["run", "--retry-for", "0", "--concurrency", "4", *map(str, arguments)])


def samples(folder: Path) -> list[Sample]:
    return read_samples(folder / "samples.parquet")


def test_a_run_asks_grades_and_records(tmp_path: Path) -> None:
    with fake_models(demo_reply) as models:
        options = ("--benchmark", "demo", "--limit", 6, "--max", "32,64", "--waits", "0,1")
        result = run("--url", models.url, "--model", "m", *options, "--out", tmp_path)
    assert result.exit_code == 0, result.output
    rows = samples(tmp_path)
    assert len(rows) == 24 and models.num_requests == 24
    assert {body["max_completion_tokens"] for body in models.requests} == {1024}
    assert {body["temperature"] for body in models.requests} == {0} and "seed" not in models.requests[0]
    right = Counter(row.setting.label() for row in rows if row.correct)
    assert right == {
        "max_thinking_tokens 32, num_waits 1": 6,
        "max_thinking_tokens 64, num_waits 0": 6,
        "max_thinking_tokens 64, num_waits 1": 6,
    }
    receipts = json.loads(rows[0].receipts)
    assert receipts == [{"thinking_tokens": rows[0].thinking_tokens, "ended_by": "model"}]
    facts = json.loads((tmp_path / "run.json").read_text())
    assert facts["benchmarks"][0]["num_questions"] == 6 and facts["graded_by"] == {"exact": 24}
    assert facts["errors"] == 0 and len(facts["series"][0]["points"]) == 4


def test_samples_differ_in_seed_and_are_asked_once(tmp_path: Path) -> None:
    with fake_models(demo_reply) as models:
        options = (
            "--benchmark",
            "demo",
            "--limit",
            2,
            "--temperature",
            "0.7",
            "--samples",
            3,
            "--out",
            tmp_path,
        )
        assert run("--url", models.url, "--model", "m", *options).exit_code == 0
        assert models.num_requests == 6
        assert len({body["seed"] for body in models.requests}) == 3
        assert run("--url", models.url, "--model", "m", *options).exit_code == 0
        assert models.num_requests == 6
    assert sorted({row.sample for row in samples(tmp_path)}) == [0, 1, 2]


def test_a_server_that_ends_costs_no_sample_twice(tmp_path: Path) -> None:
    lock, answered = threading.Lock(), Counter[str]()

    def fault_of(body: Json) -> Fault | None:
        with lock:
            return Fault(0) if answered.total() >= 4 else None

    def reply(body: Json) -> Json:
        with lock:
            answered[json.dumps(body, sort_keys=True)] += 1
        return demo_reply(body)

    options = ("--model", "m", "--benchmark", "demo", "--limit", 6, "--max", "32,64", "--concurrency", 2)
    with fake_models(reply) as models:
        models.fault_of = fault_of
        result = run("--url", models.url, *options, "--out", tmp_path)
    assert result.exit_code == 1 and "does not answer" in result.output
    assert "Run the same command to go on" in " ".join(result.output.split())
    assert not (tmp_path / "samples.parquet").exists()
    before = answered.total()
    assert 4 <= before < 12
    with fake_models(reply) as models:
        result = run("--url", models.url, *options, "--moved", "--out", tmp_path)
    assert result.exit_code == 0, result.output
    assert set(answered.values()) == {1} and answered.total() == 12
    assert len(samples(tmp_path)) == 12
    facts = json.loads((tmp_path / "run.json").read_text())
    assert len(facts["parts"]) == 2 and facts["parts"][0]["started_at"] == facts["started_at"]
    assert facts["seconds"] == pytest.approx(sum(part["seconds"] for part in facts["parts"]))


@pytest.mark.parametrize("status", [400, 401, 404])
def test_what_would_be_refused_again_does_not_ask_for_the_same_command(tmp_path: Path, status: int) -> None:
    options = ("--benchmark", "demo", "--limit", 12, "--max", "64", "--out", tmp_path)
    with fake_models(demo_reply) as models:
        models.fault_of = lambda _: Fault(status)
        result = run("--url", models.url, "--model", "m", *options)
    said = " ".join(result.output.split())
    assert result.exit_code == 2 and f"answers HTTP {status}" in said
    assert "What was answered is kept." in said and "Run the same command" not in said


def test_replies_of_another_server_are_not_taken_for_this_ones(tmp_path: Path) -> None:
    """Whether a run was finished there or not: a retrained checkpoint must not inherit scores."""
    options = ("--model", "m", "--benchmark", "demo", "--limit", 4, "--max", "64", "--out", tmp_path)
    with fake_models(demo_reply) as first, fake_models(demo_reply) as second:
        assert run("--url", first.url, *options).exit_code == 0
        for _ in ("finished", "not finished"):
            result = run("--url", second.url, *options)
            said = " ".join(result.output.split())
            assert result.exit_code == 2 and second.num_requests == 0
            assert f"holds replies of m from {first.url}, and --url is {second.url}" in said
            assert "pass another --out" in said and "or --moved if the same model answers there" in said
            (tmp_path / "run.json").unlink(missing_ok=True)
        assert run("--url", f"{first.url}/", *options).exit_code == 0 and first.num_requests == 4
        assert run("--url", second.url, *options, "--moved").exit_code == 0 and second.num_requests == 0
        # Once it is said and finished, it need not be said again.
        assert run("--url", second.url, *options).exit_code == 0 and second.num_requests == 0
        assert run("--url", first.url, *options).exit_code == 2
        # Another model is asked anew, wherever it is.
        other = [*options[2:-1], tmp_path / "other"]
        assert run("--url", first.url, "--model", "a", *other).exit_code == 0
        assert run("--url", second.url, "--model", "b", *other, "--overwrite").exit_code == 0
        assert second.num_requests == 4
    calls = [json.loads(line) for line in (tmp_path / "calls.jsonl").read_text().splitlines()]
    assert {call["url"] for call in calls} == {first.url}


@pytest.mark.parametrize(
    ("changed", "difference"),
    [
        (("--limit", 2), "num_questions of demo was 4, now 2"),
        (("--max", "32"), 'of other settings in series \'sweep\': ["budget", {"max_thinking_tokens": 64}]'),
        (("--samples", 2), "samples was 1, now 2"),
        (("--max-tokens", 999), "max_tokens of demo was 1024, now 999"),
        (("--model", "n"), "model was 'm', now 'n'"),
        (("--benchmark", "sums={sums}"), "benchmarks were demo, now demo, sums"),
    ],
)
def test_results_of_other_settings_are_not_replaced_unasked(
    tmp_path: Path, changed: tuple[str, object], difference: str
) -> None:
    sums, out = tmp_path / "sums.jsonl", tmp_path / "out"
    sums.write_text('{"question": "2+2?", "answer": "4"}\n')
    TRUTHS["2+2?"] = "4"
    options = ("--model", "m", "--benchmark", "demo", "--limit", 4, "--max", "64", "--out", out)
    other = (*options, changed[0], str(changed[1]).format(sums=sums))
    with fake_models(demo_reply) as models:
        assert run("--url", models.url, *options).exit_code == 0
        assert CliRunner().invoke(app, ["report", str(out)]).exit_code == 0
        before = {path: path.read_bytes() for path in out.rglob("*") if path.is_file()}
        before.pop(out / "parts.jsonl")
        result = run("--url", models.url, *other)
        said = " ".join(result.output.split())
        assert result.exit_code == 2 and f"holds another run ({difference})" in said, said
        assert "pass another --out, or --overwrite" in said and models.num_requests == 4
        assert all(path.read_bytes() == content for path, content in before.items())
        # The same settings go on, and their report stays.
        assert run("--url", models.url, *options).exit_code == 0 and (out / "report.html").exists()
        assert run("--url", models.url, *other, "--overwrite").exit_code == 0
    left = {path.name for path in out.iterdir()}
    assert left == {"calls.jsonl", "parts.jsonl", "run.json", "samples.parquet"}
    assert len((out / "calls.jsonl").read_text().splitlines()) == models.num_requests


def test_a_refused_question_is_recorded_and_asked_again(tmp_path: Path) -> None:
    refused = next(iter(TRUTHS))
    options = ("--model", "m", "--benchmark", "demo", "--limit", 3, "--max", "64", "--out", tmp_path)
    with fake_models(demo_reply) as models:
        models.fault_of = lambda body: Fault(400) if prompt_of(body) == refused else None
        result = run("--url", models.url, *options)
        assert result.exit_code == 1 and "made to fail" in result.output
        bad = [row for row in samples(tmp_path) if row.error]
        assert len(bad) == 1 and not bad[0].correct and "HTTP 400" in str(bad[0].error)
        models.fault_of = lambda _: None
        assert run("--url", models.url, *options).exit_code == 0
        assert models.num_requests == 4
    assert not any(row.error for row in samples(tmp_path))


def test_rows_that_repeat_a_question_are_asked_once_and_told(tmp_path: Path) -> None:
    file = tmp_path / "facts.jsonl"
    file.write_text('{"question": "How many?", "answer": "12"}\n' * 3)
    with fake_models(lambda _: openai_reply("12", tokens=5)) as models:
        result = run("--url", models.url, "--model", "m", "--benchmark", file, "--out", tmp_path / "1")
        assert result.exit_code == 0 and models.num_requests == 1
    assert "warning: facts: 2 rows repeat a question and are left out" in result.stderr


def test_what_no_rule_decides_goes_to_the_grader_model(tmp_path: Path) -> None:
    file = tmp_path / "facts.jsonl"
    questions = [
        {"question": "When does it hold?", "answer": "for no real number at all"},
        {"question": "How many?", "answer": "12"},
    ]
    file.write_text("".join(json.dumps(row) + "\n" for row in questions))

    def reply(body: Json) -> Json:
        prompt = prompt_of(body)
        if body["model"] == "judge":
            assert "## Correct answer\nfor no real number at all" in prompt
            return openai_reply("Both say never.\nYes")
        return openai_reply("Answer: never" if "When" in prompt else "Answer: 13", tokens=5)

    with fake_models(reply) as models:
        options = ("--url", models.url, "--model", "m", "--benchmark", file, "--out", tmp_path / "1")
        assert run(*options).exit_code == 0
        without = samples(tmp_path / "1")
        assert [(row.correct, row.decided, row.graded_by) for row in without] == [
            (False, False, "words"),
            (False, True, "integers"),
        ]
        assert run(*options, "--grader", f"judge@{models.url}").exit_code == 0
    judged = samples(tmp_path / "1")
    assert [(row.correct, row.graded_by) for row in judged] == [(True, "model:judge"), (False, "integers")]
    assert json.loads((tmp_path / "1/run.json").read_text())["undecided"] == 0


@pytest.mark.parametrize("model", [("--model", "m"), ()])
def test_what_is_no_url_is_one_line(tmp_path: Path, model: tuple[str, ...]) -> None:
    result = run(
        "--url", "http://host:port/v1", *model, "--benchmark", "demo", "--limit", 1, "--out", tmp_path
    )
    assert result.exit_code == 2 and "http://host:port/v1 is not a URL" in " ".join(result.output.split())


def test_a_retrained_checkpoint_behind_the_same_url_is_noticed(tmp_path: Path) -> None:
    """Where the server says which one it has loaded: whether the run before was finished or not."""
    options = ("--model", "m", "--benchmark", "demo", "--limit", 2, "--max", "64", "--out", tmp_path)
    with fake_models(demo_reply) as models:
        command = ("--url", models.url, *options)
        models.checkpoint = "e1"
        assert run(*command).exit_code == 0
        assert json.loads((tmp_path / "run.json").read_text())["checkpoint"] == "e1"
        assert run(*command).exit_code == 0
        models.checkpoint = "b2"
        finished = tmp_path / "run.json"
        kept = finished.read_text()
        for _ in ("finished", "not finished"):
            result = run(*command)
            said = " ".join(result.output.split())
            assert result.exit_code == 2 and "holds replies of m of checkpoint e1" in said, said
            assert f"{models.url} serves checkpoint b2" in said and "or --moved" in said
            finished.unlink(missing_ok=True)
        assert models.num_requests == 2
        # A server that says nothing is taken at its word, as is the user.
        finished.write_text(kept)
        models.checkpoint = None
        assert run(*command).exit_code == 0
        models.checkpoint = "b2"
        assert run(*command, "--moved").exit_code == run(*command).exit_code == 0
        assert models.num_requests == 2


def test_a_grader_elsewhere_with_the_models_name_is_not_another_server_of_it(tmp_path: Path) -> None:
    file = tmp_path / "facts.jsonl"
    file.write_text('{"question": "When does it hold?", "answer": "for no real number at all"}\n')
    with (
        fake_models(lambda _: openai_reply("Answer: never", tokens=5)) as models,
        fake_models(lambda _: openai_reply("Yes")) as graders,
    ):
        options = ("--url", models.url, "--model", "m", "--benchmark", file, "--out", tmp_path / "1")
        for _ in ("first", "again"):
            result = run(*options, "--grader", f"m@{graders.url}")
            assert result.exit_code == 0, result.output
            (tmp_path / "1" / "run.json").unlink()
        assert run("--url", graders.url, *options[2:]).exit_code == 2
        assert models.num_requests == graders.num_requests == 1
    assert [row.correct for row in samples(tmp_path / "1")] == [True]


@pytest.mark.parametrize("tokens_are", ["completion", ""])
def test_tokens_that_are_not_counted_are_not_none(tmp_path: Path, tokens_are: str) -> None:
    def reply(body: Json) -> Json:
        answer = openai_reply(TRUTHS[prompt_of(body)])
        return answer if tokens_are else {**answer, "usage": None}

    with fake_models(reply) as models:
        options = (
            "--url",
            models.url,
            "--model",
            "m",
            "--benchmark",
            "demo",
            "--limit",
            1,
            "--out",
            tmp_path,
        )
        result = run(*options)
    (row,) = samples(tmp_path)
    assert row.tokens_are == tokens_are and (row.error is None) is bool(tokens_are)
    assert row.thinking_tokens == (90 if tokens_are else 0)
    assert result.exit_code == (0 if tokens_are else 1)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--benchmark", "demo", "--max", "a,b"), "--max takes numbers"),
        (("--benchmark", "aime23"), "--benchmark must be"),
        ((), "name at least one --benchmark"),
        (("--sweep", "demo", "--waits", "1"), "can't be combined"),
        (("--benchmark", "demo", "--benchmark", "demo"), "is given twice"),
        (("--benchmark", "demo", "--method", "dice"), "method must be one of"),
    ],
)
def test_what_can_not_be_run_is_refused(tmp_path: Path, arguments: tuple[str, ...], message: str) -> None:
    result = run("--url", "http://127.0.0.1:9/v1", "--model", "m", "--out", tmp_path, *arguments)
    assert result.exit_code == 2 and message in " ".join(result.output.split()), result.output


def test_references_that_can_be_graded(tmp_path: Path) -> None:
    result = CliRunner().invoke(app, ["check", "demo"])
    assert result.exit_code == 0 and "400 right as themselves, 400 wrong when changed" in result.output
    file = tmp_path / "odd.jsonl"
    file.write_text(json.dumps({"question": "How many?", "answer": "0 \\cdot x"}) + "\n")
    result = CliRunner().invoke(app, ["check", str(file)])
    assert (result.exit_code == 1) is ("0 right as themselves" in result.output or "0 wrong" in result.output)
