"""Reports, figures and recommendations from runs whose numbers are known."""

from __future__ import annotations

import json
import random
import re
from collections.abc import Mapping
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest
import yaml
from typer.testing import CliRunner, Result

from server.gateway.policy_file import read_policy
from training.evaluate.charts import flips_between, parallel_against_sequential
from training.evaluate.cli import app
from training.evaluate.equal import at_equal_tokens
from training.evaluate.methods.registry import methods
from training.evaluate.points import Series, make_series
from training.evaluate.samples import Sample, read_samples, write_samples
from training.evaluate.summary import read_results

NUM_QUESTIONS = 200
ACCURACY = {16: 0.2, 32: 0.4, 64: 0.6, 128: 0.8, 256: 0.8}


def write_run(folder: Path, series: list[Series], *, parallel: str = "", **facts: Any) -> Path:
    """Question k is right at a point with accuracy a if k < 200·a; it thinks its maximum, or 100 tokens."""
    points = list(dict.fromkeys(point for one in series for point in one.points))
    rows = [
        Sample(
            benchmark="demo",
            question=f"q{number}",
            point=point.key,
            method=point.method,
            parameters=json.dumps(point.fields),
            sample=0,
            content="3",
            extracted="3",
            reference="3",
            correct=number < NUM_QUESTIONS * ACCURACY.get(point.fields.get("max_thinking_tokens", 0), 0.8),
            decided=True,
            graded_by="exact",
            thinking_tokens=point.fields.get("max_thinking_tokens", 100),
            completion_tokens=point.fields.get("max_thinking_tokens", 100) + 10,
            tokens_are="thinking",
            num_requests=1,
            finish_reason="stop",
            receipts="[]",
        )
        for number in range(NUM_QUESTIONS)
        for point in points
    ]
    random.Random(1).shuffle(rows)
    rows.sort(key=lambda row: row.question)
    folder.mkdir(parents=True, exist_ok=True)
    write_samples(folder / "samples.parquet", rows)
    described = [
        {
            "name": one.name,
            "method": one.method,
            "is_parallel": one.name == parallel,
            "limit": one.limit,
            "points": [
                {
                    "key": point.key,
                    "label": point.label(one.varying),
                    "parameters": point.fields,
                    "bounds": methods()[point.method].bounds(point.fields),
                }
                for point in one.points
            ],
        }
        for one in series
    ]
    benchmark = {
        "name": "demo", "source": "a <made-up> set", "num_questions": NUM_QUESTIONS, "fingerprint": "f",
        "max_tokens": 1024,
    }  # fmt: skip
    known = {
        "command": "s1 evaluate run --url http://127.0.0.1:1/v1", "url": "u", "model": "tiny & small",
        "grader": None, "started_at": "2026-01-02T03:04:05", "seconds": 1.0,
        "versions": {"python": "3"}, "samples": 1,
        "benchmarks": [benchmark], "series": described, "calls": {}, "graded_by": {"exact": len(rows)},
        "undecided": 0, "errors": 0,
    }  # fmt: skip
    (folder / "run.json").write_text(json.dumps({**known, **facts}))
    return folder


def with_tokens(folder: Path, tokens: Mapping[str, int]) -> None:
    """Other thinking tokens for samples without a maximum, by their wait text."""
    rows = [
        row
        if "max_thinking_tokens" in (asked := json.loads(row.parameters))
        else replace(row, thinking_tokens=tokens[asked["wait_text"]])
        for row in read_samples(folder / "samples.parquet")
    ]
    write_samples(folder / "samples.parquet", rows)


@pytest.fixture
def budgets() -> Series:
    return make_series("maximum", {"max_thinking_tokens": list(ACCURACY)}, methods())


@pytest.fixture
def waits() -> Series:
    return make_series("waits", {"num_waits": [0, 1]}, methods())


def s1(*arguments: object) -> Result:
    return CliRunner().invoke(app, [str(argument) for argument in arguments])


def test_the_numbers_of_a_run(tmp_path: Path, budgets: Series, waits: Series) -> None:
    results = read_results(write_run(tmp_path, [budgets, waits]))
    one, other = results.series
    assert [run.accuracy.value for run in one.runs] == pytest.approx([20, 40, 60, 80, 80])
    assert [run.thinking_tokens for run in one.runs] == [16, 32, 64, 128, 256]
    assert one.control.value == 100 and one.performance.value == pytest.approx(80)
    # Slopes over 1, 2, 3 and 4 doublings: (20+20+20+0) + (20+20+10) + (20+40/3) + 15, of ten pairs.
    expected = (60 + 50 + 20 + 40 / 3 + 15) / 10
    assert one.points_per_doubling.value == pytest.approx(expected)
    assert one.points_per_doubling.interval is not None and one.points_per_doubling.interval.low < expected
    assert other.control.value is None and other.points_per_doubling.value is None
    assert [flips_between(a, b) for a, b in zip(one.runs, one.runs[1:], strict=False)] == [(40, 0)] * 3 + [
        (0, 0)
    ]


