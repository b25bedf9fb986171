"""Columns, duplicates, decontamination and quality on small made-up questions."""

from __future__ import annotations

import itertools
import re
from pathlib import Path

import pytest

from tests.support.question_files import SCHEMAS, sentence
from training.curate.choices import OptionsError, with_choices, without_choices
from training.curate.columns import find_columns, to_question
from training.curate.decontaminate import Benchmarks, drop_contaminated
from training.curate.dedup import drop_exact, drop_near
from training.curate.errors import CurationError
from training.curate.quality import DEFAULT_RULES, QualityOptions, load_rules, quality
from training.curate.schema import Question, question_id
from training.grading.answers import last_boxed, looks_checkable, split_gsm8k

BENCHMARK = (
    "Every morning Aya goes for a $9$-kilometer-long walk and stops at a coffee shop afterwards. When "
    "she walks at a constant speed of $s$ kilometers per hour, the walk takes her 4 hours."
)


def ask(text: str, **fields: object) -> Question:
    return Question(id=question_id(text), question=text, source="pool", **fields)  # type: ignore[arg-type]


def no_bar() -> itertools.repeat[None]:
    return itertools.repeat(None)


@pytest.mark.parametrize(
    ("schema", "answer", "solution", "domain"),
    [
        ("amc23", "3", None, None),
        ("gsm8k", "6", "She has 3 * 2 = <<3*2=6>>6 eggs.", None),
        ("minerva_math", "3.6", "It is\n\\[\ns=\\boxed{3.6} \\mathrm{~cm}\n\\]", "Differential Equations"),
        ("olympiadbench", "4", None, "Combinatorics"),
        ("college_math", "$17-4 n$", None, "college_math.calculus"),
        ("aime24", "003", "So it is \\boxed{3}.", None),
    ],
)
def test_six_schemas_load_without_configuration(
    schema: str, answer: str, solution: str | None, domain: str | None
) -> None:
    row = SCHEMAS[schema](3)
    question = to_question(row, find_columns([row], {}, where=schema), schema)
    assert question is not None
    assert question.question == (row.get("question") or row["problem"])
    assert (question.answer, question.domain) == (answer, domain)
    assert solution is None or question.solution == solution
    assert question.id == question_id(question.question)


def test_named_columns_win_and_missing_ones_are_named() -> None:
    rows = [{"text": "Why?", "question": "What?", "level": 3}]
    mapping = find_columns(rows, {"question": "text"}, where="f.jsonl")
    question = to_question(rows[0], mapping, "f")
    assert question is not None and question.question == "Why?"
    assert question.metadata == '{"level": 3, "question": "What?"}'
    with pytest.raises(CurationError, match=r"f\.jsonl: no column 'gone' for the answer\. Columns: text"):
        find_columns(rows, {"answer": "gone"}, where="f.jsonl")
    with pytest.raises(CurationError, match=r"name one with --column question=NAME"):
        find_columns([{"text": "Why?"}], {}, where="f.jsonl")


CITIES = ["Rome", "Paris", "Oslo"]


@pytest.mark.parametrize(
    ("fields", "answer"),
    [
        ({"choices": CITIES, "answer": "Paris"}, "B"),
        ({"options": CITIES, "answer": "b"}, "B"),
        ({"choices": CITIES, "answer": 1}, "B"),
        ({"choices": CITIES, "answer": "(B)"}, "B"),
        ({"choices": CITIES, "answer": "B."}, "B"),
        ({"choices": CITIES, "answer": "\\text{(B)}"}, "B"),
        ({"choices": CITIES, "answer": "B) Paris"}, "B"),
        ({"choices": CITIES, "answer": "paris"}, "B"),
        ({"choices": ["A)Rome", "B) Paris", "(C) Oslo"], "correct": "B"}, "B"),
        ({"choices": ["A)Rome", "B)Paris", "C)Oslo"], "answer": "B)Paris"}, "B"),
        ({"choices": CITIES}, None),
        ({"options": {"C": "Oslo", "A": "Rome", "B": "Paris", "D": None}, "answer": "B"}, "B"),
        ({"choices": {"text": CITIES, "label": ["1", "2", "3"]}, "answer": "2"}, "B"),
        ({"choices": {"text": CITIES, "label": ["1", "2", "3"]}, "answer": "(2) Paris"}, "B"),
        ({"choices": {"text": CITIES, "label": ["A", "B", "C"]}, "answerKey": "B"}, "B"),
    ],
)
def test_options_are_part_of_the_question(fields: dict[str, object], answer: str | None) -> None:
    row = {"question": "Which is it?", **fields}
    mapping = find_columns([row], {}, where="f")
    question = to_question(row, mapping, "f")
    assert question is not None
    asked = with_choices(question, row, mapping)
    assert asked.question == "Which is it?\n\nA) Rome\nB) Paris\nC) Oslo"
    assert asked.answer == answer and asked.id == question_id(asked.question)
    assert without_choices(asked.question) == "Which is it?"


