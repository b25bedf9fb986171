"""What reports and recommendations make of budgets that were lowered, refused, cut or rejected, and of few
questions."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner, Result

from tests.support.fake_models import Fault, Json, fake_models, openai_reply, prompt_of
from training.evaluate.cli import app
from training.evaluate.equal import at_equal_tokens, left_out_at, yardsticks
from training.evaluate.summary import Results, SeriesSummary, read_results

NUM_QUESTIONS = 40


def s1(*arguments: object) -> Result:
    return CliRunner().invoke(app, [str(argument) for argument in arguments])


def said_by(result: Result) -> str:
    return " ".join(result.output.split())


def reply_of(right: bool, thought: int, granted: int, *, clamped_by: str = "", finish: str = "stop") -> Json:
    reply = openai_reply("4" if right else "5", tokens=thought)
    reply["choices"][0] |= {
        "finish_reason": finish,
        "thinking_budget": {
            "effective": {"min": 0, "max": granted, "num_waits": 0},
            "thinking_tokens": thought,
            "ended_by": "model" if thought < granted else "max_thinking_tokens",
            "clamped_by": [clamped_by] if clamped_by else [],
        },
    }
    return reply


def number_of(body: Json) -> int:
    return int(prompt_of(body).split()[1].rstrip("."))


def asked(
    folder: Path,
    url: str,
    series: Json,
    *,
    num_questions: int = NUM_QUESTIONS,
    options: tuple[object, ...] = (),
) -> tuple[Path, Result]:
    """The run's folder, and what the command said."""
    folder.mkdir(parents=True, exist_ok=True)
    file, sweep, out = folder / "sums.jsonl", folder / "sweep.yaml", folder / "out"
    rows = [{"question": f"Number {n}. What is 2 + 2?", "answer": "4"} for n in range(num_questions)]
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    sweep.write_text(json.dumps({"benchmarks": [str(file)], "series": series}))
    where = ("--url", url, "--model", "m", "--sweep", sweep, "--out", out, "--concurrency", 4)
    return out, s1("run", *where, *options)


def table_after(page: str, title: str) -> str:
    return page.split(f"<h3>{title}</h3>")[1].split("</table>")[0]


def vote(totals: list[int], **fields: Any) -> Json:
    return {
        "method": "majority_vote", "width": 4, "total_thinking_tokens": totals, "temperature": 0.7, **fields
    }  # fmt: skip


def test_branches_are_compared_with_the_best_budget_of_the_same_maximum(tmp_path: Path) -> None:
    """Whichever series comes first in the sweep, all are shown."""

    def reply(body: Json) -> Json:
        if "parallel" in body:
            return reply_of(number_of(body) % 2 == 0, body["parallel"]["total_thinking_tokens"], 128)
        maximum = body["max_thinking_tokens"]
        return reply_of(body["num_waits"] > 0, maximum, maximum)

    series = {
        "no waits": {"max_thinking_tokens": [512, 1024], "num_waits": 0},
        "4 waits": {"max_thinking_tokens": [512, 1024], "num_waits": 4},
        "the same": {"max_thinking_tokens": [512], "num_waits": 4},
        "vote": vote([512, 1024]),
    }
    with fake_models(reply) as models:
        out, result = asked(tmp_path, models.url, series)
    assert result.exit_code == 0 and "warning" not in result.output, result.output
    found = read_results(out).series
    rows = at_equal_tokens(found)
    assert [(row.allowed, row.series, row.difference and row.difference.value) for row in rows] == [
        (512, "4 waits", None), (512, "no waits", -100), (512, "vote", -50),
        (1024, "4 waits", None), (1024, "no waits", -100), (1024, "vote", -50),
    ]  # fmt: skip
    assert [one.name for one in yardsticks(found)] == ["no waits", "4 waits", "the same"]
    assert s1("report", out).exit_code == 0
    figure = (out / "figures" / "sums-parallel.svg").read_text()
    assert "sequential: no waits" in figure and "sequential: 4 waits" in figure


ROOM = 762


def clamping(body: Json) -> Json:
    """A server that can't let one thought have more than 762 tokens."""
    if "parallel" in body:
        return reply_of(True, body["parallel"]["total_thinking_tokens"], 256)
    maximum = body["max_thinking_tokens"]
    granted = min(maximum, ROOM)
    return reply_of(True, granted, granted, clamped_by="max_completion_tokens" if granted < maximum else "")


