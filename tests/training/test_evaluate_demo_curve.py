"""Grading, bars, card and the client against a real HTTP server."""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from typing import Any

import httpx
import pytest
from typer.testing import CliRunner

from training.evaluate.cli import app
from training.evaluate.demo_curve.bars import failed_bars
from training.evaluate.demo_curve.client import (
    MalformedAnswer,
    ServerError,
    ServerRefuses,
    read_outcome,
    served_model,
)
from training.evaluate.demo_curve.report import (
    CARD_BEGIN,
    CARD_END,
    CardError,
    Provenance,
    as_json,
    update_card,
)
from training.evaluate.demo_curve.results import (
    Curves,
    Outcome,
    Row,
    Setting,
    all_settings,
    budget_settings,
    make_curves,
    minimum_settings,
    summarize,
    wait_settings,
)
from training.evaluate.suite import held_out_questions
from training.grading.program import exact_answer, grade_exact


@pytest.mark.parametrize(
    ("content", "answer"),
    [
        ("3", "3"),
        (" 3\n", "3"),
        ("Final Answer: 3", "3"),
        ("\nFinal Answer:3", "3"),
        ("Final Answer:", ""),
        ("", ""),
        (None, ""),
        ("3 Final Answer: 4", "3 Final Answer: 4"),
    ],
)
def test_exact_answer(content: str | None, answer: str) -> None:
    assert exact_answer(content) == answer


@pytest.mark.parametrize(
    ("answer", "truth", "correct"),
    [
        ("3", "3", True),
        ("P", "P", True),
        ("13", "3", False),
        ("3.", "3", False),
        ("p", "P", False),
        ("PQ", "P", False),
        ("03", "3", False),
        ("", "0", False),
        ("", "", False),
    ],
)
def test_exact_grading(answer: str, truth: str, correct: bool) -> None:
    assert grade_exact(truth, answer).correct is correct


def test_summary_counts_errors_as_wrong_and_leaves_them_out_of_the_mean() -> None:
    outcomes = [Outcome(True, "3", 40), Outcome(False, "", 20), Outcome(False, "", error="HTTP 500")]
    row = summarize(Setting(), outcomes)
    assert (row.num_correct, row.num_empty, row.num_errors) == (1, 1, 1)
    assert row.accuracy == pytest.approx(1 / 3)
    assert row.mean_thinking_tokens == 30


def test_settings_send_only_what_is_set() -> None:
    assert Setting().fields() == {"num_waits": 0}
    assert Setting(4, 0).fields() == {"num_waits": 4, "max_thinking_tokens": 0}
    assert len(all_settings()) == 11


GOOD_ACCURACIES: dict[tuple[str, int], int] = {
    **{("max_thinking_tokens", budget): correct for budget, correct in
       ((0, 90), (32, 120), (96, 200), (128, 240), (256, 300), (384, 310))},
    **{("num_waits", waits): correct for waits, correct in ((0, 160), (1, 220), (2, 280), (4, 312))},
    ("min_thinking_tokens", 128): 290,
}  # fmt: skip


def curves_with(num_questions: int = 400, errors: int = 0, **changes: int) -> Curves:
    """Curves that reach every bar, but for ``changes`` such as ``budget_128=100``."""
    rows = {}
    for setting in all_settings():
        field = "num_waits"
        if setting.max_thinking_tokens is not None:
            field = "max_thinking_tokens"
        elif setting.min_thinking_tokens is not None:
            field = "min_thinking_tokens"
        value = setting.fields()[field]
        correct = changes.get(f"{field}_{value}", GOOD_ACCURACIES[field, value])
        tokens = 140.0 if field == "min_thinking_tokens" else changes.get("first_pass_tokens", 35)
        rows[setting] = Row(setting, num_questions, correct, tokens, 0, errors)
    return make_curves(rows)


