"""`s1 curate` from files to a set: the funnel, the same bytes twice, and every error in one line."""

from __future__ import annotations

import json
from pathlib import Path

import pyarrow.parquet
import pytest

from tests.support.commands import (
    drops,
    manifest,
    rows,
    s1,
    s1_fails,
    s1_ok,
    s1_process,
    start_commands,
)
from tests.support.hub_samples import write_hub
from tests.support.question_files import SCHEMAS, sentence, write_jsonl, write_question_files
from training.curate.hub import hub_rows
from training.curate.schema import COLUMNS
from training.evaluate.benchmarks import load_benchmark

QUESTIONS_PER_SCHEMA = 12
POOL = 5 * QUESTIONS_PER_SCHEMA
_CLUSTERS = ("--label", "clusters", "--clusters", "2")


def planted(benchmark_row: dict[str, object]) -> list[dict[str, object]]:
    """Contaminations of one benchmark question, and two near misses at the end."""
    text = str(benchmark_row["problem"])
    eight, seven = " ".join(text.split()[2:10]), " ".join(text.split()[2:9])
    texts = [
        text + " ",
        text.upper() + "!",
        text.replace(" ", "  \n") + "\n?",
        f"{sentence('before', 1)} {eight} {sentence('after', 1)}",
        f"{sentence('before', 2)} {seven} {sentence('after', 2)}",
        " ".join(reversed(text.split())),
    ]
    return [{"question": text, "answer": "1"} for text in texts]


@pytest.fixture
def files(tmp_path: Path) -> list[Path]:
    folder = tmp_path / "files"
    folder.mkdir()
    return write_question_files(folder, QUESTIONS_PER_SCHEMA)


def sources(files: list[Path]) -> list[str]:
    return [part for file in files for part in ("--source", str(file))]


def test_from_six_schemas_to_a_set(tmp_path: Path, files: list[Path]) -> None:
    *pool, benchmark = files
    extra = write_jsonl(tmp_path / "planted.jsonl", planted(SCHEMAS["aime24"](5)))
    twice = write_jsonl(tmp_path / "twice.jsonl", [SCHEMAS["gsm8k"](1), {"question": "", "answer": "1"}])
    given = (*sources([*pool, extra, twice]), "--near-duplicates", "0")
    out = s1_ok("curate", "collect", *given, "--out", tmp_path / "1")
    assert "duplicate" in out
    assert drops(tmp_path / "1") == {"duplicate": 1, "no_question": 1}
    assert len(rows(tmp_path / "1")) == POOL + 6
    s1_ok("curate", "quality", tmp_path / "1", "--out", tmp_path / "2", "--english-only")
    s1_ok("curate", "decontaminate", tmp_path / "2", "--benchmark", benchmark, "--out", tmp_path / "3")
    assert drops(tmp_path / "3") == {"contaminated": 4}
    left = [row["question"] for row in rows(tmp_path / "3") if row["source"] == "planted"]
    assert left == [row["question"] for row in planted(SCHEMAS["aime24"](5))[4:]]
    arguments = ("--label", "clusters", "--clusters", "8", "--length", "text", "--size", "30")
    out = s1_ok("curate", "diversity", tmp_path / "3", *arguments, "--out", tmp_path / "4")
    assert len(rows(tmp_path / "4")) == 30
    assert [line.split()[0] for line in out.splitlines() if "│" in line and line[0].isalpha()] == [
        "collect",
        "quality",
        "decontaminate",
        "diversity",
    ]
    funnel = manifest(tmp_path / "4")["funnel"]
    assert [(step["in"], step["kept"]) for step in funnel] == [
        (POOL + 8, POOL + 6),
        (POOL + 6, POOL + 6),
        (POOL + 6, POOL + 2),
        (POOL + 2, 30),
    ]
    for step, folder in zip(funnel, "1234", strict=True):
        assert len(pyarrow.parquet.read_table(tmp_path / folder / "drops.parquet")) == sum(
            step["drops"].values()
        )


