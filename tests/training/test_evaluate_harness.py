"""The tasks for lm-evaluation-harness: their files name what exists, and ask and grade as we do."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml

from training.evaluate.benchmarks import DEMO, HUB_SPLITS, load_benchmark
from training.evaluate.harness import s1_tasks
from training.evaluate.suite import held_out_questions

FOLDER = Path(s1_tasks.__file__).parent


class _Loader(yaml.SafeLoader):
    """Reads `!function module.name` as that name, in the module beside the file."""


def _function(loader: yaml.SafeLoader, node: yaml.ScalarNode) -> Any:
    module, _, name = str(loader.construct_scalar(node)).rpartition(".")
    assert module == "s1_tasks"
    return getattr(s1_tasks, name)


_Loader.add_constructor("!function", _function)


def read_task(benchmark: str) -> dict[str, Any]:
    path = FOLDER / f"s1_{benchmark.replace('-', '_')}.yaml"
    task: dict[str, Any] = yaml.load(path.read_text(), _Loader)  # a SafeLoader with one more tag
    return task


@pytest.mark.parametrize("benchmark", [DEMO, *HUB_SPLITS])
def test_every_benchmark_has_a_task(benchmark: str) -> None:
    task = read_task(benchmark)
    assert task["metadata"]["benchmark"] == benchmark
    assert task["custom_dataset"] is s1_tasks.questions and task["process_results"] is s1_tasks.graded
    assert task["generation_kwargs"]["until"] == [], "nothing may end the thinking but the budget"
    limit = load_benchmark(DEMO, lambda _: [], limit=1).max_tokens if benchmark == DEMO else 32768
    assert task["generation_kwargs"]["max_gen_toks"] == limit


def test_a_task_asks_and_grades_as_we_do() -> None:
    task = read_task(DEMO)
    rows = task["custom_dataset"](**task["metadata"], limit=3)[task["test_split"]]
    assert [row["prompt"] for row in rows] == [question.text for question in held_out_questions(3)]
    first = rows[0]
    assert task["process_results"](first, [first["reference"]]) == {"correct": 1.0, "decided": 1.0}
    assert task["process_results"](first, [""])["correct"] == 0.0
    scores = {metric["metric"] for metric in task["metric_list"]}
    assert scores == set(task["process_results"](first, [""]))
