"""Made-up rows for every data set that `hub:` sources read, with the columns of the real ones."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

Row = dict[str, Any]


def _arena(subject: str, number: int, **other: Any) -> Row:
    row = {
        "id": f"{subject}_{number}",
        "problem": f"State the law number {number} of {subject} that was tested at the olympiad.",
        "prompt": "You are a student at an olympiad.",
        "figure_urls": None,
        "answer": ["42"],
        "answer_type": "NV",
        "unit": None,
        "answer_sequence": None,
        "type_sequence": None,
        "test_cases": None,
        "subject": subject,
        "language": "EN",
        "modality": "text-only",
        "solution": f"By law {number} it is 42.",
    }
    return {**row, **other}


def _bench(number: int, kind: str, subject: str, **other: Any) -> Row:
    row = {
        "id": number,
        "question": f"A rod of length {number} rests on two supports; find its reaction forces.",
        "solution": [f"Both forces are {number}.", "Another way gives the same."],
        "final_answer": [str(number)],
        "context": None,
        "image_1": None,
        "modality": "Text-only",
        "difficulty": "Competition",
        "is_multiple_answer": False,
        "unit": None,
        "answer_type": "Numerical",
        "error": None,
        "question_type": kind,
        "subfield": "Mechanics",
        "subject": subject,
        "language": "English",
    }
    return {**row, **other}


def _agieval(number: int, **other: Any) -> Row:
    row = {
        "passage": f"Passage {number} speaks of seven sailors.",
        "question": f"Which claim follows from passage {number}?",
        "options": ["(A) All sail", "(B) None sails", "(C) Some sail", "(D) One sails"],
        "label": "C",
        "answer": None,
        "solution": f"Passage {number} says so.",
        "level": None,
    }
    return {**row, **other}


def _gpqa(number: int) -> Row:
    return {
        "Record ID": f"rec{number}",
        "Question": f"Which particle of kind {number} is emitted?\n",
        "Correct Answer": f"the right one {number}\n",
        "Incorrect Answer 1": "an electron",
        "Incorrect Answer 2": "a photon",
        "Incorrect Answer 3": "a muon",
        "Explanation": f"Conservation law {number} decides.",
        "High-level domain": "Physics",
        "Subdomain": "High-energy particle physics",
    }


def _scieval(number: int, **other: Any) -> Row:
    row = {
        "question": f"What is transported across membrane {number}?\n\nA. Glucose\nB. Protons\n\nAnswer:",
        "answer": ["B"],
        "type": "multiple-choice",
        "category": "Biology",
        "topic": f"topic {number % 3}",
        "ability": "Base Knowledge",
        "id": str(number),
        "task_name": "SocraticQA",
    }
    return {**row, **other}


_EMPTY_AGIEVAL = ("sat_en", "lsat_ar", "lsat_lr", "lsat_rc", "logiqa")
_SAMPLES: dict[str, list[Row]] = {
    "AI-MO/NuminaMath-CoT/train": [
        {"source": "aops_forum", "problem": "Prove it.", "solution": "So \\boxed{7}.", "messages": []},
        {"source": "olympiads", "problem": "Chosen one.", "solution": "It is 8.", "messages": []},
        {"source": "cn_k12", "problem": "Not chosen.", "solution": "It is 9.", "messages": []},
    ],
    "simplescaling/numinamath_500/train": [{"problem": "Chosen one.", "solution": "It is 8."}],
    "simplescaling/openaimath/train": [
        {
            "problem": "Compute $1+1$.",
            "solution": "It is $\\boxed{2}$.",
            "answer": "2",
            "subject": "Algebra",
            "level": 1,
            "unique_id": "train/algebra/1.json",
        }
    ],
    "simplescaling/openaimath/test": [
        {
            "problem": "Compute $2+2$.",
            "solution": "It is $\\boxed{4}$.",
            "answer": "4",
            "subject": "Algebra",
            "level": 1,
            "unique_id": "test/algebra/1.json",
        }
    ],
    **{
        f"GAIR/OlympicArena/{subject}/{split}": [_arena(subject, number)]
        for number, split in enumerate(("test", "val"))
        for subject in ("Math", "Physics", "Chemistry", "Biology", "Geography", "Astronomy")
    },
    "GAIR/OlympicArena/CS/test": [_arena("CS", 1, language="ZH")],
    "GAIR/OlympicArena/CS/val": [_arena("CS", 2, modality="multi-modal")],
    "KbsdJames/Omni-MATH/test": [
        {
            "domain": ["Mathematics -> Algebra -> Equations"],
            "difficulty": 8.0,
            "problem": "Find all functions.",
            "solution": "Only the identity.",
            "answer": "f(x)=x",
            "source": "imo_shortlist",
        }
    ],
    **{
        f"baber/agieval/{config}/{split}": [_agieval(10 * at + number)]
        for at, config in enumerate(_EMPTY_AGIEVAL)
        for number, split in enumerate(("test", "few_shot"))
    },
    "baber/agieval/sat_math/test": [_agieval(90, passage=None)],
    "baber/agieval/sat_math/few_shot": [_agieval(91, passage="")],
    "baber/agieval/aqua_rat/test": [_agieval(92, passage=None)],
    "baber/agieval/aqua_rat/few_shot": [_agieval(93, passage=None)],
    "baber/agieval/math_agieval/test": [
        _agieval(94, passage=None, options=None, label=None, answer="12", level=5),
        _agieval(95, passage=None, options=None, label=None, answer="13", level=4),
    ],
    "baber/agieval/math_agieval/few_shot": [
        _agieval(96, passage=None, options=None, label=None, answer="14", level=5)
    ],
    "0xharib/xword1/train": [
        {
            "instruction": "You are an expert level solver of cryptic crosswords.",
            "input": "### Clue: Quick deer lost its tail (4)",
            "output": "### Answer: \nFAST\n### Explanation: \nDefinition: quick",
        }
    ],
    "Hothan/OlympiadBench/OE_TO_maths_en_COMP/train": [_bench(3, "Open-ended", "Math")],
    "Hothan/OlympiadBench/OE_TO_physics_en_COMP/train": [
        _bench(4, "Open-ended", "Physics", context="A rod is light.")
    ],
    "Hothan/OlympiadBench/TP_TO_maths_en_COMP/train": [
        _bench(5, "Theorem proof", "Math", final_answer=None, answer_type=None)
    ],
    "Hothan/OlympiadBench/TP_TO_physics_en_COMP/train": [_bench(6, "Theorem proof", "Physics")],
    "qq8933/AIME_1983_2024/train": [
        {
            "ID": f"{year}-1",
            "Year": year,
            "Problem Number": 1,
            "Question": f"Find the remainder of the year {year}.",
            "Answer": "60",
            "Part": None,
        }
        for year in (1983, 2021, 2022, 2024)
    ],
    "TIGER-Lab/TheoremQA/test": [
        {"Question": "How many ways are there?", "Answer": "6", "Answer_type": "integer", "Picture": None},
        {"Question": "What is shown?", "Answer": "1", "Answer_type": "integer", "Picture": {"path": "a.png"}},
    ],
    "codegenning/usacobench_formatted/test": [
        {
            "id": "84_bronze",
            "question": " Farmer John counts his cows. ",
            "difficulty": "bronze",
            "input_output": "{}",
        }
    ],
    "daman1209arora/jeebench/test": [
        {
            "subject": "chem",
            "description": "JEE Adv 2016 Paper 1",
            "gold": "ABD",
            "index": 1,
            "type": "MCQ(multiple)",
            "question": "Which oxides are amphoteric? (A) … (B) … (C) … (D) …",
        }
    ],
    "Idavidrein/gpqa/gpqa_extended/train": [_gpqa(number) for number in range(8)],
    "Idavidrein/gpqa/gpqa_diamond/train": [_gpqa(number) for number in range(2)],
    "OpenDFM/SciEval/test": [_scieval(number, answer=None) for number in range(3)],
    "OpenDFM/SciEval/validation": [
        *(_scieval(number) for number in range(10, 300)),
        _scieval(
            300,
            category="Chemistry",
            task_name="reagent selection",
            question="Solvent list for selection:\nC1CCOC1,CN(C)C=O\nOptimal solvent:",
            answer=["CN(C)C=O"],
        ),
    ],
    "simplescaling/s1-prob/train": [
        {"question": "Let $X_n$ be a martingale.", "solution": "It converges to $\\boxed{0}$."}
    ],
    "livecodebench/code_generation_lite/test": [
        {
            "question_title": f"Task {difficulty}",
            "question_content": f"Read n and print the {difficulty} sum.",
            "platform": "atcoder",
            "question_id": f"abc{difficulty}",
            "contest_id": "abc",
            "contest_date": "2023-08-21T00:00:00",
            "starter_code": "",
            "difficulty": difficulty,
            "public_test_cases": "[]",
            "private_test_cases": "",
            "metadata": "{}",
        }
        for difficulty in ("easy", "medium", "hard")
    ],
    "simplescaling/s1-teasers/train": [{"Question": " How many coins must be weighed? ", "Answer": "3"}],
    "AI-MO/aimo-validation-aime/train": [
        {"id": 0, "problem": "Find the walk's minutes.", "solution": "204.", "answer": "204", "url": "x"}
    ],
}


def write_hub(folder: Path) -> Path:
    """The samples as a folder for --hub-dir."""
    for name, rows in _SAMPLES.items():
        path = folder / f"{name}.jsonl"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return folder
