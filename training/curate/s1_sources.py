"""The 16 sources of s1's pool (paper table 7), and three benchmarks to decontaminate against.

Data set ids, configurations and filters are those of s1's `data/collect_data.py`; where paper and code
differ, the paper is followed and the row function says so.
"""

from __future__ import annotations

import random
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass

from training.curate.columns import as_metadata, as_text
from training.curate.errors import CurationError
from training.curate.hub import Row, Rows, Split
from training.curate.schema import Question, question_id
from training.grading.answers import last_boxed

_XWORD_QUESTIONS = 1000
_SCIEVAL_QUESTIONS = 250
_XWORD_INSTRUCTION = (
    "Solve the crossword puzzle. You are presented with a clue as input and the number of letters in "
    "brackets."
)
_LEFT_OUT_OF_METADATA = frozenset({"messages", "private_test_cases", "input_output"})
"""Copies of the question, and tests of code, which are megabytes a row."""
_SCIEVAL_ENDINGS = ("solvent", "ligand", "reactant")


@dataclass(frozen=True, slots=True)
class Taken:
    """What a row gives: texts of the question, and the other columns as they are."""

    question: str | None
    solution: str | None = None
    answer: str | None = None
    domain: str | None = None


@dataclass(frozen=True, slots=True)
class HubSource:
    """Where a source is, which of its rows s1 takes, and how they read.

    `read` returns None for a row that s1 leaves out. `num_questions` is the paper's count after its own
    deduplication and decontamination.
    """

    splits: tuple[Split, ...]
    read: Callable[[Row], Taken | None]
    num_questions: int
    draw: Callable[[list[tuple[Row, Taken]], random.Random], list[tuple[Row, Taken]]] | None = None
    only: tuple[Split, str, Callable[[Row], bool]] | None = None
    """Rows for which the test holds are taken only if this split's column holds the same question."""
    without: tuple[Split, str] | None = None
    """Questions in this split's column are left out."""
    question_column: str = "question"


def load(name: str, rows: Rows, *, seed: int) -> tuple[list[Question], int]:
    """The questions of a source, in the order of its rows, and how many rows s1 leaves out.

    Raises:
        CurationError: there is no such source, or a row lacks a column that every row of it has.
        StageStopped: the hub can't be reached.
    """
    source = HUB_SOURCES.get(name)
    if source is None:
        raise CurationError(f"no source hub:{name}; known: all, {', '.join(HUB_SOURCES)}")
    taken: list[tuple[Row, Taken]] = []
    num_rows = 0
    for split in source.splits:
        accepted = _accepted(source, rows)
        for number, row in enumerate(rows(split), start=1):
            num_rows += 1
            try:
                kept = source.read(row) if accepted(row) else None
            except (LookupError, TypeError, AttributeError, ValueError) as error:
                raise CurationError(f"{split}, row {number} is not a row of hub:{name}: {error!r}") from error
            if kept is not None:
                taken.append((row, kept))
    if source.draw is not None:
        taken = source.draw(taken, random.Random(f"{seed}:{name}"))  # noqa: S311
    return [_question(name, row, kept) for row, kept in taken], num_rows - len(taken)


def _accepted(source: HubSource, rows: Rows) -> Callable[[Row], bool]:
    if source.without is not None:
        split, column = source.without
        excluded = {row[column] for row in rows(split)}
        return lambda row: row[source.question_column] not in excluded
    if source.only is not None:
        split, column, applies = source.only
        wanted = {row[column] for row in rows(split)}
        return lambda row: not applies(row) or row[source.question_column] in wanted
    return lambda _: True


def _question(name: str, row: Row, kept: Taken) -> Question:
    text = (kept.question or "").strip()
    known = {kept.question, kept.solution, kept.answer}
    rest = {
        column: value
        for column, value in row.items()
        if column not in _LEFT_OUT_OF_METADATA and not (isinstance(value, str) and value in known)
    }
    return Question(
        id=question_id(text),
        question=text,
        source=name,
        solution=as_text(kept.solution),
        answer=as_text(kept.answer),
        domain=kept.domain,
        metadata=as_metadata(rest),
    )


def _numinamath(row: Row) -> Taken:
    return Taken(row["problem"], row["solution"], last_boxed(row["solution"]))


def _math(row: Row) -> Taken:
    return Taken(row["problem"], row["solution"], row["answer"], row["subject"])