@pytest.mark.parametrize(
    ("options", "answer", "letter"),
    [
        (["1", "2", "3", "4"], 2, "C"),
        (["1", "2", "3", "4"], "2", "B"),
        ([5, 6, 7], 0.0, "A"),
        (["10", "12"], 12, "B"),
    ],
)
def test_a_number_counts_the_options(options: list[object], answer: object, letter: str) -> None:
    row = {"question": "How many?", "choices": options, "answer": answer}
    mapping = find_columns([row], {}, where="f")
    question = to_question(row, mapping, "f")
    assert question is not None and with_choices(question, row, mapping).answer == letter


@pytest.mark.parametrize(
    ("fields", "problem"),
    [
        ({"options": ["only"]}, "column 'options' does not hold 2 to 10 options"),
        ({"options": ["one", ""]}, "column 'options' holds an empty option, or one twice"),
        ({"options": ["one", "one"]}, "column 'options' holds an empty option, or one twice"),
        ({"choices": "A) 1 B) 2"}, "column 'choices' does not hold 2 to 10 options"),
        ({"choices": {"first": "1", "second": "2"}}, "column 'choices' does not hold 2 to 10 options"),
        ({"choices": [1, 2, 3], "answer": 2}, "'2' is the text of one option and stands for another"),
        ({"choices": ["B", "A"], "answer": "B"}, "'B' is the text of one option and stands for another"),
        ({"choices": ["1", "2"], "answer": -1}, "the answer '-1' is none of the options"),
        ({"choices": CITIES, "answer": "1"}, "the answer '1' is none of the options"),
        ({"choices": CITIES, "answer": "F"}, "the answer 'F' is none of the options"),
        ({"choices": CITIES, "answer": "A) Paris"}, r"the answer 'A\) Paris' is none of the options"),
        ({"choices": CITIES, "answer": "the capital of France"}, "is none of the options"),
    ],
)
def test_options_that_can_be_read_in_no_way_or_in_several(fields: dict[str, object], problem: str) -> None:
    row = {"question": "Which is it?", **fields}
    mapping = find_columns([row], {}, where="f")
    question = to_question(row, mapping, "f")
    assert question is not None
    with pytest.raises(OptionsError, match=problem):
        with_choices(question, row, mapping)


def test_a_column_of_verdicts_is_no_answer() -> None:
    row = {"question": "What is 1 + 1?", "solution": "It is \\boxed{2}.", "correct": True}
    question = to_question(row, find_columns([row], {}, where="f"), "f")
    assert question is not None and question.answer == "2"


@pytest.mark.parametrize(
    ("text", "boxed"),
    [
        ("\\boxed{1} then \\boxed{\\frac{1}{2}}", "\\frac{1}{2}"),
        ("\\fbox{3}", "3"),
        ("\\boxed{open", None),
        ("\\boxed{}", None),
        ("none", None),
    ],
)
def test_last_boxed(text: str, boxed: str | None) -> None:
    assert last_boxed(text) == boxed


def test_gsm8k_answers_split_only_where_a_short_answer_follows() -> None:
    assert split_gsm8k("a\n#### 1,000") == ("a", "1,000")
    assert split_gsm8k("no mark") is None
    assert split_gsm8k("a ####") is None


@pytest.mark.parametrize(
    "answer", ["3", "$x=3$", "$3$ and $4$", "A", "$27 \\text{ feet}$", "\\frac{1}{2}", "(1,2)"]
)
def test_checkable_answers(answer: str) -> None:
    assert looks_checkable(answer)


@pytest.mark.parametrize(
    "answer", ["", "all real numbers", "Yes", "\\text{even}", "By induction, it holds.", "x" * 999]
)
def test_answers_for_a_grader(answer: str) -> None:
    assert not looks_checkable(answer)


