"""Rows that can't be trained on are named, with file, row and field, before anything starts."""

import json
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("transformers")
pytest.importorskip("trl")

from tests.support.sft import sample_rows, tokenizer_of, write_jsonl
from training.conditional import LONG_PROMPT, SHORT_PROMPT
from training.sft.examples import build_examples
from training.sft.recipe import DataRecipe
from training.sft.rows import DataError, read_rows
from training.sft.setup import make_dataset


@pytest.fixture(scope="module")
def tokenizer() -> Any:
    return tokenizer_of("demo", Path())


def recipe(**fields: Any) -> DataRecipe:
    return DataRecipe.model_validate({"format": "s1", "max_length": 256, **fields})


def build(tokenizer: Any, path: Path, **fields: Any) -> Any:
    return build_examples(recipe(**fields), tokenizer, read_rows([path]))


def test_jsonl_and_parquet_hold_the_same_examples(tokenizer: Any, tmp_path: Path) -> None:
    import pyarrow as pa
    from pyarrow import parquet

    rows = [{**row, "source": "sums"} for row in sample_rows(300)]
    write_jsonl(tmp_path / "a.jsonl", rows)
    parquet.write_table(pa.Table.from_pylist(rows), tmp_path / "a.parquet", row_group_size=70)
    lines, table = (build(tokenizer, tmp_path / f"a.{kind}") for kind in ("jsonl", "parquet"))
    assert lines.input_ids == table.input_ids and lines.first_learned == table.first_learned
    assert lines.places[299] == "a.jsonl row 300" and table.places[299] == "a.parquet row 300"


def broken(at: int, **change: Any) -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = list(sample_rows(5))
    rows[at] = {key: value for key, value in (rows[at] | change).items() if value != "gone"}
    return rows


@pytest.mark.parametrize(
    ("rows", "fields", "message"),
    [
        (broken(0, thinking="gone"), {}, "row 1: missing 'thinking'; a row needs 'question', 'thinking',"),
        (broken(3, thinking="gone"), {}, "d.jsonl row 4: column 'thinking' is missing"),
        (broken(2, thinking=" "), {}, "d.jsonl row 3: column 'thinking' is empty"),
        (broken(2, answer=12), {}, "d.jsonl row 3: column 'answer' must be text, is int"),
        (broken(1, question="a <|im_end|>"), {}, "d.jsonl row 2: column 'question' contains '<|im_end|>'"),
        (broken(4, thinking="1 " * 400), {}, "row 5: has 4"),
        (broken(0, thinking="gone"), {"form": "columns"}, "row 1: missing 'thinking'. Found: question"),
        (broken(0), {"form": "text"}, "row 1: missing 'text'"),
        (broken(0), {"columns": {"thinking": "trace"}}, "row 1: missing 'trace'"),
        ([{"messages": []}], {}, "row 1: column 'messages' must end with a message of role assistant"),
        ([{"text": "no marker"}], {}, "row 1: column 'text' has no think marker"),
        ([{"messages": []}], {"control": "tokens"}, "data.control: tokens needs question, thinking"),
        ([], {}, "the data files hold no rows"),
    ],
)  # fmt: skip
def test_the_first_bad_row_is_named(
    tokenizer: Any, tmp_path: Path, rows: list[Any], fields: dict[str, Any], message: str
) -> None:
    with pytest.raises(DataError) as refusal:
        build(tokenizer, write_jsonl(tmp_path / "d.jsonl", rows), **fields)
    assert message in str(refusal.value) and "\n" not in str(refusal.value)


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("d.jsonl", b'{"a": 1}\n[1]\n', "d.jsonl row 2 must be a JSON object, is list"),
        ("d.jsonl", b'{"a": 1}\n\n{"a"\n', "d.jsonl row 3 is not JSON"),
        ("d.jsonl", b'{"a": "\xff"}', "d.jsonl is not UTF-8"),
        ("d.parquet", b"not parquet at all", "d.parquet is not a Parquet file"),
        ("d.csv", b"a,b", "must end in .jsonl or .parquet. Given: d.csv"),
    ],
)
def test_unreadable_files_are_named(tmp_path: Path, name: str, content: bytes, message: str) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(DataError, match=message):
        list(read_rows([tmp_path / name]))