def _olympicarena(row: Row) -> Taken | None:
    if row["language"] != "EN" or row["modality"] != "text-only":
        return None
    return Taken(row["problem"], row["solution"], as_text(row["answer"]), row["subject"])


def _omnimath(row: Row) -> Taken:
    return Taken(row["problem"], row["solution"], row["answer"], as_text(row["domain"]))


def _agieval(row: Row) -> Taken:
    passage = (row.get("passage") or "").strip()
    options = "\n".join(row.get("options") or [])
    question = "\n".join(filter(None, (f"{passage}\n" if passage else "", row["question"], options)))
    return Taken(question, row["solution"], as_text(row.get("label") or row.get("answer")))


def _agieval_any(row: Row) -> Taken | None:
    """Of the MATH part, which alone fills `level`, only the hardest."""
    level = row.get("level")
    return None if level is not None and int(level) != 5 else _agieval(row)


def _xword(row: Row) -> Taken:
    clue = row["input"].split("### Clue: ")[1]
    answer = row["output"].partition("### Answer:")[2].partition("###")[0]
    return Taken(f"{_XWORD_INSTRUCTION}\n\n{clue}", row["output"], answer.strip() or None)


def _olympiadbench(row: Row) -> Taken:
    """With the context that some physics questions refer to; s1's code forgets it."""
    question = "\n\n".join(filter(None, (row.get("context"), row["question"])))
    solutions = row["solution"] or [None]
    return Taken(question, solutions[0], as_text(row["final_answer"]), row["subject"])


def _aime(row: Row) -> Taken | None:
    """1983 to 2021, as the paper says; s1's code also keeps 2022, a year of its development set."""
    return Taken(row["Question"], None, as_text(row["Answer"])) if int(row["Year"]) <= 2021 else None


def _theoremqa(row: Row) -> Taken | None:
    return None if row["Picture"] is not None else Taken(row["Question"], None, as_text(row["Answer"]))


def _usaco(row: Row) -> Taken:
    return Taken(row["question"])


def _jeebench(row: Row) -> Taken:
    return Taken(row["question"], None, row["gold"], row["subject"])


def _gpqa(row: Row) -> Taken:
    """Four choices, shuffled by the question's own digest, and the letter at the solution's end."""
    choices = [row["Correct Answer"], *(row[f"Incorrect Answer {number}"] for number in (1, 2, 3))]
    choices = [choice.strip() for choice in choices]
    shuffled = list(choices)
    random.Random(question_id(row["Question"])).shuffle(shuffled)  # noqa: S311
    letter = "ABCD"[shuffled.index(choices[0])]
    options = "\n".join(f"{name}) {choice}" for name, choice in zip("ABCD", shuffled, strict=True))
    solution = f"{row['Explanation'].strip()}\n\nAnswer: {letter}"
    return Taken(f"{row['Question'].strip()}\n\n{options}", solution, letter, row["Subdomain"])


def _scieval(row: Row) -> Taken | None:
    if not row["answer"]:
        return None
    question = row["question"].partition("\n\nAnswer:")[0]
    for ending in _SCIEVAL_ENDINGS:
        question = question.replace(f"\nOptimal {ending}:", f"\nWhat is the optimal {ending}?")
    return Taken(question, None, row["answer"][0], row["category"])


def _own(row: Row) -> Taken:
    return Taken(row["question"], row["solution"], last_boxed(row["solution"] or ""))


def _livecodebench(row: Row) -> Taken | None:
    return Taken(row["question_content"]) if row["difficulty"] == "hard" else None


def _teasers(row: Row) -> Taken:
    return Taken(row["Question"], None, as_text(row["Answer"]))


def _plain(row: Row) -> Taken:
    return Taken(row["problem"], row["solution"], as_text(row["answer"]))


def _draw_crosswords(taken: list[tuple[Row, Taken]], stream: random.Random) -> list[tuple[Row, Taken]]:
    return stream.sample(taken, min(_XWORD_QUESTIONS, len(taken)))


def _draw_spread(taken: list[tuple[Row, Taken]], stream: random.Random) -> list[tuple[Row, Taken]]:
    """As many from every category, task and topic as there are, in turns."""
    groups: dict[tuple[str, ...], list[tuple[Row, Taken]]] = defaultdict(list)
    for row, kept in taken:
        groups[tuple(str(row.get(name)) for name in ("category", "task_name", "topic"))].append((row, kept))
    for group in groups.values():
        stream.shuffle(group)
    drawn: list[tuple[Row, Taken]] = []
    while len(drawn) < _SCIEVAL_QUESTIONS and any(groups.values()):
        for name in sorted(groups):
            if groups[name] and len(drawn) < _SCIEVAL_QUESTIONS:
                drawn.append(groups[name].pop())
    return drawn