def test_maxima_that_were_not_granted_are_told_and_compared_as_granted(tmp_path: Path) -> None:
    series = {"maximum": {"max_thinking_tokens": [512, 4096]}, "vote": vote([512, ROOM, 4096])}
    with fake_models(clamping) as models:
        out, result = asked(tmp_path, models.url, series)
        warning = "40 of 200 samples (by max_completion_tokens 40) had their budget lowered"
        assert result.exit_code == 0 and f"warning: {warning}" in said_by(result), result.output
    assert f"warning: {warning}" in said_by(s1("report", out))
    results = read_results(out)
    assert [run.questions.at_most for run in results.series[0].runs] == [512, ROOM]
    assert [(row.allowed, row.series) for row in at_equal_tokens(results.series)] == [
        (512, "maximum"), (512, "vote"), (ROOM, "maximum"), (ROOM, "vote"),
    ]  # fmt: skip
    page = (out / "report.html").read_text()
    assert warning in page
    assert "40 of 40 samples (by max_completion_tokens 40), may think 762" in table_after(page, "maximum")
    assert "budget lowered" not in table_after(page, "vote")
    told = json.loads((out / "summary.json").read_text())["series"][0]["runs"]
    assert [run["clamped_by"] for run in told] == [{}, {"max_completion_tokens": 40}]
    assert [run["max_thinking_tokens_granted"] for run in told] == [512, ROOM]


def test_questions_that_were_lowered_are_left_out_at_equal_tokens(tmp_path: Path) -> None:
    """6 of 40 by the context, in one of two budget runs with branches to compare."""

    def reply(body: Json) -> Json:
        if "parallel" in body:
            return reply_of(True, body["parallel"]["total_thinking_tokens"], 256)
        maximum, lowered = body["max_thinking_tokens"], body["max_thinking_tokens"] == 128
        if lowered and number_of(body) < 6:
            return reply_of(True, 100, 100 + number_of(body), clamped_by="context")
        return reply_of(number_of(body) < 20, maximum, maximum)

    series = {"maximum": {"max_thinking_tokens": [64, 128]}, "vote": vote([64, 128])}
    with fake_models(reply) as models:
        out, _ = asked(tmp_path, models.url, series)
    rows = at_equal_tokens(read_results(out).series)
    assert [(row.allowed, row.series, row.num_questions) for row in rows] == [
        (64, "maximum", 40), (64, "vote", 40), (128, "maximum", 34), (128, "vote", 34),
    ]  # fmt: skip
    assert rows[3].difference is not None and rows[3].difference.value == pytest.approx(100 * 20 / 34)
    assert left_out_at(read_results(out).series) == []


def test_a_comparison_that_no_question_allows_is_told(tmp_path: Path) -> None:
    def reply(body: Json) -> Json:
        if "parallel" in body:
            return reply_of(True, body["parallel"]["total_thinking_tokens"], 256)
        return reply_of(True, 100, 100 + number_of(body), clamped_by="context")

    with fake_models(reply) as models:
        out, _ = asked(tmp_path, models.url, {"maximum": {"max_thinking_tokens": 256}, "vote": vote([256])})
    assert at_equal_tokens(read_results(out).series) == []
    assert s1("report", out).exit_code == 0
    page = (out / "report.html").read_text()
    assert "At 256 nothing is compared: no question had them granted in full by every run." in page
    told = json.loads((out / "summary.json").read_text())
    assert told["equal_tokens"] == []
    left_out = {"benchmark": "sums", "allowed_thinking_tokens": 256}
    assert told["equal_tokens_left_out"] == [left_out]


def test_branches_that_were_lowered_may_think_less_in_all(tmp_path: Path) -> None:
    def reply(body: Json) -> Json:
        return reply_of(True, 400, 100, clamped_by="policy:server")

    with fake_models(reply) as models:
        out, _ = asked(tmp_path, models.url, {"vote": vote([4096])})
    assert read_results(out).series[0].runs[0].questions.at_most == 4 * 100