def test_a_damaged_parquet_file_is_named(tmp_path: Path) -> None:
    import pyarrow as pa
    from pyarrow import parquet

    texts = pa.array([b"good", b"\xff\xfe"], pa.binary())
    table = pa.table({"question": pa.Array.from_buffers(pa.string(), 2, texts.buffers())})
    parquet.write_table(table, tmp_path / "text.parquet")
    with pytest.raises(DataError, match=r"text\.parquet can't be read after row 0: 'utf-8' codec"):
        list(read_rows([tmp_path / "text.parquet"]))
    content = bytearray((tmp_path / "text.parquet").read_bytes())
    content[4:40] = bytes(36)
    (tmp_path / "page.parquet").write_bytes(content)
    with pytest.raises(DataError, match=r"page\.parquet can't be read after row 0: ") as refusal:
        list(read_rows([tmp_path / "page.parquet"]))
    assert "\n" not in str(refusal.value)


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no data file .*gone.jsonl"):
        list(read_rows([tmp_path / "gone.jsonl"]))


def test_dropping_keeps_the_others_whole_and_says_why(tokenizer: Any, tmp_path: Path) -> None:
    rows = [*broken(1, thinking=""), *broken(3, thinking="1 " * 400)]
    path = write_jsonl(tmp_path / "d.jsonl", rows)
    examples = build(tokenizer, path, on_too_long="drop", on_invalid="drop")
    assert [row.place for row in examples.dropped] == ["d.jsonl row 2", "d.jsonl row 9"]
    assert (
        "is empty" in examples.dropped[0].reason
        and "more than data.max_length 256" in examples.dropped[1].reason
    )
    whole = build(tokenizer, write_jsonl(tmp_path / "w.jsonl", sample_rows(5)))
    kept = [at for at in range(5) if at != 1], [at for at in range(5) if at != 3]
    assert examples.input_ids == [whole.input_ids[at] for at in (*kept[0], *kept[1])]
    with pytest.raises(DataError, match="all 1 rows were dropped; the first: x.jsonl row 1"):
        build(tokenizer, write_jsonl(tmp_path / "x.jsonl", broken(0, answer=" ")[:1]), on_invalid="drop")


def test_other_names_and_lists_of_one_are_read(tokenizer: Any, tmp_path: Path) -> None:
    rows = sample_rows(3)
    renamed = [
        {"q": row["question"], "trajectories": [row["thinking"]], "attempt": row["answer"]} for row in rows
    ]
    names = {"question": "q", "thinking": "trajectories", "answer": "attempt"}
    examples = build(tokenizer, write_jsonl(tmp_path / "r.jsonl", renamed), columns=names)
    assert examples.input_ids == build(tokenizer, write_jsonl(tmp_path / "o.jsonl", rows)).input_ids


def test_what_the_teacher_answered_is_learned_not_the_reference(tokenizer: Any, tmp_path: Path) -> None:
    taught = [{**row, "trace_answer": row["answer"], "answer": "the reference"} for row in sample_rows(4)]
    examples = build(tokenizer, write_jsonl(tmp_path / "t.jsonl", taught))
    assert examples.input_ids == build(tokenizer, write_jsonl(tmp_path / "o.jsonl", sample_rows(4))).input_ids
    assert examples.answer_columns == {"trace_answer": 4}

    named = build(tokenizer, tmp_path / "t.jsonl", columns={"answer": "answer"})
    assert "the reference" in tokenizer.decode(named.input_ids[0].tolist())
    assert named.answer_columns == {"answer": 4}

    mixed = build(tokenizer, write_jsonl(tmp_path / "m.jsonl", [*sample_rows(2), *taught[2:]]))
    assert mixed.input_ids == examples.input_ids
    assert mixed.answer_columns == {"answer": 2, "trace_answer": 2}

    taught[1]["trace_answer"] = None
    with pytest.raises(DataError, match=r"f\.jsonl row 2: column 'trace_answer' is missing"):
        build(tokenizer, write_jsonl(tmp_path / "f.jsonl", taught))


