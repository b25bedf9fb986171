"""Benchmarks from small samples in the real data sets' schemas, and sweeps from options and files."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from tests.support.commands import s1
from tests.support.question_files import SCHEMAS, write_question_files
from training.curate.errors import CurationError
from training.curate.hub import LocalHub
from training.curate.schema import question_id
from training.evaluate.benchmarks import MAX_TOKENS, load_benchmark
from training.evaluate.methods.registry import methods
from training.evaluate.points import Sweep, jobs_of, make_series, read_sweep, series_of
from training.evaluate.samples import Sample, read_samples, write_samples
from training.evaluate.sweep_cli import SWEEPS
from training.grading.program import grade
from training.grading.references import check_references

Row = dict[str, Any]

HUB: dict[str, list[Row]] = {
    "simplescaling/aime24_nofigures/train": [
        {"id": 60, "problem": "Find $t$.", "solution": "So $\\boxed{204}$.", "answer": "204", "url": "x"},
        {"id": 61, "problem": "Find $x$.", "solution": "So $\\boxed{23}$.", "answer": "023", "url": "x"},
    ],
    "TIGER-Lab/AIME25/train": [{"id": "0", "question": "Find the sum of all bases.", "answer": "70"}],
    "simplescaling/openaimath/test": [
        {
            "problem": "Convert $(0,3)$.",
            "solution": "We have \\[\\boxed{\\left( 3, \\frac{\\pi}{2} \\right)}.\\]",
            "answer": "\\left( 3, \\frac{\\pi}{2} \\right)",
            "subject": "Precalculus",
            "level": 2,
            "unique_id": "test/precalculus/807.json",
        }
    ],
    "Idavidrein/gpqa/gpqa_diamond/train": [
        {
            "Record ID": f"rec{number}",
            "Question": f"Which particle of kind {number}?\n",
            "Correct Answer": "a muon\n",
            "Incorrect Answer 1": "an electron",
            "Incorrect Answer 2": "a photon",
            "Incorrect Answer 3": "a pion",
            "Explanation": "Conservation.",
            "Subdomain": "Physics",
        }
        for number in range(8)
    ],
}  # fmt: skip


@pytest.fixture
def hub(tmp_path: Path) -> LocalHub:
    for name, rows in HUB.items():
        path = tmp_path / f"{name}.jsonl"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return LocalHub(tmp_path)


def test_mathematics_is_asked_as_it_stands(hub: LocalHub) -> None:
    aime24, aime25 = load_benchmark("aime24", hub), load_benchmark("aime25", hub)
    math500 = load_benchmark("math500", hub)
    assert [item.prompt for item in aime24.items] == ["Find $t$.", "Find $x$."]
    assert [item.reference for item in (*aime24.items, *aime25.items)] == ["204", "023", "70"]
    assert math500.items[0].reference == "\\left( 3, \\frac{\\pi}{2} \\right)"
    assert grade(math500.items[0].reference, "\\boxed{(3,\\pi/2)}").correct
    assert aime24.max_tokens == MAX_TOKENS and len(aime24.fingerprint) == 16
    assert load_benchmark("aime24", hub, suffix="Be brief.").items[0].prompt == "Find $t$.\n\nBe brief."
    assert len(load_benchmark("aime24", hub, limit=1).items) == 1


def test_gpqa_has_its_options_in_an_order_of_its_own(hub: LocalHub) -> None:
    items = load_benchmark("gpqa-diamond", hub).items
    first = items[0]
    letters = [item.reference for item in items]
    assert set(letters) <= set("ABCD") and len(set(letters)) > 1
    lines = first.prompt.split("\n")
    assert lines[:2] == ["Which particle of kind 0?", ""] and [line[:3] for line in lines[2:]] == [
        "A) ",
        "B) ",
        "C) ",
        "D) ",
    ]
    assert lines[2 + "ABCD".index(first.reference)].endswith("a muon")
    assert load_benchmark("gpqa-diamond", hub, limit=1).items[0] == first
    assert grade(first.reference, "a muon", first.kind, first.options).correct
    assert not grade(first.reference, "No idea.", first.kind, first.options).correct


def test_a_gpqa_row_without_an_option_is_named(hub: LocalHub, tmp_path: Path) -> None:
    row = {**HUB["Idavidrein/gpqa/gpqa_diamond/train"][0], "Incorrect Answer 2": None}
    (tmp_path / "Idavidrein/gpqa/gpqa_diamond/train.jsonl").write_text(json.dumps(row) + "\n")
    with pytest.raises(CurationError, match="row 1: column 'Incorrect Answer 2' is missing"):
        load_benchmark("gpqa-diamond", hub)


def test_every_schema_of_local_files_loads_and_its_references_can_be_graded(tmp_path: Path) -> None:
    for path in write_question_files(tmp_path, 12):
        benchmark = load_benchmark(str(path), LocalHub(tmp_path))
        assert benchmark.name == path.stem and len(benchmark.items) == 12, path.stem
        result = check_references((item.reference, item.kind) for item in benchmark.items)
        assert result.num_references == 12 and not result.refused and not result.accepted, path.stem
    assert len(SCHEMAS) == 6


def test_a_file_with_options_is_multiple_choice(tmp_path: Path) -> None:
    path = tmp_path / "quiz.jsonl"
    rows = [
        {"question": "Which?", "options": ["one", "two"], "answer": "two"},
        {"question": "And which?", "options": ["one", "two"], "answer": "a"},
    ]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    items = load_benchmark(f"pairs={path}", LocalHub(tmp_path)).items
    assert [(item.kind, item.reference) for item in items] == [("choice", "B"), ("choice", "A")]
    assert items[0].prompt == "Which?\n\nA) one\nB) two"


@pytest.mark.parametrize(
    ("options", "answer", "letter"),
    [
        (["1", "2", "3", "4"], 1, "B"),
        (["3", "1", "2", "0"], 0, "A"),
        (["3", "1", "2", "0"], 3.0, "D"),
        (["3", "1", "2", "0"], "0", "D"),
        (["A", "B", "AB", "O"], "B", "B"),
        (["m", "M"], "m", "A"),
        (["red", "blue"], " blue ", "B"),
        (["red", "blue"], "b", "B"),
        ([2, 1], 1, "B"),
    ],
)
def test_the_right_option_is_told_by_index_letter_or_text(
    tmp_path: Path, options: list[Any], answer: Any, letter: str
) -> None:
    """MMLU's answers are indices, and its options are often numbers."""
    path = tmp_path / "quiz.jsonl"
    path.write_text(json.dumps({"question": "Which?", "choices": options, "answer": answer}) + "\n")
    (item,) = load_benchmark(str(path), LocalHub(tmp_path)).items
    assert item.reference == letter


