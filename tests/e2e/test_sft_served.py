"""From the command to the served model: `s1 sft`, then `s1 serve` on what it wrote, with budgets held."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from openai import OpenAI
from transformers import AutoTokenizer

from server.budget.families import FAMILIES
from server.budget.markers import marker_ids
from tests.support.engines import EXACT, Running, serving

pytestmark = pytest.mark.engine
pytest.importorskip("trl")

QUESTION = "Start at 4. a: +7 *3; b: -2 +9; c: *7 +5. Last digit?"


@pytest.fixture(scope="module")
def fine_tuned(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("sft") / "out"
    argv = [sys.executable, "-m", "server.cli", "sft", "--recipe", "smoke", "--out", str(out)]
    done = subprocess.run(argv, capture_output=True, text=True, env={**os.environ, "OMP_NUM_THREADS": "1"})
    assert done.returncode == 0, done.stderr
    assert f"s1 serve {out / 'model'}" in done.stderr
    return out / "model"


@pytest.fixture(scope="module")
def running(fine_tuned: Path) -> Iterator[Running]:
    """No family is named: the exported template says it."""
    with serving(fine_tuned.parent, *EXACT, name="fine-tuned", model=fine_tuned) as running:
        yield running


def test_what_was_fine_tuned_is_served_with_budgets_held(running: Running, fine_tuned: Path) -> None:
    ids = marker_ids(FAMILIES["s1"], AutoTokenizer.from_pretrained(fine_tuned), vocab_size=448)
    with OpenAI(base_url=f"{running.url}/v1", api_key="none", max_retries=0, timeout=120) as client:
        for maximum, waits in ((0, 0), (17, 0), (60, 4)):
            answer = client.chat.completions.create(
                model=running.model,
                messages=[{"role": "user", "content": QUESTION}],
                temperature=0,
                extra_body={"max_thinking_tokens": maximum, "num_waits": waits, "return_token_ids": True},
            )
            choice = answer.choices[0].model_dump()
            receipt, tokens = choice["thinking_budget"], tuple(choice["token_ids"])
            thinking = next(at for at in range(len(tokens)) if tokens[at : at + len(ids.end)] == ids.end)
            assert receipt["thinking_tokens"] == thinking == maximum
            assert receipt["ended_by"] == "max_thinking_tokens"
            assert choice["message"]["content"].strip().isdigit()