def test_controls_reach_the_prompt(tokenizer: Any, tmp_path: Path) -> None:
    path = write_jsonl(tmp_path / "c.jsonl", sample_rows(8))
    traces = [row["thinking"] for row in sample_rows(8)]
    lengths = [len(tokenizer(trace, add_special_tokens=False)["input_ids"]) for trace in traces]

    def prompts(control: str, **fields: Any) -> list[str]:
        examples = build(tokenizer, path, control=control, **fields)
        firsts = zip(examples.input_ids, examples.first_learned, strict=True)
        return [tokenizer.decode(ids[:first].tolist()) for ids, first in firsts]

    for prompt, length in zip(prompts("tokens"), lengths, strict=True):
        limit = int(prompt.split("Think for up to ")[1].split(" tokens.")[0])
        assert length <= limit < 2 * length
    classes = prompts("class")
    assert [LONG_PROMPT in prompt for prompt in classes] == [
        length >= sorted(lengths)[len(lengths) // 2] for length in lengths
    ]
    assert all((LONG_PROMPT in prompt) != (SHORT_PROMPT in prompt) for prompt in classes)
    assert "Think for up to 1 steps." in prompts("steps", format="s1_steps")[0]


def test_a_pack_holds_whole_samples_and_loses_none(tokenizer: Any, tmp_path: Path) -> None:
    examples = build(tokenizer, write_jsonl(tmp_path / "p.jsonl", sample_rows(40)))
    packed = make_dataset(examples, pack_to=256)
    assert len(packed) < 40 / 2
    found = []
    for pack in packed:
        assert sum(pack["seq_lengths"]) == len(pack["input_ids"]) == len(pack["labels"]) <= 256
        begin = 0
        for length in pack["seq_lengths"]:
            ids, labels = (pack[name][begin : begin + length] for name in ("input_ids", "labels"))
            found.append((ids, labels.count(-100)))
            assert labels[labels.count(-100) :] == ids[labels.count(-100) :]
            begin += length
    wanted = [
        (ids.tolist(), first) for ids, first in zip(examples.input_ids, examples.first_learned, strict=True)
    ]
    assert sorted(found) == sorted(wanted)


def test_packs_leave_out_what_was_forced(tokenizer: Any, tmp_path: Path) -> None:
    whole = {"role": "assistant", "reasoning": "one two", "content": "3"}
    cut = {**whole, "reasoning": "one", "ended_by": "max_thinking_tokens"}
    rows = [{"messages": [{"role": "user", "content": "Count."}, last]} for last in (whole, cut, whole, cut)]
    examples = build(tokenizer, write_jsonl(tmp_path / "f.jsonl", rows))
    assert set(examples.forced) == {1, 3}
    learned = sum(label != -100 for row in make_dataset(examples, pack_to=None) for label in row["labels"])
    packed = sum(label != -100 for pack in make_dataset(examples, pack_to=256) for label in pack["labels"])
    assert learned == packed == examples.num_learned
    for row, data in enumerate(make_dataset(examples, pack_to=None)):
        begin, end = examples.forced.get(row, (0, 0))
        assert data["labels"][begin:end] == [-100] * (end - begin)
        if end:
            text = tokenizer.decode(data["input_ids"][begin:end])
            assert text == "\n<|im_start|>answer\nFinal Answer:"


def test_the_smoke_data_is_valid_json_lines() -> None:
    from training.recipe import RECIPES

    rows = [json.loads(line) for line in (RECIPES / "smoke.jsonl").read_text().splitlines()]
    assert len(rows) == 48 and all(row.keys() == {"question", "thinking", "answer"} for row in rows)
