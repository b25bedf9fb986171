"""`s1 curate difficulty`, `s1 traces` and labels by a model, against small fake servers."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from server.engine.supervisor import free_port
from tests.support.commands import drops, manifest, rows, s1, s1_fails, s1_ok
from tests.support.engines import DEMO
from tests.support.fake_models import (
    Fault,
    Json,
    anthropic_reply,
    fake_models,
    gemini_reply,
    openai_reply,
    prompt_of,
)
from tests.support.question_files import write_jsonl

NUM_QUESTIONS = 12


def number_of(body: Json) -> int:
    return int(prompt_of(body).split()[-1].rstrip("?"))


@pytest.fixture
def pool(tmp_path: Path) -> Path:
    """What is 2 times n? Every third answer is words, which only a grader model can compare."""
    questions: list[dict[str, Any]] = [
        {
            "question": f"What is 2 times {n}?",
            "answer": f"the even number {2 * n}" if n % 3 == 0 else str(2 * n),
            "domain": "11",
        }
        for n in range(NUM_QUESTIONS)
    ]
    path = write_jsonl(tmp_path / "pool.jsonl", questions)
    s1_ok("curate", "collect", "--source", path, "--out", tmp_path / "pool")
    return tmp_path / "pool"


def numbers(path: Path) -> list[int]:
    return [int(row["question"].split()[-1].rstrip("?")) for row in rows(path)]


def solver(*right: int) -> Callable[[Json], Json]:
    """Right about the numbers given."""

    def reply(body: Json) -> Json:
        n = number_of(body)
        answer = 2 * n if n in right else 2 * n + 1
        return openai_reply(f"The answer is {answer}.", "Hm.", tokens=100 + n)

    return reply


def grader_reply(body: Json) -> Json:
    prompt = prompt_of(body)
    attempt = prompt.split("## Attempt\n")[1].split(".")[0].split()[-1]
    reference = prompt.split("## Correct answer\n")[1].split("\n")[0].split()[-1]
    return openai_reply(f"Compare them.\n{'Yes' if attempt == reference else 'No'}")


def test_what_any_solver_gets_right_is_dropped(tmp_path: Path, pool: Path) -> None:
    with (
        fake_models(solver(1, 3)) as one,
        fake_models(solver(3, 4, 5)) as two,
        fake_models(grader_reply) as judge,
    ):
        out = s1_ok(
            *("curate", "difficulty", pool, "--out", tmp_path / "2", "--grader", f"judge@{judge.url}"),
            *("--solver", f"small@{one.url}", "--solver", f"large@{two.url}"),
        )
    assert "solved" in out
    assert numbers(tmp_path / "2") == [0, 2, 6, 7, 8, 9, 10, 11]
    table = {row["question"][16:-1]: row["detail"] for row in rows(tmp_path / "2" / "drops.parquet")}
    assert table == {"1": "by small", "3": "by small, large", "4": "by large", "5": "by large"}
    assert (one.num_requests, two.num_requests) == (NUM_QUESTIONS, NUM_QUESTIONS)
    assert judge.num_requests == 2 * len([n for n in range(NUM_QUESTIONS) if n % 3 == 0])
    body = one.requests[0]
    assert body["temperature"] == 0.05 and body["max_completion_tokens"] == 32768
    attempts = rows(tmp_path / "2")[1]["attempts"]
    assert [(a["model"], a["correct"], a["graded_by"], a["thinking_tokens"]) for a in attempts] == [
        ("small", False, "math-verify", 102),
        ("large", False, "math-verify", 102),
    ]
    assert manifest(tmp_path / "2")["notes"]["solved_by"] == {"small": 2, "large": 3}
    sizes = ("--length", "solver", "--size", "3", "--select", "longest", "--label", "none")
    s1_ok("curate", "diversity", tmp_path / "2", *sizes, "--out", tmp_path / "3")
    assert numbers(tmp_path / "3") == [9, 10, 11]


def test_what_nothing_can_grade_is_never_passed_over(tmp_path: Path, pool: Path) -> None:
    with fake_models(solver()) as models:
        command = ("curate", "difficulty", pool, "--solver", f"m@{models.url}", "--out", tmp_path / "2")
        line = s1_fails(2, *command)
        assert "4 questions have no answer that a program can check (pool 4)" in line
        assert models.num_requests == 0, "said before any call is paid for"
        s1_ok(*command, "--keep-ungraded")
    ungraded = [row for row in rows(tmp_path / "2") if row["attempts"][0]["correct"] is None]
    assert len(ungraded) == 4 and len(rows(tmp_path / "2")) == NUM_QUESTIONS


def test_unclear_verdicts_and_refusals_are_recorded_and_asked_again(tmp_path: Path, pool: Path) -> None:
    with fake_models(solver()) as models, fake_models(lambda _: openai_reply("Perhaps.")) as judge:
        models.fault_of = lambda body: Fault(400, body="too long") if number_of(body) == 7 else None
        command = ("curate", "difficulty", pool, "--solver", f"m@{models.url}", "--concurrency", "1")
        command += ("--grader", f"judge@{judge.url}", "--out", tmp_path / "2")
        s1_ok(*command)
        assert drops(tmp_path / "2") == {"solver_refused": 1, "unparsable_verdict": 4}
        details = {row["reason"]: row["detail"] for row in rows(tmp_path / "2" / "drops.parquet")}
        assert details["solver_refused"] == "m answers HTTP 400 (too long)"
        assert details["unparsable_verdict"].endswith("'Perhaps.'")
        models.fault_of = lambda _: None
        sent = models.num_requests
        s1_ok(*command, "--overwrite")
        assert drops(tmp_path / "2") == {"unparsable_verdict": 4}
        assert models.num_requests == sent + 1, "only what was refused"


@pytest.mark.parametrize("stage", ["difficulty", "traces"])
def test_an_endpoint_that_goes_away_and_comes_back(tmp_path: Path, pool: Path, stage: str) -> None:
    """One run ends when the server is gone; the next asks only what is missing, of another port.

    A server that refuses the key is asked again with another key, not by the same command.
    """
    asked: list[str] = []

    def reply(body: Json) -> Json:
        asked.append(prompt_of(body))
        return solver()(body)

    option = "--teacher" if stage == "traces" else "--solver"
    command = (*(("curate", "difficulty") if stage == "difficulty" else ("traces",)), pool)
    command += ("--out", tmp_path / "2", "--concurrency", "2", "--retry-for", "0")
    command += () if stage == "traces" else ("--keep-ungraded",)
    with fake_models(reply) as models:
        models.fault_of = lambda _: Fault(0) if len(asked) >= 5 else None
        line = s1_fails(1, *command, option, f"m@{models.url}")
    assert f"m at {models.url} does not answer" in line and line.endswith("Run the same command to go on.")
    assert not (tmp_path / "2" / "manifest.json").exists()
    assert 5 <= len(asked) <= 6
    with fake_models(reply) as models:
        models.fault_of = lambda _: Fault(401)
        line = s1_fails(2, *command, option, f"m@{models.url}")
    assert "answers HTTP 401" in line and line.endswith("What was answered is kept.")
    assert models.num_requests <= len(asked) + 2, "nothing new is begun after an error"
    with fake_models(reply) as models:
        s1_ok(*command, option, f"m@{models.url}")
    assert len(asked) == len(set(asked)) == NUM_QUESTIONS
    assert len(rows(tmp_path / "2")) == NUM_QUESTIONS
    assert manifest(tmp_path / "2")["notes"]["calls"]["cached"] in (5, 6)


def test_nobody_there(tmp_path: Path, pool: Path) -> None:
    url = f"http://127.0.0.1:{free_port()}/v1"
    line = s1_fails(1, "traces", pool, "--teacher", f"m@{url}", "--retry-for", "0", "--out", tmp_path / "2")
    assert f"m at {url} does not answer" in line


@pytest.mark.parametrize(
    ("api", "make", "tokens"),
    [
        ("openai", lambda answer: openai_reply(answer, "2+2", tokens=300), 300),
        ("anthropic", lambda answer: anthropic_reply(answer, "2+2"), None),
        ("gemini", lambda answer: gemini_reply(answer, "2+2"), 300),
    ],
)
def test_traces_of_every_api(
    tmp_path: Path, pool: Path, api: str, make: Callable[[str], Json], tokens: int | None
) -> None:
    def reply(body: Json) -> Json:
        text = prompt_of(body) if "messages" in body else body["contents"][0]["parts"][0]["text"]
        return make(f"It is {2 * int(text.split()[-1].rstrip('?'))}.")

    with fake_models(reply) as models:
        s1_ok("traces", pool, "--teacher", f"m@{models.url}", "--api", api, "--out", tmp_path / "2")
    table = rows(tmp_path / "2")
    assert len(table) == NUM_QUESTIONS, "correctness is recorded, not filtered"
    assert {row["thinking"] for row in table} == {"2+2"}
    assert [row["trace_answer"] for row in table] == [f"It is {2 * n}." for n in range(NUM_QUESTIONS)]
    assert {row["thinking_tokens"] for row in table} == {tokens}
    assert [row["trace_correct"] for row in table] == [None, True, True] * (NUM_QUESTIONS // 3)
    assert manifest(tmp_path / "2")["notes"]["ungraded"] == {"not checkable by a program": 4}


MILES = {"question": "How many miles is 2 times 2.5?", "answer": "5 miles"}


def in_kilometres(_: Json) -> Json:
    return openai_reply("The answer is 8 km.", "Hm.")


def test_an_answer_that_the_program_cannot_compare_is_for_the_grader(tmp_path: Path) -> None:
    pool = write_jsonl(tmp_path / "pool.jsonl", [MILES])
    with fake_models(in_kilometres) as models, fake_models(lambda _: openai_reply("Yes")) as judge:
        asked = ("--grader", f"judge@{judge.url}")
        traces, solve = ("traces", pool, "--teacher"), ("curate", "difficulty", pool, "--solver")
        s1_ok(*traces, f"m@{models.url}", "--out", tmp_path / "alone")
        s1_ok(*traces, f"m@{models.url}", "--out", tmp_path / "graded", *asked)
        assert judge.num_requests == 1
        s1_ok(*solve, f"m@{models.url}", "--out", tmp_path / "dropped")
        s1_ok(*solve, f"m@{models.url}", "--out", tmp_path / "kept", "--keep-ungraded")
        s1_ok(*solve, f"m@{models.url}", "--out", tmp_path / "solved", *asked)
        assert judge.num_requests == 2
    assert [row["trace_correct"] for row in rows(tmp_path / "alone")] == [None]
    assert manifest(tmp_path / "alone")["notes"]["ungraded"] == {"not comparable by a program": 1}
    assert [row["trace_correct"] for row in rows(tmp_path / "graded")] == [True]
    assert drops(tmp_path / "dropped") == {"ungraded": 1}
    assert [attempt["correct"] for attempt in rows(tmp_path / "kept")[0]["attempts"]] == [None]
    assert drops(tmp_path / "solved") == {"solved": 1}


def test_the_grader_is_asked_only_about_what_the_program_left_open(tmp_path: Path) -> None:
    pool = write_jsonl(tmp_path / "pool.jsonl", [MILES])
    with (
        fake_models(in_kilometres) as one,
        fake_models(lambda _: openai_reply("The answer is 6 miles.")) as two,
        fake_models(lambda _: openai_reply("No")) as judge,
    ):
        solvers = ("--solver", f"km@{one.url}", "--solver", f"miles@{two.url}")
        given = ("--grader", f"judge@{judge.url}", "--out", tmp_path / "2")
        s1_ok("curate", "difficulty", pool, *solvers, *given)
        assert judge.num_requests == 1 and "8 km" in prompt_of(judge.requests[0])
    attempts = rows(tmp_path / "2")[0]["attempts"]
    assert [(attempt["correct"], attempt["graded_by"]) for attempt in attempts] == [
        (False, "model:judge"),
        (False, "math-verify"),
    ]


@pytest.mark.parametrize("said", ["First of all, I note that a mile is longer than", "8"])
def test_a_solver_or_teacher_that_ran_out_of_tokens_has_not_solved_it(tmp_path: Path, said: str) -> None:
    def cut(_: Json) -> Json:
        reply = openai_reply(said, "Hm.")
        reply["choices"][0]["finish_reason"] = "length"
        return reply

    pool = write_jsonl(tmp_path / "pool.jsonl", [{"question": "What is 2 times 4?", "answer": "8"}])
    with fake_models(cut) as models:
        s1_ok("curate", "difficulty", pool, "--solver", f"m@{models.url}", "--out", tmp_path / "2")
        s1_ok("traces", pool, "--teacher", f"m@{models.url}", "--out", tmp_path / "3")
    assert [attempt["correct"] for attempt in rows(tmp_path / "2")[0]["attempts"]] == [False]
    assert [row["trace_correct"] for row in rows(tmp_path / "3")] == [False]


def test_only_correct_and_a_tokenizer_that_counts(tmp_path: Path, pool: Path) -> None:
    with fake_models(solver(1, 3)) as models, fake_models(grader_reply) as judge:
        s1_ok(
            *("traces", pool, "--teacher", f"m@{models.url}", "--grader", f"judge@{judge.url}"),
            *("--only-correct", "--tokenizer", DEMO / "tokenizer.json", "--out", tmp_path / "2"),
        )
    assert numbers(tmp_path / "2") == [1, 3]
    assert drops(tmp_path / "2") == {"not_correct": NUM_QUESTIONS - 2}
    assert {row["thinking_tokens"] for row in rows(tmp_path / "2")} < set(range(1, 10))


def test_failed_and_empty_traces_go_to_quality(tmp_path: Path, pool: Path) -> None:
    def reply(body: Json) -> Json:
        return openai_reply("4", "" if number_of(body) == 2 else "Hm.")

    with fake_models(reply) as models:
        models.fault_of = lambda body: Fault(400) if number_of(body) == 5 else None
        s1_ok("traces", pool, "--teacher", f"m@{models.url}", "--no-grade", "--out", tmp_path / "2")
    assert [row["question"][16:-1] for row in rows(tmp_path / "2") if row["trace_error"]] == ["5"]
    s1_ok("curate", "quality", tmp_path / "2", "--out", tmp_path / "3", "--require-trace")
    assert drops(tmp_path / "3") == {"api_error": 1, "empty_trace": 1}


@pytest.mark.parametrize(
    ("api", "cut"),
    [
        ("openai", lambda reply: reply["choices"][0].update(finish_reason="length")),
        ("openai", lambda reply: reply["choices"][0].update(thinking_budget={"ended_by": "loop"})),
        ("anthropic", lambda reply: reply.update(stop_reason="max_tokens")),
        ("gemini", lambda reply: reply["candidates"][0].update(finishReason="MAX_TOKENS")),
    ],
)
def test_a_trace_that_its_limit_cut_is_dropped(tmp_path: Path, api: str, cut: Callable[[Json], None]) -> None:
    make = {"openai": openai_reply, "anthropic": anthropic_reply, "gemini": gemini_reply}[api]
    pool = write_jsonl(
        tmp_path / "pool.jsonl", [{"question": f"What is {n}?", "answer": "4"} for n in (4, 5)]
    )

    def reply(body: Json) -> Json:
        whole = make("The answer is 4.", "Let me think. So")
        if api == "openai":
            whole["choices"][0]["thinking_budget"] = {"ended_by": "model"}
        if "What is 5?" in json.dumps(body):
            cut(whole)
        return whole

    with fake_models(reply) as models:
        given = ("--teacher", f"m@{models.url}", "--api", api)
        s1_ok("traces", pool, *given, "--out", tmp_path / "2")
    out = s1_ok("curate", "quality", tmp_path / "2", "--out", tmp_path / "3", "--require-trace")
    assert "cut_trace" in out and drops(tmp_path / "3") == {"cut_trace": 1}
    assert [row["question"] for row in rows(tmp_path / "3")] == ["What is 4?"]


def test_a_question_that_another_teacher_refuses_keeps_nothing_of_the_trace_before(
    tmp_path: Path, pool: Path
) -> None:
    with fake_models(solver(1, 2, 4)) as models:
        s1_ok("traces", pool, "--teacher", f"first@{models.url}", "--out", tmp_path / "2")
        before = rows(tmp_path / "2")[1]
        assert before["trace_correct"] and before["thinking_tokens"] and before["trace_finish_reason"]
        models.fault_of = lambda body: Fault(400) if number_of(body) == 1 else None
        command = ("traces", tmp_path / "2", "--teacher", f"second@{models.url}")
        s1_ok(*command, "--out", tmp_path / "3")
        s1_ok(*command, "--only-correct", "--out", tmp_path / "4")
    row = rows(tmp_path / "3")[1]
    assert row["trace_model"] == "second" and "HTTP 400" in row["trace_error"]
    of_a_trace = ("thinking", "trace_answer", "trace_correct", "thinking_tokens", "trace_finish_reason")
    assert [row[name] for name in of_a_trace] == [None] * len(of_a_trace)
    assert numbers(tmp_path / "4") == [2, 4]
    assert drops(tmp_path / "4")["not_known_correct"] == 1 + NUM_QUESTIONS // 3


def test_keys_come_from_the_environment_and_are_written_nowhere(tmp_path: Path, pool: Path) -> None:
    with fake_models(solver()) as models:
        command = ("traces", pool, "--teacher", f"m@{models.url}", "--teacher-key", "MY_KEY")
        s1_ok(*command, "--out", tmp_path / "2", env={"MY_KEY": "sk-secret"})
    assert {headers["authorization"] for headers in models.headers} == {"Bearer sk-secret"}
    assert all(b"sk-secret" not in path.read_bytes() for path in (tmp_path / "2").iterdir())


def test_options_of_traces_that_do_not_go_together(tmp_path: Path, pool: Path) -> None:
    command = ("traces", pool, "--teacher", "m@http://127.0.0.1/v1", "--out", tmp_path / "2")
    assert "--no-grade can't be combined" in s1_fails(2, *command, "--no-grade", "--only-correct")
    assert "no such file" in s1_fails(2, *command, "--tokenizer", tmp_path / "gone.json")
    (tmp_path / "no.json").write_text("{}")
    assert "is no tokenizer.json" in s1_fails(2, *command, "--tokenizer", tmp_path / "no.json")
    result = s1(*command, "--api", "carrier-pigeon")
    assert result.exit_code == 2 and "carrier-pigeon" in result.stderr


def test_domains_by_a_model(tmp_path: Path, pool: Path) -> None:
    def reply(body: Json) -> Json:
        question = prompt_of(body).split("## Question\n")[1].split("\n")[0]
        n = int(question.split()[-1].rstrip("?"))
        return openai_reply("About numbers.\n" + ("no idea" if n == 4 else ("11", "05")[n % 2]))

    with fake_models(reply) as models:
        label = ("--label", "model", "--labeller", f"m@{models.url}")
        s1_ok("curate", "diversity", pool, *label, "--select", "full", "--out", tmp_path / "2")
        assert models.num_requests == NUM_QUESTIONS + 2, "asked three times for a code"
    assert "05 Combinatorics\n" in prompt_of(models.requests[0])
    assert [row["domain"] for row in rows(tmp_path / "2")] == [
        ("11", "05")[n % 2] for n in range(NUM_QUESTIONS) if n != 4
    ]
    assert drops(tmp_path / "2") == {"no_domain": 1}
    assert manifest(tmp_path / "2")["notes"]["kept_by_domain"] == {"05": 6, "11": 5}


def test_calls_survive_a_run_that_was_killed_while_writing(tmp_path: Path, pool: Path) -> None:
    with fake_models(solver()) as models:
        command = ("traces", pool, "--teacher", f"m@{models.url}", "--out", tmp_path / "2")
        s1_ok(*command)
        calls = tmp_path / "2" / "calls.jsonl"
        content = calls.read_bytes()
        keys = [json.loads(line)["key"] for line in content.splitlines()]
        assert len(keys) == len(set(keys)) == NUM_QUESTIONS
        before = (tmp_path / "2" / "questions.parquet").read_bytes()
        (tmp_path / "2" / "manifest.json").unlink()
        calls.write_bytes(content[:-20])
        s1_ok(*command)
    assert models.num_requests == NUM_QUESTIONS + 1
    assert (tmp_path / "2" / "questions.parquet").read_bytes() == before