def test_a_question_with_other_options_is_another(tmp_path: Path) -> None:
    path = tmp_path / "quiz.jsonl"
    which = "Which of the following is true?"
    rows = [
        {"question": which, "options": ["0 is odd", "0 is even"], "answer": "B"},
        {"question": which, "options": ["1 is odd", "1 is even"], "answer": "A"},
        {"question": which, "options": ["1 is odd", "1 is even"], "answer": "B"},
        {"question": which, "answer": "12"},
        {"question": which, "answer": "13"},
    ]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    benchmark = load_benchmark(str(path), LocalHub(tmp_path), limit=3)
    assert [item.reference for item in benchmark.items] == ["B", "A", "12"]
    assert len({item.id for item in benchmark.items}) == 3
    assert benchmark.num_repeated == 2
    # The id of a question without options is that of its text, which curation has, too.
    assert benchmark.items[2].id == question_id(which) == "395e7d6ee538cd72"


def test_gpqa_without_record_ids_has_an_id_for_every_set_of_options(hub: LocalHub, tmp_path: Path) -> None:
    rows = [
        {**HUB["Idavidrein/gpqa/gpqa_diamond/train"][0], "Record ID": None, "Correct Answer": answer}
        for answer in ("a muon", "a tau")
    ]
    path = tmp_path / "Idavidrein/gpqa/gpqa_diamond/train.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    assert len({item.id for item in load_benchmark("gpqa-diamond", hub).items}) == 2


def test_rows_that_repeat_a_question_are_told(tmp_path: Path) -> None:
    path = tmp_path / "quiz.jsonl"
    rows = [{"question": f"What is {n % 3} + 1?", "answer": "1"} for n in range(5)]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    said = s1("evaluate", "check", path).stderr
    assert "warning: quiz: 2 rows repeat a question and are left out" in said
    path.write_text("".join(json.dumps(row) + "\n" for row in rows[:3]))
    assert "warning" not in s1("evaluate", "check", path).stderr


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ({"question": "Which?", "options": ["one", "two"], "answer": "C"}, "the answer must be one of AB"),
        ({"question": "Which?", "options": ["one"], "answer": "A"}, "options must be a list of 2 to"),
        (
            {"question": "Which?", "choices": ["1", "2"], "answer": 2},
            "row 1: an answer that is a number is an index, from 0 to 1. Given: 2",
        ),
        (
            {"question": "Which?", "choices": [1, 2, 3], "answer": 1},
            "row 1: the answer 1 is the index of 2 and an option itself",
        ),
        (
            {"question": "Which?", "options": ["B", "A", "AB", "O"], "answer": "A"},
            "row 1: the answer 'A' is the letter of 'B' and the text of option B",
        ),
        (
            {"question": "Which?", "options": ["b", "a"], "answer": "A"},
            "row 1: the answer 'A' is the letter of 'b' and the text of option B",
        ),
        (
            {"question": "Which?", "options": ["one", "two", "one "], "answer": "two"},
            "row 1: options must differ. Given twice: 'one', as A and C",
        ),
        ({"question": "Which?"}, "row 1 holds no answer"),
        ({"text": "Which?"}, "no column for the question"),
    ],
)
def test_what_a_file_lacks_is_named(tmp_path: Path, row: Row, message: str) -> None:
    path = tmp_path / "quiz.jsonl"
    path.write_text(json.dumps(row) + "\n")
    with pytest.raises(CurationError, match=message):
        load_benchmark(str(path), LocalHub(tmp_path))
    with pytest.raises(CurationError, match="--benchmark must be"):
        load_benchmark("aime23", LocalHub(tmp_path))