def test_exact_duplicates_ignore_case_and_space_and_the_first_stays() -> None:
    kept, drops = drop_exact([ask("Find  $x$."), ask("find $x$.\n"), ask("Find $y$.")], "collect")
    assert [question.question for question in kept] == ["Find  $x$.", "Find $y$."]
    assert [(drop.reason, drop.detail) for drop in drops] == [("duplicate", f"of {kept[0].id}")]


LONG = sentence("near", 1, 40)


@pytest.mark.parametrize(
    ("other", "is_duplicate"),
    [
        (LONG + " indeed", True),
        (LONG.replace(" ", ", ", 3), True),
        (sentence("near", 2, 40), False),
        (" ".join(reversed(LONG.split())), False),
    ],
)
def test_near_duplicates_by_words(other: str, is_duplicate: bool) -> None:
    kept, drops, _ = drop_near([ask(LONG), ask(other)], 0.8, "collect", no_bar())
    assert len(drops) == is_duplicate and len(kept) == 2 - is_duplicate


@pytest.mark.parametrize(
    ("answers", "num_kept"),
    [
        (("7", "3"), 2),
        (("$7$", "7.0"), 1),
        (("\\frac{1}{2}", "0.5"), 1),
        (("the red one", "The  red one"), 1),
        (("the red one", "the blue one"), 2),
        (("7", None), 1),
    ],
)
def test_near_duplicates_with_other_answers_stay(answers: tuple[str | None, ...], num_kept: int) -> None:
    asked = (f"{LONG} What is the {which} of them? {LONG[::-1]}" for which in ("largest", "smallest"))
    questions = [ask(text, answer=answer) for text, answer in zip(asked, answers, strict=True)]
    kept, drops, num_otherwise = drop_near(questions, 0.8, "collect", no_bar())
    assert (len(kept), len(drops), num_otherwise) == (num_kept, 2 - num_kept, num_kept - 1)


def test_an_exact_duplicate_with_another_answer_is_told_as_such() -> None:
    questions = [ask("What is $x$?", answer=answer) for answer in ("1/2", "0.5", "3", None)]
    kept, drops = drop_exact(questions, "collect")
    assert [question.answer for question in kept] == ["1/2"]
    assert [drop.reason for drop in drops] == ["duplicate", "duplicate_with_another_answer", "duplicate"]
    assert drops[1].detail == f"of {kept[0].id}, whose answer is '1/2'; here '3'"


@pytest.mark.parametrize(
    ("one", "other", "is_duplicate"),
    [
        ("buys 3 apples", "buys 4 apples", False),
        ("solve $x^2+1=0$", "solve $x^2-1=0$", False),
        ("solve $x^{2}+1=0$", "solve\n$ x^2 + 1 = 0 $", True),
        ("it is -3 degrees", "it is 3 degrees", False),
        ("from $\\left[a & b\\right]$", "from $\\left[b & a\\right]$", False),
    ],
)
def test_other_numbers_or_formulas_make_another_question(one: str, other: str, is_duplicate: bool) -> None:
    questions = [ask(f"{LONG} {one} {LONG[::-1]}"), ask(f"{LONG} {other} {LONG[::-1]}")]
    _, drops, _ = drop_near(questions, 0.8, "collect", no_bar())
    assert len(drops) == is_duplicate


def contaminated(*texts: str, benchmark: str = BENCHMARK) -> list[bool]:
    benchmarks = Benchmarks()
    benchmarks.add("aime24", [ask(benchmark)])
    questions = [ask(text) for text in texts]
    kept, drops = drop_contaminated(questions, benchmarks, "decontaminate", no_bar())
    assert all(re.match(r"aime24, row 1: '", drop.detail) for drop in drops)
    assert len(kept) + len(drops) == len(texts)
    return [question not in kept for question in questions]


def test_planted_contaminations_are_found() -> None:
    middle = "goes for a $9$-kilometer-long walk and stops at"
    assert len(middle.split()) == 8
    assert (
        contaminated(
            BENCHMARK,
            BENCHMARK.upper(),
            BENCHMARK.replace(" ", "\n\t "),
            BENCHMARK.replace("$9$", "$ 9 $").replace("-kilo", " - kilo"),
            "".join(character + " " for character in BENCHMARK),
            f"{sentence('x', 1, 50)} {middle} {sentence('x', 2, 50)}",
            f"{sentence('x', 1, 50)}\n{middle.title()}, {sentence('x', 2, 50)}",
        )
        == [True] * 7
    )