def test_every_drop_says_why(tmp_path: Path, files: list[Path]) -> None:
    s1_ok("curate", "collect", *sources([files[0]]), "--source", f"again={files[0]}", "--out", tmp_path / "1")
    table = pyarrow.parquet.read_table(tmp_path / "1" / "drops.parquet").to_pylist()
    assert {row["reason"] for row in table} == {"duplicate"} and len(table) == QUESTIONS_PER_SCHEMA
    kept = {row["id"]: row["question"] for row in rows(tmp_path / "1")}
    for row in table:
        assert row["source"] == "again" and row["stage"] == "collect"
        assert kept[row["detail"].removeprefix("of ")] == row["question"]


def test_collect_decontaminates_too_and_reads_the_hub_folder(tmp_path: Path, files: list[Path]) -> None:
    hub = write_hub(tmp_path / "hub")
    clash = write_jsonl(tmp_path / "clash.jsonl", [{"problem": "Find the walk's minutes. "}])
    options = ("--hub-dir", hub, "--benchmark", "hub:aimo-aime", "--out", tmp_path / "1")
    s1_ok("curate", "collect", "--source", "hub:all", "--source", clash, *options)
    assert drops(tmp_path / "1") == {"contaminated": 1}
    assert len({row["source"] for row in rows(tmp_path / "1")}) == 16


def test_multiple_choice_is_collected_as_it_is_evaluated(tmp_path: Path) -> None:
    def choice(question: str, options: object, answer: str) -> dict[str, object]:
        return {"question": question, "choices": options, "answer": answer}

    numbers = ["0", "1", "2", "3"]
    whole = [choice("Which is even?", ["1", "2"], "2"), choice("Which is even?", ["1", "3", "4"], "C")]
    more = [choice("How many?", numbers, "0"), choice("Which is odd?", ["A)21", "B)22"], "A")]
    file = write_jsonl(tmp_path / "choice.jsonl", [*whole, *more])
    s1_ok("curate", "collect", "--source", file, "--out", tmp_path / "1")
    items = load_benchmark(str(file), hub_rows).items
    assert len(items) == 4 and items[3].prompt == "Which is odd?\n\nA) 21\nB) 22"
    collected = [(row["id"], row["question"], row["answer"]) for row in rows(tmp_path / "1")]
    assert collected == [(item.id, item.prompt, item.reference) for item in items]
    assert json.loads(rows(tmp_path / "1")[0]["metadata"]) == {"choices": ["1", "2"]}

    asked = [whole[0], choice("How few are there?", numbers, "1")]
    tests = write_jsonl(tmp_path / "tests.jsonl", asked)
    s1_ok("curate", "decontaminate", tmp_path / "1", "--benchmark", tests, "--out", tmp_path / "2")
    left = [row["question"] for row in rows(tmp_path / "2")]
    assert left == [item.prompt for item in items[1:]], "the same options are not the same question"

    odd = write_jsonl(tmp_path / "odd.jsonl", [*whole, choice("Which?", "1 or 2", "1")])
    s1_ok("curate", "collect", "--source", odd, "--out", tmp_path / "3")
    (row,) = rows(tmp_path / "3" / "drops.parquet")
    assert row["reason"] == "unclear_options" and row["question"] == "Which?"
    assert row["detail"] == "row 3: column 'choices' does not hold 2 to 10 options"


def test_questions_with_other_answers_are_counted(tmp_path: Path) -> None:
    same = sentence("same", 1, 60)
    questions = [
        {"question": f"{same} the {which} number?", "answer": answer}
        for which, answer in (("largest", "7"), ("smallest", "3"), ("largest", "8"))
    ]
    file = write_jsonl(tmp_path / "pairs.jsonl", questions)
    result = s1("curate", "collect", "--source", file, "--out", tmp_path / "1")
    assert "1 near duplicates kept: their answer is another" in result.stderr
    assert [row["answer"] for row in rows(tmp_path / "1")] == ["7", "3"]
    assert drops(tmp_path / "1") == {"duplicate_with_another_answer": 1}
    assert manifest(tmp_path / "1")["notes"]["near_duplicates_kept_for_their_answer"] == 1