def test_a_grid_is_the_product_of_its_lists() -> None:
    grid = {"max_thinking_tokens": [64, 128], "num_waits": [1, 2], "wait_text": None, "temperature": 1.0}
    series = make_series("grid", {**grid, "wait_text": [["Wait", "Hmm"]]}, methods())
    assert len(series.points) == 4 and series.varying == ("max_thinking_tokens", "num_waits")
    assert series.points[0].fields == {
        "max_thinking_tokens": 64, "num_waits": 1, "temperature": 1.0, "wait_text": ["Wait", "Hmm"]
    }  # fmt: skip
    assert series.points[1].label(series.varying) == "max_thinking_tokens 64, num_waits 2"
    assert make_series("none", {}, methods()).points[0].label() == "no budget"


@pytest.mark.parametrize(
    ("grid", "message"),
    [
        ({"max_thinking": 5}, "method budget has no parameter 'max_thinking'"),
        ({"method": "budgets"}, "method must be one of budget"),
        ({"num_waits": -1}, "`num_waits` must be"),
        ({"max_thinking_tokens": 5, "min_thinking_tokens": 6}, "min_thinking_tokens"),
        ({"num_waits": [True]}, "num_waits must be a number"),
        ({"num_waits": []}, "a list of values is empty"),
    ],
)
def test_a_grid_that_can_not_be_asked_is_refused(grid: Row, message: str) -> None:
    with pytest.raises(CurationError, match=message):
        make_series("grid", grid, methods())


def test_a_point_of_two_series_is_asked_once() -> None:
    one = make_series("a", {"num_waits": [0, 1]}, methods())
    two = make_series("b", {"num_waits": [1, 2]}, methods())
    sweep = Sweep(("demo",), (one, two), samples=2)
    assert len(sweep.points) == 3 and len(list(jobs_of(sweep, 5))) == 3 * 2 * 5


def test_a_series_may_ask_fewer_questions_but_never_fewer_than_another_wants() -> None:
    few = make_series("a", {"num_waits": [0, 1], "limit": 3}, methods())
    all_of_them = make_series("b", {"num_waits": 1}, methods())
    sweep = Sweep(("demo",), (few, all_of_them), samples=2)
    asked = Counter(point.label() for _, point, _ in jobs_of(sweep, 5))
    assert asked == {"num_waits 0": 3 * 2, "num_waits 1": 5 * 2}
    assert {at for at, _, _ in jobs_of(Sweep(("demo",), (few,)), 2)} == {0, 1}
    with pytest.raises(CurationError, match="a: limit must be a whole number"):
        make_series("a", {"num_waits": 1, "limit": [3]}, methods())


def test_several_methods_are_several_series() -> None:
    """The metrics of a series are those of one method."""
    grid = {"method": ["token_conditional", "token_conditional_forced"], "tokens": [16, 32]}
    found = series_of("tokens", grid, methods())
    names = [(one.name, one.method, len(one.points)) for one in found]
    assert names == [
        ("tokens, token_conditional", "token_conditional", 2),
        ("tokens, token_conditional_forced", "token_conditional_forced", 2),
    ]
    assert [one.name for one in series_of("waits", {"num_waits": [0, 1]}, methods())] == ["waits"]


def test_sweep_files(tmp_path: Path) -> None:
    for path in SWEEPS.glob("*.yaml"):
        assert read_sweep(path, methods()).series
    path = tmp_path / "sweep.yaml"
    for text, message in (
        ("benchmarks: [demo]", "must have benchmarks and series"),
        ("benchmarks: demo\nseries: {a: {num_waits: 1}}", "benchmarks must be a list"),
        ("benchmarks: [demo]\nseries: {a: 1}", "series 'a' must map"),
        ("benchmarks: [demo]\nseries: {a: {num_waits: 1}}\nsamples: 0", "samples must be a whole number"),
        ("benchmarks: [demo", "is not YAML"),
    ):
        path.write_text(text)
        with pytest.raises(CurationError, match=message):
            read_sweep(path, methods())


def test_samples_come_back_from_parquet(tmp_path: Path) -> None:
    point = make_series("a", {"num_waits": 1, "wait_text": [["A", "B"]]}, methods()).points[0]
    sample = Sample(
        "demo", "q", point.key, "budget", "{}", 0, "3", "3", "3",
        True, True, "exact", 7, None, "thinking", 1, "stop", "[]",
    )  # fmt: skip
    write_samples(tmp_path / "samples.parquet", [sample])
    assert read_samples(tmp_path / "samples.parquet") == [sample]
    assert sample.setting == point