def test_only_what_was_measured_is_recommended(tmp_path: Path) -> None:
    with fake_models(clamping) as models:
        out, _ = asked(tmp_path / "1", models.url, {"maximum": {"max_thinking_tokens": [4096, 8192]}})
        said = s1("recommend", out)
        assert said.exit_code == 2 and "no run was answered with the budget that it asks for" in said_by(said)
        out, _ = asked(tmp_path / "2", models.url, {"maximum": {"max_thinking_tokens": [512, 4096]}})
        policy = tmp_path / "policy.yaml"
        said = s1("recommend", out, "--out", policy)
    assert said.exit_code == 0 and "→ max_thinking_tokens 512" in said.output
    assert "warning: 40 of 80 samples (by max_completion_tokens 40) had their budget" in said_by(said)
    assert "# 40 of 80 samples (by max_completion_tokens 40)" in policy.read_text()


@pytest.mark.parametrize(
    ("grid", "refused"),
    [
        ({"max_thinking_tokens": [700, 800]}, "budget, max_thinking_tokens 800: 1024 tokens for thinking"),
        ({"min_thinking_tokens": 800}, "budget, min_thinking_tokens 800"),
        (
            {"max_thinking_tokens": 800, "max_completion_tokens": [4096, 1000]},
            "leave at most 750 to thinking",
        ),
        ({"max_thinking_tokens": 5, "answer_reserve_tokens": 1025}, "`answer_reserve_tokens` must be <= "),
        ({"method": "token_conditional_forced", "tokens": 800}, "leave at most 768 to thinking"),
        (vote([3200]), "leave at most 768 to thinking; ask for less, or pass a larger --max-tokens"),
    ],
)
def test_budgets_that_can_not_fit_are_refused_before_anything_is_asked(
    tmp_path: Path, grid: Json, refused: str
) -> None:
    with fake_models(clamping) as models:
        _, result = asked(tmp_path, models.url, {"s": grid}, options=("--max-tokens", 1024))
        assert models.num_requests == 0
    assert result.exit_code == 2 and refused in said_by(result), result.output


@pytest.mark.parametrize(("right", "low", "high"), [(True, 91.24, 100), (False, 0, 8.76)])
def test_questions_that_all_agree_are_not_certain(
    tmp_path: Path, right: bool, low: float, high: float
) -> None:
    """Wilson's interval of 40 of 40, and of 0 of 40."""
    with fake_models(lambda body: reply_of(right, body["max_thinking_tokens"], 999)) as models:
        out, _ = asked(tmp_path, models.url, {"maximum": {"max_thinking_tokens": [64, 128]}})
    (series,) = read_results(out).series
    for measured in (series.runs[0].accuracy, series.performance):
        assert measured.interval is not None
        assert (measured.interval.low, measured.interval.high) == pytest.approx((low, high), abs=0.01)
    assert series.points_per_doubling.value == 0 and series.points_per_doubling.interval is None
    said = s1("recommend", out, "--out", tmp_path / "policy.yaml")
    assert (tmp_path / "policy.yaml").exists() is right
    if not right:
        assert said.exit_code == 2 and "no run has a right answer to any of 40 questions" in said_by(said)


@pytest.mark.parametrize("num_questions", [1, 29])
def test_few_questions_recommend_nothing(tmp_path: Path, num_questions: int) -> None:
    with fake_models(lambda body: reply_of(True, body["max_thinking_tokens"], 999)) as models:
        series = {"maximum": {"max_thinking_tokens": [64, 128]}}
        out, _ = asked(tmp_path, models.url, series, num_questions=num_questions)
    said = s1("recommend", out, "--out", tmp_path / "policy.yaml")
    assert said.exit_code == 2 and not (tmp_path / "policy.yaml").exists()
    assert f"takes answers to at least 30 questions. Given: {num_questions}" in said_by(said)
    interval = read_results(out).series[0].runs[0].accuracy.interval
    assert interval is not None and interval.low < 90