def test_columns_by_name_for_one_source(tmp_path: Path) -> None:
    one = write_jsonl(tmp_path / "one.jsonl", [{"text": "Why is it so?", "key": "because"}])
    two = write_jsonl(tmp_path / "two.jsonl", [{"question": "What is it then?", "key": "k"}])
    columns = ("--column", "one.question=text", "--column", "one.answer=key", "--column", "two.id=key")
    s1_ok("curate", "collect", *sources([one, two]), *columns, "--out", tmp_path / "1")
    assert [(row["question"], row["answer"], row["id"] == "k") for row in rows(tmp_path / "1")] == [
        ("Why is it so?", "because", False),
        ("What is it then?", None, True),
    ]


def test_jsonl_and_parquet_hold_the_same_and_feed_the_next_stage(tmp_path: Path, files: list[Path]) -> None:
    for kind in ("jsonl", "parquet"):
        s1_ok("curate", "collect", *sources(files), "--out", tmp_path / kind, "--format", kind)
        s1_ok("curate", "quality", tmp_path / kind, "--out", tmp_path / f"{kind}2")
    assert (tmp_path / "jsonl" / "questions.jsonl").is_file()
    assert rows(tmp_path / "jsonl") == rows(tmp_path / "parquet")
    assert rows(tmp_path / "jsonl2") == rows(tmp_path / "parquet2")
    assert list(rows(tmp_path / "jsonl2")[0]) == list(COLUMNS)


def test_two_runs_give_the_same_bytes_whatever_the_hash_seed(tmp_path: Path, files: list[Path]) -> None:
    runs = []
    for hash_seed in ("0", "4711"):
        folder = tmp_path / f"run{hash_seed}"
        one, two, three = (str(folder / name) for name in "123")
        chosen = ["--label", "clusters", "--clusters", "7", "--length", "text", "--size", "25"]
        commands = [
            ["curate", "collect", *sources(files[:5]), "--benchmark", str(files[5]), "--out", one],
            ["curate", "quality", one, "--out", two, "--english-only"],
            ["curate", "diversity", two, *chosen, "--out", three],
        ]
        runs.append((folder, start_commands(commands, PYTHONHASHSEED=hash_seed)))
    contents = []
    for folder, process in runs:
        output, _ = process.communicate(timeout=240)
        assert process.returncode == 0, output
        written = sorted(path for path in folder.rglob("*") if path.is_file())
        assert len(written) == 9
        contents.append([path.read_bytes().replace(folder.name.encode(), b"run") for path in written])
    assert contents[0] == contents[1]


@pytest.mark.parametrize("select", ["random", "diverse", "longest", "full", "s1", "s1-notebook"])
def test_every_selector_from_the_command_line(tmp_path: Path, files: list[Path], select: str) -> None:
    s1_ok("curate", "collect", *sources(files[2:5]), "--out", tmp_path / "1")
    label = "none" if select in ("random", "longest", "full") else "field"
    benchmark = ("--benchmark", tmp_path / "1") if select == "s1-notebook" else ()
    options = ("--select", select, "--size", "9", "--label", label, "--length", "text", "--seed", "3")
    s1_ok("curate", "diversity", tmp_path / "1", *options, *benchmark, "--out", tmp_path / "2")
    assert len(rows(tmp_path / "2")) == (3 * QUESTIONS_PER_SCHEMA if select == "full" else 9)