def test_a_good_curve_misses_no_bar() -> None:
    assert failed_bars(curves_with()) == []


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"num_waits_0": 201}, "accuracy at 0 waits must be <= 50%. Given: 50.2%"),
        ({"num_waits_4": 279}, "accuracy at 4 waits must be >= 70%"),
        ({"num_waits_0": 200, "num_waits_4": 299}, "gain from waits must be >= 25%"),
        ({"num_waits_2": 220}, "accuracy must rise with num_waits"),
        ({"max_thinking_tokens_0": 121}, "accuracy at budget 0 must be <= 30%"),
        ({"max_thinking_tokens_128": 199}, "accuracy at budget 128 must be >= 50%"),
        ({"max_thinking_tokens_384": 279}, "accuracy at budget 384 must be >= 70%"),
        ({"max_thinking_tokens_256": 227}, "must not fall by more than 3% from one budget to the next"),
        ({"first_pass_tokens": 47}, "must be >= 3 times those without. Given: 140.0 against 47.0"),
        ({"num_questions": 399}, "questions per setting must be >= 400. Given: 399"),
        ({"errors": 1}, "must be 0. Given: 1"),
    ],
)
def test_each_bar_is_named_when_missed(changes: dict[str, int], sentence: str) -> None:
    assert any(sentence in failed for failed in failed_bars(curves_with(**changes)))


PROVENANCE = Provenance(
    "s1 evaluate --url U", "served at U", "tiny", "abcd", 400, "2026-01-02T03:04:05", 1.0, {"python": "3"}
)


def test_card_is_rewritten_between_its_comments_only(tmp_path: Path) -> None:
    card = tmp_path / "README.md"
    card.write_text(f"before\n{CARD_BEGIN}\nold\n{CARD_END}\nafter\n")
    update_card(card, curves_with(), PROVENANCE)
    once = card.read_text()
    assert once.startswith(f"before\n{CARD_BEGIN}\n") and once.endswith(f"{CARD_END}\nafter\n")
    assert "old" not in once and "| 128 | 60.0 |" in once and "`s1 evaluate --url U`" in once
    update_card(card, curves_with(), PROVENANCE)
    assert card.read_text() == once


def test_card_without_its_comments_is_refused(tmp_path: Path) -> None:
    card = tmp_path / "README.md"
    card.write_text(f"{CARD_END}\n{CARD_BEGIN}\n")
    with pytest.raises(CardError, match="must contain"):
        update_card(card, curves_with(), PROVENANCE)


def test_json_holds_provenance_and_every_row() -> None:
    results = as_json(curves_with(), PROVENANCE)
    assert json.loads(json.dumps(results)) == results
    assert results["provenance"]["suite"] == "abcd"
    assert [row["max_thinking_tokens"] for row in results["budgets"]] == [0, 32, 96, 128, 256, 384]
    assert [row["num_waits"] for row in results["waits"]] == [0, 1, 2, 4]


def completion(content: str | None, reasoning_tokens: int) -> dict[str, Any]:
    return {
        "choices": [{"message": {"role": "assistant", "content": content}}],
        "usage": {"completion_tokens_details": {"reasoning_tokens": reasoning_tokens}},
    }


def test_read_outcome() -> None:
    assert read_outcome(completion("Final Answer: 3", 12), "3") == Outcome(True, "3", 12)
    assert read_outcome(completion(None, 12), "3") == Outcome(False, "", 12)


@pytest.mark.parametrize("reply", [{}, {"choices": []}, {**completion("3", 1), "usage": {}}, []])
def test_a_reply_without_its_fields_is_an_error_and_not_a_zero(reply: object) -> None:
    with pytest.raises(MalformedAnswer):
        read_outcome(reply, "3")