def _splits(
    dataset: str, splits: Iterable[str], configs: Iterable[str | None] = (None,), *, converted: bool = False
) -> tuple[Split, ...]:
    configs = tuple(configs)
    return tuple(Split(dataset, split, config, converted) for split in splits for config in configs)


_ARENA = ("Math", "Physics", "Chemistry", "Biology", "Geography", "Astronomy", "CS")
_AGIEVAL = ("sat_en", "sat_math", "lsat_ar", "lsat_lr", "lsat_rc", "logiqa", "aqua_rat", "math_agieval")
_BENCH = ("OE_TO_maths_en_COMP", "OE_TO_physics_en_COMP", "TP_TO_maths_en_COMP", "TP_TO_physics_en_COMP")
_LIVECODE = Split(
    "livecodebench/code_generation_lite",
    "test",
    json_files=("test.jsonl", "test2.jsonl", "test3.jsonl"),  # releases v1 to v3
)
_NUMINA_500 = Split("simplescaling/numinamath_500", "train")
_GPQA_DIAMOND = Split("Idavidrein/gpqa", "train", "gpqa_diamond")


S1_SOURCES: Mapping[str, HubSource] = {
    "numinamath": HubSource(
        _splits("AI-MO/NuminaMath-CoT", ["train"]),
        _numinamath,
        30_660,
        only=(_NUMINA_500, "problem", lambda row: row["source"] != "aops_forum"),
        question_column="problem",
    ),
    "math": HubSource(_splits("simplescaling/openaimath", ["train"]), _math, 11_999),
    "olympicarena": HubSource(_splits("GAIR/OlympicArena", ["test", "val"], _ARENA), _olympicarena, 4_250),
    "omnimath": HubSource(_splits("KbsdJames/Omni-MATH", ["test"]), _omnimath, 4_238),
    "agieval": HubSource(
        _splits("baber/agieval", ["test", "few_shot"], _AGIEVAL, converted=True), _agieval_any, 2_385
    ),
    "xword": HubSource(_splits("0xharib/xword1", ["train"]), _xword, 999, draw=_draw_crosswords),
    "olympiadbench": HubSource(_splits("Hothan/OlympiadBench", ["train"], _BENCH), _olympiadbench, 896),
    "aime": HubSource(_splits("qq8933/AIME_1983_2024", ["train"]), _aime, 890),
    "theoremqa": HubSource(_splits("TIGER-Lab/TheoremQA", ["test"]), _theoremqa, 747),
    "usaco": HubSource(_splits("codegenning/usacobench_formatted", ["test"]), _usaco, 519),
    "jeebench": HubSource(_splits("daman1209arora/jeebench", ["test"]), _jeebench, 515),
    "gpqa": HubSource(
        _splits("Idavidrein/gpqa", ["train"], ["gpqa_extended"]),
        _gpqa,
        348,
        without=(_GPQA_DIAMOND, "Question"),
        question_column="Question",
    ),
    "scieval": HubSource(
        _splits("OpenDFM/SciEval", ["test", "validation"]), _scieval, 227, draw=_draw_spread
    ),
    "s1-prob": HubSource(_splits("simplescaling/s1-prob", ["train"]), _own, 182),
    "livecodebench": HubSource((_LIVECODE,), _livecodebench, 151),
    "s1-teasers": HubSource(_splits("simplescaling/s1-teasers", ["train"]), _teasers, 23),
}

BENCHMARKS: Mapping[str, HubSource] = {
    "math500": HubSource(_splits("simplescaling/openaimath", ["test"]), _math, 500),
    "gpqa-diamond": HubSource((_GPQA_DIAMOND,), _gpqa, 198),
    "aimo-aime": HubSource(_splits("AI-MO/aimo-validation-aime", ["train"]), _plain, 90),
}
"""What s1 keeps its pool clean of: MATH500, GPQA Diamond, and AIME 2022 to 2024."""

HUB_SOURCES: Mapping[str, HubSource] = {**S1_SOURCES, **BENCHMARKS}