def test_a_series_of_fewer_questions_is_measured_on_the_first_of_them(
    tmp_path: Path, budgets: Series
) -> None:
    few = make_series("few", {"max_thinking_tokens": [16, 64], "limit": 50}, methods())
    results = read_results(write_run(tmp_path, [budgets, few]))
    assert [one.num_questions for one in results.series] == [NUM_QUESTIONS, 50]
    first = [int(name[1:]) for name in sorted(f"q{number}" for number in range(NUM_QUESTIONS))[:50]]
    right = [100 * sum(number < NUM_QUESTIONS * ACCURACY[at] for number in first) / 50 for at in (16, 64)]
    assert [run.accuracy.value for run in results.series[1].runs] == pytest.approx(right)


def test_branches_are_compared_with_one_thought_of_as_many_tokens(tmp_path: Path, budgets: Series) -> None:
    """A vote is right for 80 % whatever it may think; one thought of 64 tokens for 60 %, of 128 for 80 %."""
    grid = {
        "method": "majority_vote",
        "width": 8,
        "total_thinking_tokens": [64, 128, 999],
        "temperature": 1.0,
    }
    vote = make_series("vote", {**grid, "limit": 100}, methods())
    folder = write_run(tmp_path, [budgets, vote], parallel="vote")
    rows = at_equal_tokens(read_results(folder).series)
    assert [(row.allowed, row.series, row.num_questions) for row in rows] == [
        (64, "maximum", 100), (64, "vote", 100), (128, "maximum", 100), (128, "vote", 100),
    ]  # fmt: skip
    assert rows[0].difference is None and rows[1].difference is not None and rows[3].difference is not None
    first = [int(name[1:]) for name in sorted(f"q{number}" for number in range(NUM_QUESTIONS))[:100]]
    gained = sum(120 <= number < 160 for number in first)
    assert rows[1].difference.value == pytest.approx(gained)
    assert rows[1].difference.interval is not None and 0 < rows[1].difference.interval.low < gained
    # No question differs, but none of a hundred is not none at all.
    assert rows[3].difference.value == 0
    spread = rows[3].difference.interval
    assert spread is not None and (spread.low, spread.high) == pytest.approx((-3.699, 3.699), abs=0.001)
    assert s1("report", folder).exit_code == 0
    assert "At equal thinking tokens" in (folder / "report.html").read_text()
    told = json.loads((folder / "summary.json").read_text())["equal_tokens"]
    assert [row["difference_points"] and row["difference_points"]["value"] for row in told] == [
        None, pytest.approx(gained), None, 0,
    ]  # fmt: skip


def test_without_branches_nothing_is_compared(tmp_path: Path, budgets: Series, waits: Series) -> None:
    assert at_equal_tokens(read_results(write_run(tmp_path, [budgets, waits])).series) == []


