"""Made-up question files in six schemas that public test sets use; every question has words of its own."""

from __future__ import annotations

import json
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

Row = dict[str, Any]
_WORDS = [
    "amber",
    "anchor",
    "basket",
    "beacon",
    "canyon",
    "carbon",
    "cedar",
    "cobalt",
    "copper",
    "coral",
    "cradle",
    "crystal",
    "dancer",
    "delta",
    "desert",
    "dragon",
    "ember",
    "engine",
    "falcon",
    "fiddle",
    "forest",
    "garnet",
    "glacier",
    "granite",
    "harbor",
    "helmet",
    "hollow",
    "island",
    "ivory",
    "jasper",
    "jungle",
    "kernel",
    "ladder",
    "lantern",
    "lemon",
    "magnet",
    "marble",
    "meadow",
    "mirror",
    "needle",
    "nickel",
    "orchard",
    "oyster",
    "paddle",
    "pepper",
    "pilot",
    "planet",
    "pocket",
    "quarry",
    "rabbit",
    "ribbon",
    "river",
    "saddle",
    "salmon",
    "shadow",
    "silver",
    "socket",
    "spider",
    "stable",
    "summit",
    "temple",
    "thunder",
    "timber",
    "tunnel",
    "turtle",
    "valley",
    "velvet",
    "violin",
    "walnut",
    "willow",
    "window",
    "winter",
    "yellow",
    "zephyr",
    "zipper",
]


def sentence(name: str, number: int, length: int = 14) -> str:
    """Words drawn from the name and number alone."""
    return " ".join(random.Random(f"{name}-{number}").choices(_WORDS, k=length))


def _amc(number: int) -> Row:
    text = f"Cities named {sentence('amc', number)} are ${number}$ miles apart. How far is it?"
    return {"id": number, "problem": text, "answer": float(number), "url": "https://x", "question": text}


def _aime(number: int) -> Row:
    text = f"Every morning {sentence('aime', number)} for a ${number}$-kilometer walk; find the minutes."
    return {
        "id": 60 + number,
        "problem": text,
        "question": text,
        "solution": f"So it is \\boxed{{{number}}}.",
        "answer": f"{number:03d}",
        "url": "https://x",
    }


def _gsm8k(number: int) -> Row:
    return {
        "question": f"Janet has {number} ducks, {sentence('gsm8k', number)}. How many eggs is that a day?",
        "answer": f"She has {number} * 2 = <<{number}*2={2 * number}>>{2 * number} eggs.\n#### {2 * number}",
        "idx": number,
    }


def _minerva(number: int) -> Row:
    return {
        "problem": f"A telescope near {sentence('minerva', number)} has ${number} \\mathrm{{~m}}$; see it.",
        "solution": f"It is\n\\[\ns=\\boxed{{{number}.6}} \\mathrm{{~cm}}\n\\]",
        "type": ("Introduction to Astronomy", "Differential Equations")[number % 2],
        "idx": number,
    }


def _olympiad(number: int) -> Row:
    return {
        "id": 1600 + number,
        "subfield": ("Combinatorics", "Algebra", "Geometry")[number % 3],
        "context": None,
        "question": f"Determine all integers $n>{number}$ for which {sentence('olympiad', number)} holds.",
        "solution": [
            f"There is one such integer, ${number + 1}$: {sentence('proof', number, 10 + 5 * number)}."
        ],
        "final_answer": [str(number + 1)],
        "is_multiple_answer": False,
        "unit": None,
        "answer_type": "Numerical",
        "error": None,
    }


def _college(number: int) -> Row:
    return {
        "data_source": "college_math.Beginning_and_Intermediate_Algebra",
        "question_number": f"exercise.{number}",
        "question": f"Simplify for the {sentence('college', number)}: $-{number}-4(n-5)$",
        "answer": f"${20 - number}-4 n$",
        "license": "CC BY 3.0",
        "data_topic": ("college_math.algebra", "college_math.calculus")[number % 2],
    }


SCHEMAS: dict[str, Callable[[int], Row]] = {
    "amc23": _amc,
    "gsm8k": _gsm8k,
    "minerva_math": _minerva,
    "olympiadbench": _olympiad,
    "college_math": _college,
    "aime24": _aime,
}
BENCHMARK = "aime24"


def write_jsonl(path: Path, rows: list[Row]) -> Path:
    path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")
    return path


def write_question_files(folder: Path, rows_per_schema: int = 12) -> list[Path]:
    """The six files; the benchmark, which is the last, shares no words in a row with the others."""
    return [
        write_jsonl(folder / f"{name}.jsonl", [make(number) for number in range(1, rows_per_schema + 1)])
        for name, make in SCHEMAS.items()
    ]
