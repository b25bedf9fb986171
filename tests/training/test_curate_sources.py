"""The 16 sources of s1 from rows with their real columns; nothing here reaches the hub."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.hub_samples import write_hub
from training.curate.errors import CurationError
from training.curate.hub import LocalHub
from training.curate.s1_sources import BENCHMARKS, S1_SOURCES, load
from training.curate.schema import Question

COUNTS = {
    "numinamath": 2,
    "math": 1,
    "olympicarena": 12,
    "omnimath": 1,
    "agieval": 16,
    "xword": 1,
    "olympiadbench": 4,
    "aime": 2,
    "theoremqa": 1,
    "usaco": 1,
    "jeebench": 1,
    "gpqa": 6,
    "scieval": 250,
    "s1-prob": 1,
    "livecodebench": 1,
    "s1-teasers": 1,
    "math500": 1,
    "gpqa-diamond": 2,
    "aimo-aime": 1,
}


@pytest.fixture(scope="module")
def hub(tmp_path_factory: pytest.TempPathFactory) -> LocalHub:
    return LocalHub(write_hub(tmp_path_factory.mktemp("hub")))


def questions(hub: LocalHub, name: str) -> list[Question]:
    return load(name, hub, seed=0)[0]


def test_there_are_sixteen_sources_and_the_papers_counts_add_up() -> None:
    assert len(S1_SOURCES) == 16 and {**S1_SOURCES, **BENCHMARKS}.keys() == COUNTS.keys()
    assert sum(source.num_questions for source in S1_SOURCES.values()) == 59_029


@pytest.mark.parametrize(("name", "count"), COUNTS.items())
def test_every_source_takes_the_rows_that_s1_takes(hub: LocalHub, name: str, count: int) -> None:
    found = questions(hub, name)
    assert len(found) == count
    assert {question.source for question in found} == {name}
    assert all(question.question == question.question.strip() != "" for question in found)
    assert len({question.id for question in found}) == count


def test_numinamath_keeps_the_forum_and_the_chosen_ones(hub: LocalHub) -> None:
    assert [(q.question, q.answer) for q in questions(hub, "numinamath")] == [
        ("Prove it.", "7"),
        ("Chosen one.", None),
    ]


def test_rows_that_s1_does_not_take_are_counted(hub: LocalHub) -> None:
    assert load("aime", hub, seed=0)[1] == 2
    assert load("scieval", hub, seed=0)[1] == 294 - 250
    assert load("math", hub, seed=0)[1] == 0


def test_aime_ends_with_2021_as_in_the_paper(hub: LocalHub) -> None:
    assert [q.question for q in questions(hub, "aime")] == [
        "Find the remainder of the year 1983.",
        "Find the remainder of the year 2021.",
    ]


def test_agieval_puts_passage_and_options_around_the_question(hub: LocalHub) -> None:
    first = questions(hub, "agieval")[0]
    assert first.question.startswith("Passage 0 speaks of seven sailors.\n\nWhich claim")
    assert first.question.endswith("(C) Some sail\n(D) One sails")
    assert first.answer == "C"
    texts = [q.answer for q in questions(hub, "agieval")]
    assert "12" in texts and "14" in texts and "13" not in texts, "of MATH only level 5"


def test_gpqa_leaves_out_diamond_and_the_letter_is_right(hub: LocalHub) -> None:
    letters = set()
    for question in questions(hub, "gpqa"):
        number = int(question.question.split("of kind ")[1].split(" ")[0])
        assert number >= 2, "diamond"
        assert f"{question.answer}) the right one {number}" in question.question
        assert question.solution == f"Conservation law {number} decides.\n\nAnswer: {question.answer}"
        letters.add(question.answer)
    assert len(letters) > 1, "shuffled"
    assert [q.question for q in questions(hub, "gpqa")] == [q.question for q in questions(hub, "gpqa")]


def test_crosswords_and_scieval_read_as_questions(hub: LocalHub) -> None:
    (clue,) = questions(hub, "xword")
    assert clue.question.endswith("\n\nQuick deer lost its tail (4)") and clue.answer == "FAST"
    texts = {q.question for q in questions(hub, "scieval")}
    assert all("Answer:" not in text for text in texts)
    assert any(text.endswith("\nWhat is the optimal solvent?") for text in texts), "spread over tasks"


def test_olympiadbench_has_the_context_and_the_first_solution(hub: LocalHub) -> None:
    physics = questions(hub, "olympiadbench")[1]
    assert physics.question.startswith("A rod is light.\n\nA rod of length 4")
    assert (physics.solution, physics.answer, physics.domain) == ("Both forces are 4.", "4", "Physics")


def test_code_has_no_solution_and_other_columns_are_kept(hub: LocalHub) -> None:
    (task,) = questions(hub, "usaco")
    assert task.solution is None and task.answer is None
    assert json.loads(task.metadata) == {"difficulty": "bronze", "id": "84_bronze"}


def test_a_row_of_another_set_is_named(tmp_path: Path) -> None:
    folder = write_hub(tmp_path)
    (folder / "TIGER-Lab/TheoremQA/test.jsonl").write_text('{"question": "lower case"}\n')
    with pytest.raises(CurationError, match=r"TIGER-Lab/TheoremQA/test, row 1 is not a row of hub:theoremqa"):
        load("theoremqa", LocalHub(folder), seed=0)


def test_a_missing_copy_and_an_unknown_source_are_named(tmp_path: Path) -> None:
    with pytest.raises(CurationError, match=r"--hub-dir: no .*TheoremQA/test\.parquet or \.jsonl"):
        load("theoremqa", LocalHub(tmp_path), seed=0)
    with pytest.raises(CurationError, match="no source hub:nothing; known: all, numinamath"):
        load("nothing", LocalHub(tmp_path), seed=0)


def test_an_unreachable_hub_is_one_line_and_status_1(tmp_path: Path) -> None:
    environment = {**os.environ, "HF_HUB_OFFLINE": "1", "HF_HOME": str(tmp_path / "home"), "NO_COLOR": "1"}
    argv = [sys.executable, "-m", "server.cli", "curate", "collect", "--source", "hub:s1-prob", "--out"]
    done = subprocess.run(
        [*argv, str(tmp_path / "out")], env=environment, capture_output=True, text=True, timeout=120
    )
    assert done.returncode == 1
    assert done.stderr.startswith("s1: simplescaling/s1-prob/train can't be loaded from the hub:")
    assert "--hub-dir" in done.stderr and len(done.stderr.splitlines()) == 1, done.stderr