def test_a_finished_stage_is_left_alone_and_another_is_refused(tmp_path: Path, files: list[Path]) -> None:
    command = ("curate", "collect", *sources(files[:1]), "--out", tmp_path / "1")
    s1_ok(*command)
    written = (tmp_path / "1" / "manifest.json").stat().st_mtime_ns
    result = s1(*command)
    assert result.exit_code == 0 and "is finished already" in result.stderr
    assert (tmp_path / "1" / "manifest.json").stat().st_mtime_ns == written
    line = s1_fails(2, *command, "--near-duplicates", "0.5")
    assert "near_duplicates was 0.8, now 0.5" in line and "--overwrite" in line
    files[0].write_text(files[0].read_text() + json.dumps({"question": "One more?"}) + "\n")
    assert "of other inputs" in s1_fails(2, *command)
    s1_ok(*command, "--overwrite")
    assert len(rows(tmp_path / "1")) == QUESTIONS_PER_SCHEMA + 1
    (tmp_path / "1" / "questions.parquet").write_bytes(b"PAR1")
    assert "is not what its manifest says" in s1_fails(2, *command)


def test_another_format_is_another_result(tmp_path: Path, files: list[Path]) -> None:
    command = ("curate", "collect", *sources(files[:1]), "--out", tmp_path / "1")
    assert s1_ok(*command).endswith(f"{tmp_path / '1' / 'questions.parquet'}\n")
    line = s1_fails(2, *command, "--format", "jsonl")
    assert "format was 'parquet', now 'jsonl'" in line and "--overwrite" in line
    assert s1_ok(*command).endswith(f"{tmp_path / '1' / 'questions.parquet'}\n")
    again = s1_ok(*command, "--format", "jsonl", "--overwrite")
    assert again.endswith(f"{tmp_path / '1' / 'questions.jsonl'}\n")
    assert (tmp_path / "1" / "questions.jsonl").is_file()
    assert s1_ok(*command, "--format", "jsonl") == again
    assert "format was 'jsonl', now 'parquet'" in s1_fails(2, *command)


@pytest.mark.parametrize(
    ("content", "name", "message"),
    [
        (b'{"question": "a"}\n{"question": ', "a.jsonl", "a.jsonl, line 2 is not JSON"),
        (b'{"question": "a"}\n[1]\n', "a.jsonl", "a.jsonl, line 2 is not a JSON object"),
        (b'{"question": "\xff"}\n', "a.jsonl", "a.jsonl, line 1 is not JSON"),
        (b"", "a.jsonl", "a.jsonl has no rows"),
        (b'{"question": "a"}\n', "a.parquet", "a.parquet is not a readable Parquet file"),
        (b'{"text": "a"}\n', "a.jsonl", "no column for the question"),
        (b"{}", "a.csv", "must end in .parquet or .jsonl"),
        (None, "gone.jsonl", "gone.jsonl: no such file"),
    ],
)
def test_files_that_are_not_what_they_say(
    tmp_path: Path, content: bytes | None, name: str, message: str
) -> None:
    path = tmp_path / name
    if content is not None:
        path.write_bytes(content)
    line = s1_fails(2, "curate", "collect", "--source", path, "--out", tmp_path / "1")
    assert message in line
    assert not (tmp_path / "1").exists()


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ({"question": "a", "level": 3}, "unknown column 'level'"),
        ({"problem": "a"}, "unknown column 'problem'"),
        ({"question": "  "}, "column 'question' must be a text that is not empty"),
        ({"question": "a", "answer": 3}, "column 'answer' must be text. Given: 3"),
        ({"question": "a", "thinking_tokens": "many"}, "column 'thinking_tokens' must be a count"),
        ({"question": "a", "attempts": [{"model": "m"}]}, "not an attempt of a solver"),
        ({"question": "a", "metadata": "no JSON"}, "column 'metadata' must be a JSON object as text"),
        ({"question": "a", "metadata": '{"a":' * 100_000}, "column 'metadata' must be a JSON object as text"),
        ({"question": "a", "metadata": "1" * 5000}, "column 'metadata' must be a JSON object as text"),
    ],
)
def test_rows_outside_the_schema_are_named(tmp_path: Path, row: dict[str, object], message: str) -> None:
    path = write_jsonl(tmp_path / "own.jsonl", [{"question": "fine"}, row])
    line = s1_fails(2, "curate", "quality", path, "--out", tmp_path / "1")
    assert message in line and "own.jsonl, row 2" in line


