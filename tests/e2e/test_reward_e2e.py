"""The demo's reward model in vLLM's pooling runner, and what its methods make of the demo checkpoint."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from typing import Any

import httpx
import pytest
from openai import OpenAI

from tests.gateway.test_parallel_rebase import check_tree
from tests.support.engines import Running, gateway_only, metric, process_at

pytestmark = pytest.mark.engine

QUESTION = "Start at 0. a: *9 *9; b: *3 +2. Last digit?"
HARD = "Start at 4. a: +7 *3; b: -2 +9; c: *7 -4; d: +6 +8. Last digit?"
TAG = "<extra_0>"


@pytest.fixture(scope="module")
def reward(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    """`s1 reward` as users start it."""
    argv = [sys.executable, "-m", "server.cli", "reward"]
    log = tmp_path_factory.mktemp("reward") / "reward.log"
    with process_at(argv, log, engine_args=("--dtype", "float32")) as running:
        yield running


@pytest.fixture(scope="module")
def judged(
    served: Running, reward: Running, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[tuple[OpenAI, Running]]:
    options = ("--reward-url", reward.url, "--step-boundary", "\\n")
    with (
        gateway_only(tmp_path_factory.mktemp("judged"), served.engine_url, options=options) as running,
        OpenAI(base_url=f"{running.url}/v1", api_key="none", max_retries=0, timeout=240) as sdk,
    ):
        running.model = served.model
        yield sdk, running


def ask(sdk: OpenAI, model: str, seed: int, **parallel: Any) -> Any:
    return sdk.chat.completions.create(
        model=model,
        messages=[{"role": "user", "content": HARD}],
        seed=seed,
        temperature=0.7,
        max_completion_tokens=400,
        extra_body={"parallel": {"total_thinking_tokens": 8 * 64, "width": 8, **parallel}},
    )


def test_vllm_rates_every_step(reward: Running) -> None:
    right = ["a 0 *9 *9 = 0", "b 0 *3 +2 = 2", "So 2."]
    wrong = ["a 0 *9 *9 = 0", "b 0 *3 +2 = 7", "So 7."]
    scores = []
    for steps in (right, wrong):
        content = "".join(step + TAG for step in steps)
        messages = [{"role": "user", "content": QUESTION}, {"role": "assistant", "content": content}]
        model = reward.get("/v1/models")["data"][0]["id"]
        body = {"model": model, "messages": messages}
        answer = httpx.post(f"{reward.url}/pooling", json=body, timeout=60).json()
        rows = answer["data"][0]["data"]
        assert len(rows) == len(steps) and all(abs(sum(row) - 1) < 1e-3 for row in rows)
        scores.append([row[-1] for row in rows])
    assert abs(scores[0][0] - scores[1][0]) < 1e-3
    assert scores[0][2] > scores[1][2]


@pytest.mark.parametrize("method", ["best_of", "weighted_vote"])
def test_scores_choose(judged: tuple[OpenAI, Running], method: str) -> None:
    sdk, running = judged
    told = ask(sdk, running.model, 3, method=method).choices[0].parallel
    finished = [branch for branch in told["branches"] if "score" in branch]
    assert told["reward"]["calls"] >= len(finished) > 0
    if method == "best_of":
        assert len(finished) == 8 and told["decided_by"] == "score"
        answering = [branch["score"] for branch in finished if branch["answer"] is not None]
        assert told["branches"][told["chosen"]]["score"] == max(answering)
    else:
        same = [branch["score"] for branch in finished if branch["answer"] == told["answer"]]
        assert told["weight"] == pytest.approx(sum(same), abs=1e-4)


@pytest.mark.parametrize("seed", [1, 2])
def test_rebase_keeps_its_budget_by_the_engines_own_count(
    judged: tuple[OpenAI, Running], served: Running, seed: int
) -> None:
    sdk, running = judged
    before = metric(served.engine_url, "vllm:generation_tokens_total")
    got = ask(sdk, running.model, seed, method="rebase").model_dump()
    made = metric(served.engine_url, "vllm:generation_tokens_total") - before
    check_tree(got, total=8 * 64, width=8)
    told = got["choices"][0]["parallel"]
    # What the engine sampled: all but forced markers and newlines, with the marker tokens that ended steps.
    assert made <= got["usage"]["completion_tokens"] + len(told["branches"])
    assert told["reward"]["calls"] == sum("score" in node for node in told["tree"])
    again = ask(sdk, running.model, seed, method="rebase").model_dump()["choices"][0]["parallel"]
    assert [node["text"] for node in again["tree"]] == [node["text"] for node in told["tree"]]