def test_what_has_no_answer_has_no_tokens(tmp_path: Path) -> None:
    """10 of 40 questions are refused at one maximum, all at another; the others think all they may."""

    def fault_of(body: Json) -> Fault | None:
        maximum = body["max_thinking_tokens"]
        return Fault(400) if maximum == 8000 or (maximum == 4000 and number_of(body) < 10) else None

    with fake_models(lambda body: reply_of(True, body["max_thinking_tokens"], 9999)) as models:
        models.fault_of = fault_of
        out, result = asked(
            tmp_path, models.url, {"maximum": {"max_thinking_tokens": [3500, 4000, 8000]}}, options=()
        )
    assert result.exit_code == 1
    (series,) = read_results(out).series
    assert [run.thinking_tokens for run in series.runs[:2]] == [3500, 4000]
    assert [run.accuracy.value for run in series.runs] == [100, 75, 0]
    assert series.control.value == 100 and series.control.interval is not None
    assert s1("report", out).exit_code == 0
    told = json.loads((out / "summary.json").read_text())["series"][0]["runs"]
    assert [run["mean_thinking_tokens"] for run in told] == [3500, 4000, None]
    said = s1("recommend", out, "--out", tmp_path / "policy.yaml")
    assert "warning: 50 of 120 samples have no answer and count as wrong" in said_by(said)
    assert "50 of 120 samples" in (tmp_path / "policy.yaml").read_text()
    assert "max_thinking_tokens: 3500" in (tmp_path / "policy.yaml").read_text() and "errors" in said.output


def test_rejected_and_cut_samples_are_told_and_control_is_of_accepted_thoughts(tmp_path: Path) -> None:
    """Question k thinks 20 tokens from its try k mod 3 on, 100 before; one in four never does."""

    def reply(body: Json) -> Json:
        if body["temperature"] == 0:
            finish = "length" if number_of(body) < 4 else "stop"
            return reply_of(True, 60, body.get("max_thinking_tokens", 999), finish=finish)
        number, attempt, maximum = number_of(body), body["seed"], body["max_thinking_tokens"]
        thought = 20 if number % 4 and attempt >= number % 3 else 100
        return reply_of(True, min(thought, maximum), maximum)

    rejection = {
        "method": "rejection_sampling",
        "max_thinking_tokens": [50, 10],
        "max_tries": 3,
        "temperature": 1,
    }
    with fake_models(reply) as models:
        out, _ = asked(tmp_path, models.url, {"rejection": rejection, "maximum": {"max_thinking_tokens": 64}})
    rejecting, maximum = read_results(out).series
    assert [run.num_rejected for run in rejecting.runs] == [10, 40]
    assert [run.accepted_tokens for run in rejecting.runs] == [20, None]
    # What was paid for: 3 tries of the rejected, and what the others gave up before.
    thrown_away = sum(number % 3 for number in range(NUM_QUESTIONS) if number % 4)
    paid = (10 * 3 * 52 + thrown_away * 52 + 30 * 20) / NUM_QUESTIONS
    assert rejecting.runs[0].thinking_tokens == pytest.approx(paid)
    assert rejecting.control.value == 100, "of the runs that accepted anything"
    assert maximum.runs[0].num_cut == 4 and maximum.runs[0].accepted_tokens is None
    assert s1("report", out).exit_code == 0
    page = (out / "report.html").read_text()
    assert "<th>rejected</th>" in table_after(page, "rejection") and "<td>10</td>" in page
    assert "<th>of accepted thoughts</th>" in table_after(page, "rejection")
    assert "<th>cut</th>" in table_after(page, "maximum") and "rejected" not in table_after(page, "maximum")


def class_conditional(tmp_path: Path, series: Json) -> Results:
    """Asked for a short thought it thinks 70 tokens, for a long one 90, unprompted 80."""

    def reply(body: Json) -> Json:
        prompt = prompt_of(body)
        thought = 70 if "short amount" in prompt else 90 if "long amount" in prompt else 80
        return reply_of(True, thought + number_of(body), 999)

    with fake_models(reply) as models:
        out, result = asked(tmp_path, models.url, series)
    assert result.exit_code == 0, result.output
    return read_results(out)


def test_prompts_for_short_and_long_thinking_are_judged_by_what_is_usual(tmp_path: Path) -> None:
    lengths = {"method": "class_conditional", "length": ["short", "long"]}
    alone = class_conditional(tmp_path / "1", {"words": lengths}).series[0]
    assert alone.control.value is None

    def control_of(series: SeriesSummary) -> tuple[float | None, Any]:
        assert series.control.interval is not None
        return series.control.value, (series.control.interval.low, series.control.interval.high)

    few = {**lengths, "limit": 30}
    both = class_conditional(tmp_path / "2", {"words": few, "waits": {"num_waits": [0, 1]}}).series
    assert control_of(both[0]) == (100, (100, 100)) and both[1].control.value is None
    warm = {"words": {**lengths, "temperature": 1.0}, "waits": {"num_waits": [0, 1]}}
    assert class_conditional(tmp_path / "3", warm).series[0].control.value is None