def test_a_question_twice_is_named(tmp_path: Path) -> None:
    path = write_jsonl(tmp_path / "own.jsonl", [{"question": "a"}, {"question": "a"}])
    assert "appears twice" in s1_fails(2, "curate", "quality", path, "--out", tmp_path / "1")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("diversity", "--label", "none"), "--select s1 needs domains"),
        (("diversity", "--label", "model"), "--label model and --labeller MODEL@URL go together"),
        (("diversity",), "--field domain: no question has it"),
        (("diversity", *_CLUSTERS, "--size", "3"), "no length of 'thinking'"),
        (("diversity", *_CLUSTERS, "--size", "30", "--length", "text"), "--size must be <= the 12 questions"),
        (("diversity", *_CLUSTERS, "--benchmark", "{out}"), "--select s1-notebook only"),
        (("decontaminate",), "--benchmark is missing"),
        (("decontaminate", "--benchmark", "gone.jsonl"), "gone.jsonl: no such file"),
        (("quality", "--rules", "gone.yaml"), "--rules gone.yaml: No such file"),
        (("difficulty", "--solver", "qwen"), "--solver takes MODEL@URL"),
        (("difficulty", "--solver", "m@http://h/v1", "--extra", "[1]"), "--extra must be a JSON object"),
    ],
)
def test_options_that_do_not_fit(
    tmp_path: Path, files: list[Path], arguments: tuple[str, ...], message: str
) -> None:
    s1_ok("curate", "collect", *sources(files[:1]), "--out", tmp_path / "1")
    filled = [argument.format(out=tmp_path / "1") for argument in arguments[1:]]
    line = s1_fails(2, "curate", arguments[0], tmp_path / "1", *filled, "--out", tmp_path / "2")
    assert message in line
    assert not (tmp_path / "2" / "manifest.json").exists()


def test_a_folder_without_a_finished_stage_is_named(tmp_path: Path) -> None:
    line = s1_fails(2, "curate", "quality", tmp_path, "--out", tmp_path / "1")
    assert "has no manifest.json: is its stage finished?" in line


def test_a_full_disk_is_one_line_and_the_next_run_finishes(tmp_path: Path, files: list[Path]) -> None:
    """A limit on the size of any file stands in for the disk: the same OSError at the same place."""
    command = ("curate", "collect", *sources(files), "--out", tmp_path / "1", "--format", "jsonl")
    limit = "import resource; resource.setrlimit(resource.RLIMIT_FSIZE, (8000, 8000))"
    done = s1_process(*command, before=limit, NO_COLOR="1")
    assert done.returncode == 1
    (line,) = [line for line in done.stderr.splitlines() if line.startswith("s1: ")]
    assert (
        f"can't write to {tmp_path / '1'}: File too large" in line
        and "Run the same command to go on." in line
    )
    assert "Traceback" not in done.stderr
    assert [path.name for path in (tmp_path / "1").iterdir()] == ["drops.jsonl"]
    assert s1_process(*command).returncode == 0
    assert len(rows(tmp_path / "1")) == POOL + QUESTIONS_PER_SCHEMA


def test_help_is_quick_because_nothing_heavy_is_loaded() -> None:
    heavy = "{'pyarrow', 'datasets', 'sklearn', 'math_verify', 'datasketch', 'py3langid', 'torch', 'pandas'}"
    check = f"import atexit\natexit.register(lambda: print(sorted({heavy} & set(sys.modules))))"
    done = s1_process("curate", "collect", "--help", before=check)
    assert done.returncode == 0 and done.stdout.rstrip().endswith("[]"), done.stdout[-300:]