class _FakeModel(BaseHTTPRequestHandler):
    """Knows all answers when it may wait, none at num_waits 0, and fails on min_thinking_tokens."""

    protocol_version = "HTTP/1.1"
    truths = {question.text: question.truth for question in held_out_questions(12)}

    def do_GET(self) -> None:
        self._reply(200, {"data": [{"id": "fake"}]})

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        assert body["temperature"] == 0 and body["model"] == "fake"
        if "min_thinking_tokens" in body:
            self._reply(400, {"error": {"message": "no [such] field"}})
            return
        answer = self.truths[body["messages"][0]["content"]] if body["num_waits"] else ""
        self._reply(200, completion(answer, body.get("max_thinking_tokens", 50)))

    def _reply(self, status: int, reply: dict[str, Any]) -> None:
        payload = json.dumps(reply).encode()
        self.send_response(status)
        self.send_header("Content-Length", str(len(payload)))
        self.end_headers()
        self.wfile.write(payload)

    def log_message(self, format: str, *args: object) -> None:
        """Quiet."""


@contextmanager
def fake_server() -> Iterator[str]:
    server = ThreadingHTTPServer(("127.0.0.1", 0), _FakeModel)
    thread = Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}/v1"
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


def test_the_command_measures_a_served_model(tmp_path: Path) -> None:
    results_file, card = tmp_path / "results.json", tmp_path / "README.md"
    card.write_text(f"{CARD_BEGIN}\n{CARD_END}\n")
    with fake_server() as url:
        arguments = ["--url", url, "--limit", "12", "--json", str(results_file), "--update-card", str(card)]
        result = CliRunner().invoke(app, [*arguments, "--check-bars"])
    assert result.exit_code == 1, result.output
    assert "bar missed: questions per setting must be >= 400. Given: 12" in result.output
    results = json.loads(results_file.read_text())
    assert results["provenance"]["model"] == "fake"
    assert [row["accuracy"] for row in results["budgets"]] == [1.0] * 6
    assert [row["mean_thinking_tokens"] for row in results["budgets"]] == [0, 32, 96, 128, 256, 384]
    assert results["waits"][0]["num_empty"] == 12
    assert results["minima"][1]["num_errors"] == 12 and "no [such] field" in result.output
    assert f"`s1 evaluate --url {url} --limit 12`" in card.read_text()


def test_the_command_says_what_to_do_without_a_server() -> None:
    result = CliRunner().invoke(app, [])
    assert result.exit_code == 2 and "make serve" in result.output
    result = CliRunner().invoke(app, ["--url", "http://127.0.0.1:9/v1", "--limit", "1"])
    assert result.exit_code == 2 and "does not answer" in result.output


@pytest.mark.parametrize(("status", "refuses"), [(401, True), (404, True), (200, True), (503, False)])
async def test_a_server_that_refuses_its_list_is_not_one_that_is_away(status: int, refuses: bool) -> None:
    transport = httpx.MockTransport(lambda _: httpx.Response(status, json={"data": []}))
    async with httpx.AsyncClient(base_url="http://m/v1", transport=transport) as http:
        with pytest.raises(ServerError) as failed:
            await served_model(http)
    assert isinstance(failed.value, ServerRefuses) is refuses


def test_an_option_before_a_command_is_not_ignored() -> None:
    result = CliRunner().invoke(app, ["--limit", "3", "check", "demo"])
    assert result.exit_code == 2 and "--limit must follow `check`" in result.output


@pytest.mark.parametrize("ending", ["svg", "png"])
def test_the_figure_is_drawn(tmp_path: Path, ending: str) -> None:
    from training.evaluate.demo_curve.figure import draw

    def rows(settings: list[Setting]) -> tuple[Row, ...]:
        return tuple(Row(s, 400, 100 + 10 * i, 30.0 * i, 0, 0) for i, s in enumerate(settings))

    curves = Curves(rows(budget_settings()), rows(wait_settings()), rows(minimum_settings()))
    path = tmp_path / f"curve.{ending}"
    draw(curves, path)
    assert path.stat().st_size > 5000
    if ending == "svg":
        assert "<svg" in path.read_text()