class _References(HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.tags: set[str] = set()
        self.loaded: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.add(tag)
        for name, value in attrs:
            if (
                name in ("src", "href", "xlink:href", "data")
                and value
                and not value.startswith(("#", "data:"))
            ):
                self.loaded.append(value)


def test_the_report_needs_nothing_else(tmp_path: Path, budgets: Series, waits: Series) -> None:
    folder = write_run(tmp_path, [budgets, waits], parallel="waits", errors=3, undecided=2)
    result = s1("report", folder)
    assert result.exit_code == 0, result.output
    text = (folder / "report.html").read_text()
    found = _References()
    found.feed(text)
    assert found.loaded == [] and "script" not in found.tags and {"svg", "table"} <= found.tags
    assert "@import" not in text and "url(http" not in text
    assert "tiny &amp; small" in text and "a &lt;made-up&gt; set" in text
    assert "3 samples have no answer" in text and "2 answers could not be compared" in text
    assert "max_thinking_tokens 128" in text and "s1 evaluate run --url" in text
    names = {path.name for path in (folder / "figures").iterdir()}
    assert {"demo-accuracy.svg", "demo-accuracy.png", "demo-parallel.svg", "demo-maximum-flips.png"} <= names
    assert {"demo-maximum-tokens.svg", "demo-methods.svg", "demo-waits-tokens.png"} <= names
    summary = json.loads((folder / "summary.json").read_text())
    assert summary["series"][0]["performance_percent"]["value"] == pytest.approx(80)
    first = (folder / "report.html").read_bytes()
    assert s1("report", folder).exit_code == 0 and (folder / "report.html").read_bytes() == first


def test_the_report_says_first_what_its_metrics_are_and_where_things_stand(
    tmp_path: Path, budgets: Series
) -> None:
    folder = write_run(tmp_path, [budgets])
    assert s1("report", folder).exit_code == 0
    text = (folder / "report.html").read_text()
    first = text[: text.index("<h2")]
    assert all(f"<b>{metric}</b> is" in first for metric in ("Control", "Scaling", "Performance"))
    links = re.findall(r'href="#([^"]+)"', first)
    assert links == ["of-demo", "how-to-read", "conditions"]
    assert all(f'<h2 id="{link}">' in text for link in links)


def test_a_wide_table_scrolls_by_itself(tmp_path: Path, budgets: Series) -> None:
    folder = write_run(tmp_path, [budgets])
    assert s1("report", folder).exit_code == 0
    text = (folder / "report.html").read_text()
    assert text.count("<table") == text.count('<div class="scroll"><table') == 3
    assert ".scroll { overflow-x: auto; }" in text


def test_between_settings_that_are_no_amounts_there_is_no_slope(tmp_path: Path) -> None:
    texts = make_series("texts", {"num_waits": 2, "wait_text": ["Wait", "Hmm"]}, methods())
    some = {"max_thinking_tokens": [16, 64], "num_waits": 1, "wait_text": "Hmm"}
    amounts = make_series("amounts", some, methods())
    folder = write_run(tmp_path, [texts, amounts])
    with_tokens(folder, {"Wait": 40, "Hmm": 60})
    texts_found, amounts_found = read_results(folder).series
    assert [run.thinking_tokens for run in texts_found.runs] == [40, 60]
    for measured in (texts_found.points_per_doubling, texts_found.points_per_thousand_tokens):
        assert (measured.value, measured.interval) == (None, None)
    assert amounts_found.points_per_doubling.value is not None


def test_one_kind_alone_is_not_compared(tmp_path: Path, budgets: Series) -> None:
    assert parallel_against_sequential(read_results(write_run(tmp_path, [budgets])).series) is None


def test_a_folder_without_a_finished_run_is_refused(tmp_path: Path) -> None:
    result = s1("report", tmp_path)
    assert result.exit_code == 2 and "has no run.json" in " ".join(result.output.split())


def test_the_smallest_budget_that_is_good_enough(tmp_path: Path, budgets: Series) -> None:
    folder = write_run(tmp_path / "run", [budgets])
    file = tmp_path / "policy.yaml"
    result = s1(
        "recommend", folder, "--margin", 2, "--price-per-million", 10, "--out", file, "--model", "tiny"
    )
    assert result.exit_code == 0, result.output
    output = " ".join(result.output.split())
    assert "→ max_thinking_tokens 128" in output and "Accuracy 80.0 %" in output
    # 138 completion tokens at 10 a million, a thousand times.
    assert "completion tokens: 1.38; the best: 1.38" in output
    policy = read_policy(file)
    assert policy.models["tiny"].default.max_thinking_tokens == 128
    assert "within 2 points of the best" in file.read_text()
    wider = s1("recommend", folder, "--margin", 25)
    assert "→ max_thinking_tokens 64" in " ".join(wider.output.split())


def test_the_margin_is_held_with_confidence_only(tmp_path: Path) -> None:
    """64 and 128 tokens differ by 20 points give or take 5.5: a margin of 20 is a toss, of 30 is safe."""
    folder = write_run(tmp_path, [make_series("a", {"max_thinking_tokens": [64, 128]}, methods())])
    assert "→ max_thinking_tokens 128" in s1("recommend", folder, "--margin", 20, "--confidence", 0.9).output
    assert "→ max_thinking_tokens 64" in s1("recommend", folder, "--margin", 30, "--confidence", 0.9).output


def test_runs_that_were_asked_fewer_questions_are_not_recommended(tmp_path: Path, budgets: Series) -> None:
    few = make_series("few", {"max_thinking_tokens": [64], "num_waits": 1, "limit": 50}, methods())
    again = make_series("again", {"max_thinking_tokens": [128], "limit": 50}, methods())
    folder = write_run(tmp_path, [few, again, budgets])
    output = " ".join(s1("recommend", folder, "--margin", 2).output.split())
    assert "→ max_thinking_tokens 128" in output and "num_waits 1" not in output
    assert "as they were asked fewer questions: 1 run(s)" in output


@pytest.mark.parametrize(
    ("grid", "message"),
    [
        ({"temperature": [0.0]}, "no run has a budget that a policy could set"),
        ({"max_thinking_tokens": 64, "temperature": [0.5, 1.0]}, "runs differ in temperature"),
    ],
)
def test_what_can_not_be_recommended(tmp_path: Path, grid: dict[str, Any], message: str) -> None:
    folder = write_run(tmp_path, [make_series("a", grid, methods())])
    result = s1("recommend", folder)
    assert result.exit_code == 2 and message in " ".join(result.output.split())
    assert s1("recommend", folder, "--benchmark", "aime24").exit_code == 2


def test_the_policy_is_what_s1_policy_check_reads(tmp_path: Path, waits: Series) -> None:
    from server.commands.policy import policy

    folder, file = write_run(tmp_path / "run", [waits]), tmp_path / "policy.yaml"
    assert s1("recommend", folder, "--out", file).exit_code == 0
    assert yaml.safe_load(file.read_text()) == {"models": {"tiny & small": {"default": {"num_waits": 0}}}}
    checked = CliRunner().invoke(policy, ["check", str(file)])
    assert checked.exit_code == 0 and "tiny & small" in checked.output