def test_the_first_and_the_last_words_count_and_short_ones_too() -> None:
    words = BENCHMARK.split()
    assert contaminated(" ".join(words[:8]), " ".join(words[-8:])) == [True, True]
    assert contaminated("count 1 2 3 4 5 6 7 8", benchmark="say 1 2 3 4 5 6 7 8 now") == [True]
    assert contaminated("count 1 2 3 4 5 6 7", benchmark="say 1 2 3 4 5 6 7 8 now") == [False]


def test_near_misses_are_kept() -> None:
    words = BENCHMARK.split()
    seven = " ".join(words[3:10])
    assert words[10] == "at"
    assert (
        contaminated(
            f"{sentence('y', 1)} {seven} {sentence('y', 2)}",
            " ".join(reversed(words)),
            " ".join(word if at % 7 else "other" for at, word in enumerate(words)),
            sentence("y", 3, 60),
        )
        == [False] * 4
    )


def test_short_benchmark_questions_count_as_a_whole() -> None:
    assert contaminated(
        "compute  $2+2$.", "Compute $2 + 2$.", "Compute $2+2$. Then $3$.", benchmark="Compute $2+2$."
    ) == [True, True, False]


def run_quality(*questions: Question, **options: bool) -> list[str | None]:
    outcome = quality(questions, load_rules(DEFAULT_RULES), QualityOptions(**options), no_bar())
    reasons = {drop.id: drop.reason for drop in outcome.drops}
    return [reasons.get(question.id) for question in questions]


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("Look: [asy] draw((0,0)); [/asy]", "asymptote_figure"),
        ("See ![Image](a.png)", "image_reference"),
        ("Solve p3. now", "problem_number"),
        ("Do the step3. now", "problem_number"),
        ("p0. p1000. p.", None),
        ("**1.** Find x", "bold_numbering"),
        ("**a** is 3", "bold_numbering"),
        ("**bold words** 3", None),
        ("**bold** words\n3", None),
        ("Find $x$.", None),
    ],
)
def test_format_rules_of_s1(text: str, reason: str | None) -> None:
    assert run_quality(ask(text)) == [reason]


def test_asymptote_is_allowed_for_aime() -> None:
    text = "Look: [asy] draw((0,0)); [/asy]"
    assert run_quality(Question(question_id(text), text, "aime")) == [None]


def test_failed_and_empty_traces_are_dropped() -> None:
    traced = {"trace_model": "teacher", "thinking": "Hm.", "trace_answer": "3"}
    assert run_quality(
        ask("one", trace_model="teacher", trace_error="HTTP 400"),
        ask("two", **{**traced, "thinking": " "}),
        ask("three", **{**traced, "trace_answer": ""}),
        ask("four", **traced),
        ask("five"),
    ) == ["api_error", "empty_trace", "empty_trace", None, None]
    assert run_quality(ask("five"), ask("four", **traced), require_trace=True) == ["no_trace", None]
    assert run_quality(ask("six"), ask("seven", answer="3"), require_solution=True) == ["no_solution", None]


def test_other_languages_are_dropped_only_if_asked() -> None:
    texts = [
        "Find all real numbers $x$ for which the sum of the two fractions is a positive integer.",
        "Trouver tous les nombres réels $x$ pour lesquels la somme des deux fractions est un entier positif.",
        "求所有实数 $x$ 使得两个分数之和为正整数。",
        "Compute $\\int_0^1 x^2 dx$.",
        "α + β = γ, find α",
    ]
    questions = [ask(text) for text in texts]
    assert run_quality(*questions) == [None] * 5
    assert run_quality(*questions, english_only=True) == [None, "not_english", "not_english", None, None]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("rules: [", "is not YAML"),
        ("rules: []", "language: Field required"),
        ("rules: [{name: a, regex: '('}]\nlanguage: {}", "rules.0.regex: .*not a regular expression"),
        ("rules: [{name: a}]\nlanguage: {}", "rules.0: .*needs one of contains, regex and lacks"),
        ("rules: [{name: a, contains: b, typo: 1}]\nlanguage: {}", "rules.0.typo"),
    ],
)
def test_bad_rules_name_the_field(tmp_path: Path, text: str, message: str) -> None:
    path = tmp_path / "rules.yaml"
    path.write_text(text)
    with pytest.raises(CurationError, match=message):
        load_rules(path)
